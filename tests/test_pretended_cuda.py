"""Paths of CUDA without CUDA, in a process that reads the project's source anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no interface for backends that are written in Python",
)
@pytest.mark.parametrize("name", ["on", "ceilings_on", "recorded_on"])
def test_what_holds_on_a_pretended_device(name: str) -> None:
    tests = ROOT / "tests" / f"{name}_pretended_cuda.py"
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
