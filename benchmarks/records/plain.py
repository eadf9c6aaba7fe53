"""Texts of records as plain text in every form of output: terminal, Markdown, HTML, CSV, LaTeX.

A record may come from a stranger, and a message from any program. Whatever its text holds, it is
shown as it is and does nothing: it starts no line, colours no terminal, ends no table, is no link,
no formula and no command. Imports neither torch nor zoo.
"""

import html
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from rich.markup import escape
from rich.text import Text

__all__ = [
    "asked_budget",
    "counted",
    "figure_text",
    "first_sentence",
    "in_cell",
    "in_csv",
    "in_html",
    "in_markdown",
    "in_markup",
    "in_tex",
    "told_budget",
    "visible",
    "without_folders",
]

LINE = 200
"""Characters of one text in a terminal."""

FIGURE = 80
"""Characters of a title in a figure."""

TEX = {
    **{character: f"\\{character}" for character in "%_&#${}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "–": "--", "<": r"$<$", ">": r"$>$"},
    **{"|": r"\textbar{}", "`": r"\textasciigrave{}"},
}
"""What stands for a character in LaTeX."""

LAST_IN_TEX = "\u017f"
"""Behind it no letter is known to pdflatex without further packages."""

FORMULA = ("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
           "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
"""Beginnings from which spreadsheets compute."""

# Brackets as those of an interval mean nothing before they are followed by an address.
_MARKDOWN = re.compile(r"[\\`*~$|]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"(://)|(\bwww)\.", re.IGNORECASE)

# An absolute path begins where no word, path or address goes on: "a/b", "1/2" and "http://x" stay.
_START = r"(?<![\w.~/\\-])(?!(?<=:)//)"
_ROOT = r"(?:file:/*(?=/)|~[\w.-]*(?=[\\/])|[A-Za-z]:(?=[\\/])|(?=/|\\\\+[\w.$-]+\\))"
_QUOTED = re.compile(rf"(?P<quote>['\"`])(?P<path>{_ROOT}[\\/][^'\"`\n]*)(?P=quote)")
_BARE = re.compile(rf"{_START}(?P<path>{_ROOT}[\\/](?![\s\\/]*(?:\s|$))[^\s'\"`,;:()<>\[\]]*)")
_HOMES = ("home", "users", "root")


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, on one line."""
    return " ".join(text.split()).split(". ")[0].rstrip(".").replace("|", "/")


def counted(number: int, what: str) -> str:
    """A number of things: "1 cell", "2 cells".

    Args:
        number: how many.
        what: one of them; its last word takes an s.
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def asked_budget(budget: float) -> str:
    """A budget as it was asked for: a ratio or milliseconds in short, a count with all digits."""
    return f"{budget:g}" if isinstance(budget, float) else f"{budget:,}"


def told_budget(budget: float, metric: str) -> str:
    """A budget as it was asked for, with its metric: "0.5 of macs", "90,000 params", "5 ms"."""
    if metric == "latency_ms":
        return f"{asked_budget(budget)} ms"
    of = "of " if isinstance(budget, float) else ""
    return f"{asked_budget(budget)} {of}{metric}"


def visible(text: str, limit: int | None = None) -> str:
    """One line of a text: control, direction and invisible characters by their escapes.

    Args:
        text: any.
        limit: characters that are shown at most; of a longer text, beginning and end.
    """
    shown = text if limit is None or len(text) <= limit else _shortened(text, limit)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def in_cell(text: str, limit: int = LINE) -> Text:
    """For rich's tables: no markup, no emoji."""
    return Text(visible(text, limit))


def in_markup(text: str, limit: int = LINE) -> str:
    """Inside rich's markup; the console must not replace emoji codes."""
    return escape(visible(text, limit))


def figure_text(text: str, limit: int = FIGURE) -> str:
    """A name in a figure; what TeX would read is off there, see `benchmarks.figures.style`."""
    return visible(text, limit)


def in_html(text: str) -> str:
    """Text between tags."""
    return html.escape(visible(text), quote=False)


def in_markdown(text: str) -> str:
    """Text in a line of Markdown, in which no sign means anything; a table's cell or a heading."""
    marked = _MARKDOWN.sub(r"\\\g<0>", in_html(text))
    return _LINK.sub(lambda found: ":&#47;&#47;" if found[1] else f"{found[2]}&#46;", marked)


def in_csv(value: object) -> object:
    """A field that a spreadsheet shows and does not compute; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def in_tex(text: str) -> str:
    """Text in LaTeX; letters that pdflatex lacks are shown by their code points."""
    return "".join(_tex(character) for character in visible(text))


def without_folders(text: str) -> str:
    """A message with every absolute path, of any system, cut down to its last part.

    A home folder itself, whose name is a person's, becomes `~`.
    """
    text = text.replace(str(Path.home()), "~") if len(str(Path.home())) > 1 else text
    text = _QUOTED.sub(lambda found: found["quote"] + _last(found["path"]) + found["quote"], text)
    return _BARE.sub(lambda found: _last(found["path"]), text)


def _last(path: str) -> str:
    """The last part of a path; `~` for a home folder, the path itself where it has no part."""
    if path.lower().startswith("file:"):
        path = "/" + path[5:].lstrip("/")
    kind = PureWindowsPath if "\\" in path or path[1:2] == ":" else PurePosixPath
    pure = kind(path)
    parts = [part for part in pure.parts if part != pure.anchor]
    is_home = len(parts) <= 2 and parts[:1] and parts[0].lower() in _HOMES
    if is_home or (len(parts) == 1 and parts[0].startswith("~")):
        return "~"
    return pure.name or path


def _shortened(text: str, limit: int) -> str:
    tail = limit // 4
    return f"{text[: limit - tail - 3]}...{text[len(text) - tail :]}"


def _tex(character: str) -> str:
    if character in TEX:
        return TEX[character]
    return character if character <= LAST_IN_TEX else rf"\texttt{{U+{ord(character):04X}}}"
