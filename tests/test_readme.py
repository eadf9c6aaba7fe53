"""What the README says is what the records and the modules say."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

import zoo
from benchmarks.analysis.comparison import compare
from benchmarks.analysis.findings import Findings
from benchmarks.figures.all_figures import digest_of, figures_of, plotted
from benchmarks.page.renew import special_tables
from benchmarks.records.join import read_results
from benchmarks.records.record import Record
from benchmarks.tables.cards import methods_table
from benchmarks.tables.finding_table import finding_table
from benchmarks.tables.marked_blocks import block_of
from benchmarks.tables.tables import to_csv, to_latex, to_markdown, to_short_markdown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


RENEW = "stale; renew it with: zoo report --results results/{} --readme README.md"


@cache
def records_of(folder: str) -> list[Record]:
    """Published records with their times, read once for all tests."""
    records, unread = read_results(ROOT / "results" / folder)
    assert records and not unread
    return records


@cache
def findings_of(folder: str) -> Findings:
    """What the reports of published records show, worked out once for all tests."""
    return Findings.of(records_of(folder))


def test_result_table_is_the_one_of_the_published_records() -> None:
    shown = finding_table(compare(records_of("fashion")))
    assert block_of(README, "finding").strip() == shown.strip() != "", RENEW.format("fashion")


@pytest.mark.parametrize("name", ["quick", "fashion"])
def test_tables_are_those_of_the_published_records(name: str) -> None:
    comparisons, renew = compare(records_of(name)), RENEW.format(name)
    tables = {
        "results.md": to_markdown(comparisons),
        "results.csv": to_csv(comparisons),
        "results.tex": to_latex(comparisons),
        **{
            f"{special}.md": text
            for special, make in special_tables(findings_of(name)).items()
            if (text := make())
        },
    }
    folder = ROOT / "results" / name / "tables"
    assert {path.name for path in folder.iterdir()} == set(tables), renew
    for file, text in tables.items():
        assert (folder / file).read_text("utf-8") == text, f"{file} is {renew}"


DRAWN = sorted(ROOT.glob("results/*/figures"))
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("folder", DRAWN, ids=lambda path: path.parent.name)
def test_figures_are_those_of_the_records_beside_them(folder: Path) -> None:
    figures = figures_of(findings_of(folder.parent.name))
    renew = f"stale; renew it with: zoo report --results results/{folder.parent.name}"
    assert {path.stem for path in folder.iterdir()} == set(figures), renew
    for name, draw in figures.items():
        assert digest_of(folder / f"{name}.png") == plotted(draw()), f"{name}.png is {renew}"


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_pictures_that_a_text_shows_are_there(text: Path) -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text.read_text("utf-8")):
        assert (text.parent / path).is_file()


@pytest.mark.parametrize(
    ("page", "folder", "names"),
    [
        ("bnp", "bnp-ablation", ["ablation", "ranking"]),
        ("bnp_headline", "bnp-headline", ["report"]),
        ("fashion", "fashion", ["standing", "report"]),
        ("cifar10_jpeg", "cifar10-cores", ["report"]),
        ("knapsack", "knapsack-ablation", ["ablation"]),
        ("stagewise", "ranking", ["ablation", "ranking"]),
        ("supernets", "ranking", ["supernets", "supernet-reach"]),
        ("supernets", "reference", ["supernet-sharing"]),
    ],
)
def test_pages_are_made_from_their_records(page: str, folder: str, names: list[str]) -> None:
    findings = findings_of(folder)
    tables = {**special_tables(findings), "report": lambda: to_short_markdown(findings.comparisons)}
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    renew = f"renew it with: zoo report --results results/{folder} --readme docs/{page}.md"
    for name in names:
        assert block_of(text, name).strip() == tables[name]().strip() != "", renew


def test_solvers_of_the_ablation_were_given_equal_score_tables() -> None:
    tables: dict[int, set[object]] = {}
    for record in records_of("bnp-ablation"):
        if record.cell.method == "bnp" and set(record.cell.settings) <= {"solver"}:
            tables.setdefault(record.cell.seed, set()).update(
                row["table"] for row in record.trace if row["step"] == "solve"
            )
    assert [len(found) for found in tables.values()] == [1, 1, 1]


def test_table_of_pruners_is_made_from_their_cards() -> None:
    assert block_of(README, "pruners").strip() == methods_table().strip()


def test_nobody_is_told_to_install_this_project_from_an_index_that_lacks_it() -> None:
    modules = [
        path for wing in ("zoo", "benchmarks", "baselines") for path in ROOT.glob(f"{wing}/**/*.py")
    ]
    told = {path: path.read_text("utf-8") for path in (*TEXTS, *modules)}
    assert not [path for path, text in told.items() if re.search("install '?pruning-zoo", text)]


def test_python_examples_run(tmp_path: Path) -> None:
    own = (ROOT / "docs" / "your_network.md").read_text("utf-8")
    snippets = re.findall(r"```python\n(.*?)```", README + own, flags=re.DOTALL)
    images = torch.randn(32, 3, 32, 32)
    loader = DataLoader(TensorDataset(images, torch.arange(32) % 4), batch_size=16)
    model = timm.create_model("resnet18", num_classes=4)
    zoo.recalibrate(model, [images])  # stands in for training: the teacher's features are finite
    names = {
        "model": model,
        "train_loader": loader,
        "val_loader": loader,
    }
    assert len(snippets) == 4
    for snippet in snippets:
        code = snippet.replace('"pruned"', repr(str(tmp_path / "pruned")))
        exec(compile(code, "README.md", "exec"), names)
