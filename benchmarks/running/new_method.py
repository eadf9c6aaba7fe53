"""Write a pruner that works and its test, to be changed into one's own."""

import importlib.util
import keyword
from importlib import resources
from pathlib import Path

import jinja2

from benchmarks.records.whole_file import write_new
from zoo.core.method.discovery import list_pruners

__all__ = ["write_method"]


def write_method(name: str, folder: Path) -> list[str]:
    """Write `name.py` and `test_name.py`; nothing is written over.

    Args:
        name: of the method, its module and its class.
        folder: where both are to be; made if it does not exist.

    Returns:
        What was written and what to do next, in lines.

    Raises:
        ValueError: if the name is none for a module, or is taken.
        FileExistsError: if one of the files exists.
        OSError: if they cannot be written.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(
            f"{name!r} is no name for a module; give lower-case letters, digits and underscores, "
            "such as my_pruner"
        )
    cls = "".join(part.capitalize() for part in name.split("_"))
    title = name.replace("_", " ").strip().capitalize()
    files = {folder / f"{name}.py": "method.py.j2", folder / f"test_{name}.py": "method_test.py.j2"}
    for path in files:
        if path.exists():
            raise FileExistsError(f"{path} exists; choose another name or another --out")
    _refuse_taken(name)
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in files.items():
        text = resources.files(__package__).joinpath(template).read_text("utf-8")
        made = jinja2.Template(text, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        write_new(path, made.render(name=name, cls=cls, title=title))
    module, test = files
    return [
        f"wrote {module} and {test}; they work as they are. Next:",
        f"  zoo check {module}",
        f"  pytest {test}",
        f"  zoo prune resnet20_cifar --method {module}:{cls}",
    ]


def _refuse_taken(name: str) -> None:
    """Refuse a name that stands for something else already.

    Raises:
        ValueError: if it is a pruner's or a module's, which a file of that name would hide.
    """
    if name in list_pruners():
        raise ValueError(
            f"{name!r} is a pruner already, see zoo list; choose another name, such as my_{name}"
        )
    if importlib.util.find_spec(name) is not None:
        raise ValueError(
            f"{name!r} is a module of Python's or of a package, which {name}.py would hide from "
            f"programs that run beside it; choose another name, such as my_{name}"
        )
