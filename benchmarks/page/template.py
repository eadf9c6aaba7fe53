"""The templates of pages: what records say is text everywhere, escaped and visible."""

from __future__ import annotations

from importlib import resources

import jinja2
from markupsafe import Markup

from benchmarks.records.plain import visible

__all__ = ["own_text", "page_template"]


def page_template(name: str) -> jinja2.Template:
    """A template of this folder, by its file's name."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_seen
    )
    return environment.from_string(_read(name))


def own_text(*names: str) -> Markup:
    """Files of this folder or of the library in it: the only texts that are not escaped."""
    return Markup("\n".join(map(_read, names)))


def _read(name: str) -> str:
    return resources.files("benchmarks.page").joinpath(name).read_text("utf-8")


def _seen(value: object) -> object:
    """Texts with invisible characters as their escapes; anything else unchanged."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(map(visible, value.split("\n")))
