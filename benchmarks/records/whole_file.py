"""The library's one way to write files, for the modules here that do without torch.

`import zoo` brings torch along, and tables and figures are to be drawn where there is none. So the
file is run from where it lies; it imports the standard library only.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

__all__ = [
    "is_gone",
    "probe",
    "require_writable",
    "sweep",
    "this_writer",
    "whole_file",
    "write_new",
    "write_whole",
]

if TYPE_CHECKING:
    from zoo.core.whole_file import (
        is_gone,
        probe,
        sweep,
        this_writer,
        whole_file,
        write_new,
        write_whole,
    )
else:
    _zoo = importlib.util.find_spec("zoo")  # finds, but does not import
    _place = Path(_zoo.origin).parent / "core" / "whole_file.py"
    _spec = importlib.util.spec_from_file_location("benchmarks._whole_file", _place)
    _layer = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_layer)
    is_gone, this_writer = _layer.is_gone, _layer.this_writer
    probe, sweep = _layer.probe, _layer.sweep
    whole_file, write_new, write_whole = _layer.whole_file, _layer.write_new, _layer.write_whole


def require_writable(folder: Path, option: str) -> None:
    """Refuse a folder that new files cannot be written into; it is made if it does not exist.

    Args:
        folder: what is needed.
        option: of the command line, that gives it.

    Raises:
        OSError: naming the folder and the way out.
    """
    try:
        probe(folder)
    except OSError as error:
        is_occupied = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in the way" if is_occupied else error.strerror
        raise OSError(
            f"files cannot be written to {folder} ({reason}); give another {option}"
        ) from error
