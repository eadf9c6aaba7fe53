"""What a report prints of a part of a folder: what the whole folder says of it."""

import io

from rich.console import Console

from benchmarks.page.report import write_report
from benchmarks.records.cell import Model
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.records.files import write_record
from tests.benchmarks.fabricate import cell, record

NAMED = Primary(contrast=Contrast(method="taylor", budget=0.5), metric="macs", seeds=(0, 1, 2))
ROWS = {"taylor": (0.53, 0.635, 0.73), "uniform": (0.50, 0.60, 0.70)}


def test_what_is_printed_of_some_cells_is_what_the_tables_of_the_folder_say(tmp_path):
    records = [
        record(cell=cell(method, 0.5, seed, model=Model(name=name)), top1=top1, primary=(NAMED,))
        for name in ("one", "other", "third")
        for method, row in ROWS.items()
        for seed, top1 in enumerate(row)
    ]
    for each in records:
        write_record(tmp_path / "records", each)
    # Of one network, and of two of three seeds: as a run asks that is to do these alone.
    mine = [each.cell for each in records if each.cell.model.name == "one"]
    keys = {asked.key for asked in mine if asked.seed < 2}
    out = io.StringIO()
    write_report(Console(file=out, width=200, emoji=False), tmp_path, keys)
    printed = out.getvalue()
    told = [line for line in printed.splitlines() if line.startswith("Primary contrast")]
    written = (tmp_path / "tables" / "results.md").read_text()
    assert len(told) == 1 and f"{told[0]}\n" in written.replace("\\", "")
    assert "other on digits" not in printed and "one on digits" in printed
    assert "58.2" not in printed and "63.2" in printed  # the mean is that of all three seeds
