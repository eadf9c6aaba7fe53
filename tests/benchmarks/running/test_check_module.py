"""`zoo check` on what a stranger's module may do: it fails with a line, and never by passing."""

import sys
from functools import partial

import numpy as np
import pytest

from benchmarks.running import check_module as checking
from tests.benchmarks.in_this_process import InThisProcess
from tests.benchmarks.test_cli import run  # noqa: F401  (a fixture)
from zoo.core.contract.checks import CHECKS, ContractViolation, Outcome, run_check
from zoo.core.contract.trial import Trial
from zoo.core.method.discovery import get_pruner

PRUNER = """
from dataclasses import dataclass
from zoo.core.method.pruner import Pruner

@dataclass(frozen=True)
class Mine(Pruner):
    def search(self, problem):
        return None
"""


@pytest.fixture
def here(monkeypatch):
    """Checks in this process, where the contract can be replaced."""
    monkeypatch.setattr(checking, "Workers", InThisProcess)


@pytest.fixture
def check(run, here, tmp_path, monkeypatch):  # noqa: F811
    """Checks a module of some text; the contract itself, which takes a minute, is replaced."""

    def call(text, outcomes=("passed",), name="mine.py"):
        def contract(cls):
            for number, outcome in enumerate(outcomes):
                if isinstance(outcome, BaseException):
                    raise outcome
                if callable(outcome):
                    outcome()
                    outcome = "passed"
                yield Outcome(number, "name", "", outcome, "[red]why[/]\x1b[31m")

        monkeypatch.setattr(checking, "contract", contract)
        (tmp_path / name).write_text(text)
        return run("check", name, columns=300)

    return call


def test_a_pruner_that_passes_is_status_zero_and_one_that_fails_is_one(check):
    status, out, _ = check(PRUNER, ("passed", "skipped"))
    assert status == 0 and "Mine: 1 passed, 1 skipped" in out
    status, out, _ = check(PRUNER, ("passed", "failed"))
    assert status == 1 and r"failed  1 name: [red]why[/]\x1b[31m" in out and "\x1b" not in out


def test_a_pruner_of_which_no_check_was_run_has_not_passed(check):
    assert check(PRUNER, ())[0] == 1
    assert check(PRUNER, ("skipped",))[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0 (mine.py, line 1)"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero (mine.py, line 1)"),
        ("raise BaseExceptionGroup('x', [ValueError('y')])", "ExceptionGroup"),
        ("open('/home/jane/x')", "No such file or directory: 'x'"),
        ("x = 1", "mine.py defines no pruner"),
    ],
)
def test_a_module_that_cannot_be_judged_is_one_line_and_status_two(check, text, message):
    status, out, err = check(text)
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert message in err and "Traceback" not in err and "/home" not in err


@pytest.mark.parametrize("raised", [SystemExit(0), RuntimeError("x"), GeneratorExit("x")])
def test_a_pruner_that_ends_the_program_has_failed(check, raised):
    status, out, _ = check(PRUNER, ("passed", raised))
    assert status == 1 and type(raised).__name__ in out and "1 failed, 1 passed" in out


ENDS_ITS_PROCESS = """
import os
from baselines.uniform import Uniform

class Mine(Uniform):
    def search(self, problem):
        os._exit(0)
"""


@pytest.mark.parametrize(
    "text",
    [pytest.param("import os; os._exit(0)", marks=pytest.mark.slow), ENDS_ITS_PROCESS],
    ids=["at import", "in its search"],
)
def test_a_module_that_ends_its_process_has_not_passed(run, tmp_path, text):  # noqa: F811
    (tmp_path / "mine.py").write_text(text)
    status, out, err = run("check", "mine.py", columns=300)
    assert status == 1, err
    assert "failed mine.py: the process ended with exit status 0 and gave no answer" in out


@pytest.mark.parametrize("name", ["numpy.py", "json.py", "torch.py", "zoo.py"])
def test_a_file_takes_no_other_modules_place(check, name):
    before = dict(sys.modules)
    assert check(PRUNER, name=name)[0] == 0
    assert {key: sys.modules[key] for key in before} == before
    assert np is sys.modules["numpy"]


def test_a_file_that_fails_leaves_no_module_behind(check):
    before = set(sys.modules)
    assert check("1 / 0", name="broken.py")[0] == 2
    assert set(sys.modules) == before


def test_what_a_pruner_prints_is_not_in_the_verdict(check):
    status, out, err = check(
        "print('at import')" + PRUNER, (lambda: sys.stdout.write("in search"), "passed")
    )
    assert status == 0 and out == "Mine: 2 passed\n"
    assert "at import" in err and "in search" in err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".", "is no module"), ("", "is no module"), (".relative", "is no module"),
        ("a/b", "is no module"), ("\x1b[31m", r"\x1b[31m"), ("json.nowhere", "no module"),
        ("folder.py", "is no file"), ("nowhere.py", "does not exist"),
    ],
)  # fmt: skip
def test_a_target_that_is_not_there_is_named(run, here, tmp_path, target, message):  # noqa: F811
    (tmp_path / "folder.py").mkdir()
    status, out, err = run("check", target)
    assert status == 2 and out == "" and message in " ".join(err.split()) and "\x1b" not in err


def test_help_says_that_the_file_is_run(run):  # noqa: F811
    _, out, _ = run("check", "--help")
    assert "runs the file" in " ".join(out.split())


FAULTY = '''"""No card."""
from dataclasses import dataclass
from zoo import Pruner

@dataclass(frozen=True)
class Mine(Pruner):
    def search(self, problem):
        return self.decide()

    def decide(self):
        return {}["gone"]
'''


@pytest.fixture
def faulty(tmp_path):
    (tmp_path / "mine.py").write_text(FAULTY)
    return get_pruner(f"{tmp_path / 'mine.py'}:Mine")


@pytest.mark.parametrize(
    ("number", "place", "raised"),
    [(2, "mine.py, line 11", "KeyError"), (14, "mine.py, line 5", "ValueError")],
)
def test_a_fault_has_the_line_of_the_pruners_own_file(faulty, number, place, raised):
    (check,) = (each for each in CHECKS if each.number == number)
    with pytest.raises(ContractViolation) as caught:
        run_check(check, Trial(faulty, "residual"))
    assert (caught.value.place, caught.value.raised) == (place, raised)
    assert str(caught.value).startswith(f"check {number} ({check.name}): {place}: {raised}")


def test_what_a_check_itself_finds_has_the_line_of_the_search(tmp_path):
    text = FAULTY.replace('return {}["gone"]', "return Subnet(SubnetConfig({'x': (0,)}))")
    text = text.replace("import Pruner", "import Pruner, Subnet, SubnetConfig")
    (tmp_path / "mine.py").write_text(text)
    (check,) = (each for each in CHECKS if each.number == 2)
    with pytest.raises(ContractViolation) as caught:
        run_check(check, Trial(get_pruner(f"{tmp_path / 'mine.py'}:Mine"), "residual"))
    assert (caught.value.place, caught.value.raised) == ("mine.py, line 7", "")


def test_a_fault_is_told_once_and_what_was_skipped_with_the_reason(check, monkeypatch):
    def contract(_):
        for number in (2, 3, 4):
            for network in ("residual", "depthwise"):
                where = ("mine.py, line 11", "KeyError")
                yield Outcome(number, f"n{number}", network, "failed", "KeyError: 'gone'", *where)
        for network in ("residual", "depthwise"):
            yield Outcome(9, "n9", network, "failed", f"{network} differs", "mine.py, line 7")
            yield Outcome(17, "n17", network, "skipped", "torch sees no GPU")

    call = check
    monkeypatch.setattr(checking, "_check_class", partial(_with, contract, checking._check_class))
    status, out, _ = call(FAULTY)
    lines = out.splitlines()
    assert status == 1 and len(lines) == 6
    assert lines[0] == "failed  2 n2 on residual: mine.py, line 11: KeyError: 'gone'"
    assert lines[1] == "failed  9 n9 on residual: mine.py, line 7: residual differs"
    assert lines[2] == "skipped 17 n17: torch sees no GPU"
    assert lines[3] == "mine.py, line 11: met 5 more times, by 2 n2, 3 n3, 4 n4"
    assert lines[4] == "mine.py, line 7: met once more, by 9 n9"
    assert lines[5] == "Mine: 8 failed, 2 skipped; faults: 2"


def _with(contract, call, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "contract", contract)
        return call(*arguments)
