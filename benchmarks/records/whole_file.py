"""The library's one way to write files, for the modules here that do without torch.

`import zoo` brings torch along, and tables and figures are to be drawn where there is none. So the
file is run from where it lies; it imports the standard library only.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

__all__ = ["probe", "sweep", "whole_file", "write_new", "write_whole"]

if TYPE_CHECKING:
    from zoo.core.whole_file import probe, sweep, whole_file, write_new, write_whole
else:
    _zoo = importlib.util.find_spec("zoo")  # finds, but does not import
    _place = Path(_zoo.origin).parent / "core" / "whole_file.py"
    _spec = importlib.util.spec_from_file_location("benchmarks._whole_file", _place)
    _layer = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_layer)
    probe, sweep = _layer.probe, _layer.sweep
    whole_file, write_new, write_whole = _layer.whole_file, _layer.write_new, _layer.write_whole
