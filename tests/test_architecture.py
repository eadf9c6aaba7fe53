"""The rules of the house that can be read off the source."""

import ast
import graphlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Data flows from the first to the last, and nothing imports from what stands after it. A name is a
# wing (a folder) or a file that belongs to none.
CORE_ORDER = (
    "errors",
    "arguments",
    "settings",
    "whole_file",
    "sealed",
    "progress",
    "child_process",
    "meter",
    "randomness",
    "data",
    "tracing",
    "training",
    "channels",
    "cost",
    "networks",
    "supernet",
    "method",
    "search",
    "one_shot",
    "contract",
    "first_batch",
    "preflight",
    "latency_check",
    "prune",
)
HARNESS_ORDER = (
    "suites",
    "records",
    "tracking",
    "measuring",
    "running",
    "analysis",
    "tables",
    "figures",
    "page",
    "studies",
    "options",
    "method_commands",
    "cli",
    "__main__",
)


def sources(folder: str) -> list[Path]:
    """The modules of a folder and of the folders in it, without `pytest-benchmark`'s tests."""
    found = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in found if not path.match("test_*.py")]


CORE = sources("zoo/core")
METHODS = sorted(path for path in (ROOT / "zoo").glob("*.py") if path.stem != "__init__")
BASELINES = [path for path in sources("baselines") if path.stem != "__init__"]
HARNESS = sources("benchmarks")
ALL = (*CORE, *METHODS, *BASELINES, *HARNESS)
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ALL}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements(node)


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs, at any depth."""
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def circle(needs: Mapping[str, set[str]]) -> Sequence[str]:
    """Names that need each other in a ring; empty if there is none."""
    try:
        list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        found: Sequence[str] = error.args[1]
        return found
    return ()


def upward(path: Path, package: str, order: Sequence[str]) -> list[str]:
    """Modules of a package that a file imports although they stand after it in the order."""
    depth = package.count(".") + 1

    def place(module: str) -> int:
        return order.index(module.split(".")[depth])

    here = place(".".join(path.relative_to(ROOT).with_suffix("").parts))
    ours = [name for name in imports(path) & FILES.keys() if name.startswith(f"{package}.")]
    return [name for name in ours if place(name) > here]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def calls(path: Path) -> set[str]:
    """What a file calls, as it is written there."""
    return {ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("files", [CORE, METHODS, BASELINES, HARNESS], ids=len)
def test_there_are_files_to_look_at(files: list[Path]) -> None:
    assert len(files) >= 4


@pytest.mark.parametrize(
    ("folder", "order"), [("zoo/core", CORE_ORDER), ("benchmarks", HARNESS_ORDER)]
)
def test_every_wing_has_its_place_in_the_order(folder: str, order: Sequence[str]) -> None:
    below = {path.relative_to(ROOT / folder).parts[0] for path in sources(folder)}
    assert {name.removesuffix(".py") for name in below} - {"__init__"} == set(order)


@pytest.mark.parametrize(
    ("files", "package", "order"),
    [(CORE, "zoo.core", CORE_ORDER), (HARNESS, "benchmarks", HARNESS_ORDER)],
)
def test_nothing_imports_upward(files: list[Path], package: str, order: Sequence[str]) -> None:
    root = ROOT / package.replace(".", "/") / "__init__.py"
    found = {label(path): upward(path, package, order) for path in files if path != root}
    assert not {name: modules for name, modules in found.items() if modules}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circle({name: imports(path) & FILES.keys() for name, path in FILES.items()})


def test_every_folder_is_a_wing_that_says_its_purpose_and_nothing_else() -> None:
    for folder in {path.parent for path in (*CORE, *HARNESS)}:
        (purpose,) = parsed(folder / "__init__.py").body
        assert isinstance(purpose, ast.Expr) and ast.get_docstring(parsed(folder / "__init__.py"))


def test_the_map_for_newcomers_says_what_wings_and_files_say() -> None:
    lines = []
    for folder, order in (("zoo/core", CORE_ORDER), ("benchmarks", HARNESS_ORDER)):
        for name in order:
            wing = ROOT / folder / name
            path = wing / "__init__.py" if wing.is_dir() else wing.with_suffix(".py")
            purpose = (ast.get_docstring(parsed(path)) or "").splitlines()[0]
            lines.append(f"- `{label(wing if wing.is_dir() else path)}`: {purpose}")
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert [line for line in text.splitlines() if line.startswith("- `")] == lines


def test_core_knows_no_method_and_no_harness() -> None:
    outside = {
        label(path): name
        for path in CORE
        for name in imports(path)
        if name.split(".")[0] in ("zoo", "baselines", "benchmarks")
        and not name.startswith("zoo.core")
    }
    assert not outside


def test_no_method_imports_another_or_the_harness() -> None:
    for path in (*METHODS, *BASELINES):
        ours = [n for n in imports(path) if n.split(".")[0] in ("zoo", "baselines", "benchmarks")]
        assert all(name.startswith("zoo.core") for name in ours), label(path)


READERS = ("records", "analysis", "tables", "figures", "page")
"""Wings that look at records and at nothing else: neither torch nor the library."""

LIBRARY = {"benchmarks/tables/cards.py": ("zoo.core.method.",)}
"""What such a module may take from the library all the same: the cards of the methods."""


def test_tables_and_figures_read_records_only() -> None:
    foreign = ("torch", "torchvision", "timm", "zoo", "baselines")
    for path in (path for wing in READERS for path in sources(f"benchmarks/{wing}")):
        allowed = LIBRARY.get(label(path), ())
        found = [name for name in imports(path) if name.split(".")[0] in foreign]
        assert not [name for name in found if not name.startswith(allowed)], label(path)
        assert not [n for n in imports(path) if n.startswith("benchmarks.running")], label(path)


def test_no_module_is_a_drawer() -> None:
    drawers = ("util", "utils", "helper", "helpers", "common", "misc")
    assert not [label(path) for path in ALL if path.stem in drawers]


def test_library_prints_nothing() -> None:
    assert not [label(path) for path in (*CORE, *METHODS, *BASELINES) if "print" in calls(path)]


def test_public_things_have_docstrings() -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for path in ALL:
        tree = parsed(path)
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        inside = chain.from_iterable(node.body for node in classes)
        named = [node for node in chain(tree.body, inside) if isinstance(node, kinds)]
        bare = [n.name for n in named if n.name[0] != "_" and not ast.get_docstring(n)]
        assert ast.get_docstring(tree) and not bare, f"{label(path)}: {bare}"


def test_files_stay_below_500_lines() -> None:
    assert not [label(path) for path in ALL if len(path.read_text().splitlines()) >= 500]


def test_functions_stay_below_70_lines() -> None:
    long = [
        f"{label(path)}: {node.name}"
        for path in ALL
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef) and length(node, label(path)) >= 70
    ]
    assert not long


MANUALS = {"zoo/core/prune.py": "prune"}
"""A function whose docstring is the manual of the library: its code alone counts."""


def length(node: ast.FunctionDef, path: str) -> int:
    """Lines of a function after its first."""
    lines = (node.end_lineno or 0) - node.lineno
    if MANUALS.get(path) == node.name:
        lines -= len((ast.get_docstring(node, clean=False) or "").splitlines())
    return lines


def test_nobody_seeds_or_draws_globally() -> None:
    allowed = {"np.random.default_rng", "np.random.SeedSequence", "np.random.get_state",
               "np.random.set_state", "torch.random.fork_rng"}  # fmt: skip
    # Where generators are put to a fixed state and back again.
    keepers = {
        "zoo/core/randomness.py": {"np.random.seed"},
        "zoo/core/contract/trial.py": {"torch.manual_seed"},
    }
    for path in (*CORE, *METHODS, *BASELINES):
        names = calls(path)
        drawn = {n for n in names if n.startswith(("np.random.", "torch.random."))}
        drawn |= names & {"torch.manual_seed", "torch.seed", "random.random", "random.shuffle"}
        assert drawn <= allowed | keepers.get(label(path), set()), label(path)


WRITES = {
    "write_text", "write_bytes", "savefig", "save_file", "save_model",
    "tofile", "savetxt", "touch", "symlink_to", "hardlink_to",
    "json.dump", "pickle.dump", "torch.save", "np.save", "np.savez", "Image.save",
    "torch.export.save", "torch.onnx.export",
    "os.open", "os.write", "os.link", "os.replace", "os.rename", "shutil.copy", "shutil.move",
}  # fmt: skip
"""Calls that write a file, by their last name or, where that has other meanings, by both."""

EXPORT = ROOT / "zoo/core/networks/export.py"

MAY_WRITE = {
    "zoo/core/whole_file.py": "it is the one way",
    "zoo/core/meter.py": "a switch of the kernel's, no file",
    "benchmarks/studies/convolutions.py": "a pipe to the process that asks",
}


def writes(tree: ast.AST, lent: frozenset[str] = frozenset()) -> Iterator[ast.Call]:
    """Calls that write, but for those on a path that `whole_file` lends, or into memory."""
    for node in ast.iter_child_nodes(tree):
        inside = lent
        if isinstance(node, ast.With):
            inside |= {
                item.optional_vars.id
                for item in node.items
                if isinstance(item.context_expr, ast.Call)
                and ast.unparse(item.context_expr.func) in ("whole_file", "io.BytesIO")
                and isinstance(item.optional_vars, ast.Name)
            }
        if isinstance(node, ast.Call) and is_write(node):
            names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            if not names & inside:
                yield node
        yield from writes(node, inside)


def is_write(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if last == "open":  # of a path or the built-in one
        mode = [a for a in (*call.args, *(k.value for k in call.keywords)) if is_mode(a)]
        return bool(mode)
    if last == "to_csv":  # of a data frame; a function of that name makes a text
        return name != last
    return name in WRITES or last in {each for each in WRITES if "." not in each}


def is_mode(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Constant) else None
    return (
        isinstance(value, str) and set(value) <= set("rwaxbt+") and bool(set(value) & set("wax+"))
    )


def test_files_are_written_whole_only() -> None:
    # `export_network` lends its hidden path to the two functions that write a format.
    export = ("torch.onnx.export", "path.open('wb')", "torch.export.save")
    assert EXPORT.read_text().count("with whole_file(target) as hidden:") == 1
    for path in (path for path in ALL if label(path) not in MAY_WRITE):
        found = [ast.unparse(call) for call in writes(parsed(path))]
        if path == EXPORT:
            found = [call for call in found if not call.startswith(export)]
        assert not found, f"{label(path)}: {found}"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("path.write_text('a')", 1),
        ("with path.open('w') as file: file.write('a')", 1),
        ("open(path, mode='ab')", 1),
        ("path.open()\nopen(path, 'rb')\npath.read_text('utf-8')", 0),
        ("figure.savefig(path)", 1),
        ("with whole_file(path) as hidden:\n figure.savefig(hidden)", 0),
        ("with whole_file(path) as hidden:\n figure.savefig(path)", 1),
        ("with io.BytesIO() as memory:\n figure.savefig(memory)", 0),
        ("with io.BytesIO() as memory:\n figure.savefig(path)", 1),
        ("torch.save(a, path)\nframe.to_csv(path)\nsave_file(a, path)", 3),
    ],
)
def test_a_write_is_told_from_a_read(text: str, count: int) -> None:
    assert len(list(writes(ast.parse(text)))) == count
