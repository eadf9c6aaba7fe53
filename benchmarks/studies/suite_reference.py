"""Every field of a suite file, as Markdown, made from the schema that suites are read with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.running.suite import Suite
from benchmarks.tables.markdown import Written, markdown_table

__all__ = ["suite_reference"]

Schema = Mapping[str, Any]  # Any: JSON

LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}", "minItems": "at least {} of them",
    "maxItems": "at most {} of them", "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
}  # fmt: skip

HEAD = """\
# Suite files

A suite is a TOML file; `zoo run path/to/suite.toml` runs it, and with `--dry-run` says what it
would cost. An unknown field is refused with the nearest names. This page is made from the schema
that suites are read with; [Suites](suites.md) shows those that come with the package.
"""


def suite_reference() -> str:
    """The page: the suite's own fields first, then the tables inside it."""
    schema = Suite.model_json_schema()
    inner = {name: each for name, each in schema["$defs"].items() if "properties" in each}
    parts = [HEAD, _section("Suite", schema)]
    parts += [_section(name, inner[name]) for name in sorted(inner)]
    return "\n".join(parts)


def _section(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (
            Written(f"`{field}`"),
            Written(_kind(each)),
            "required" if field in required else Written(f"`{json.dumps(each.get('default'))}`"),
            _limits(each),
        )
        for field, each in schema["properties"].items()
    ]
    table = markdown_table(("Field", "What it is", "Default", "Limits"), "llll", rows)
    return f"## {name}\n\n{schema.get('description', '')}\n\n{table}"


def _kind(schema: Schema) -> str:
    """The type in words, with a link to the table that a field is."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any value" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        return f"list of {_kind(items)}" if items else "list"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"table of {_kind(values)}" if isinstance(values, Mapping) else "table"
    names = {"null": "nothing", "string": "text", "boolean": "true or false"}
    kind = str(schema.get("type", "any value"))
    return names.get(kind, kind)


def _limits(schema: Schema) -> str:
    """Bounds of the value and, in brackets, of what a list holds."""
    own = [text.format(schema[key]) for key, text in LIMITS.items() if key in schema]
    for each in schema.get("anyOf", ()):
        own += [text for text in [_limits(each)] if text]
    items = schema.get("items")
    inner = _limits(items) if isinstance(items, Mapping) else ""
    return ", ".join([*own, *([f"each {inner}"] if inner else [])])
