"""Published records come from where torch's gradients are right: `docs/convolutions.md`."""

import json
from pathlib import Path

import pytest

from benchmarks.studies.convolutions import Case, _fault, narrow_cases, sweep_cases

RESULTS = Path(__file__).parents[3] / "results"

# Up to this size strided 1 x 1 layers run in one piece on AVX-512 with one thread, and stay inside
# of their buffer: `python -m benchmarks.studies.convolutions narrow`, and with each block of memory
# before a page that must not be touched.
SAFE_SIZE = 40


def test_no_published_record_was_trained_where_gradients_are_wrong() -> None:
    paths = sorted(RESULTS.glob("**/records/*.json"))
    assert len(paths) > 1000
    for path in paths:
        record = json.loads(path.read_text("utf-8"))
        if record["cell"]["protocol"] >= 2:  # its trainings go around the kernel
            continue
        assert record["cell"]["data"]["image_size"] <= SAFE_SIZE, path
        assert record["environment"]["threads"] == 1, path
        assert record["environment"].get("instructions") in ("AVX512", None), path
        # Older ones do not tell their instructions; they are from Xeons, not from the EPYCs on
        # which a run of these networks dies with AVX2.
        assert "Xeon" in record["environment"]["cpu"], path


@pytest.mark.parametrize("is_last", [False, True])
def test_a_right_convolution_has_no_fault(is_last: bool) -> None:
    assert _fault(Case(3, 2, 2, 6, 4, 9, 2, is_last), guarded=True) == ""


def test_cases_cover_what_they_claim() -> None:
    narrow, swept = list(narrow_cases()), list(sweep_cases())
    assert {c.channels for c in narrow} == set(range(1, 18))
    assert {c.kernel for c in narrow} == {1} and {c.stride for c in narrow} == {2, 3}
    assert set(range(1, 34)) <= {c.channels for c in swept} & {c.outputs for c in swept}
    kinds = {(c.kernel, c.stride, c.channels_last, c.batch) for c in swept}
    assert len(kinds) == 4 * 2 * 2 * 2
    assert {c.groups for c in swept} >= {1, 2, 3, 4, 33}
    assert all(c.channels % c.groups == c.outputs % c.groups == 0 for c in swept)
