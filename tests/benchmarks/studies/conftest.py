"""What the tests of claims share: a folder of results that they fill."""

import pytest

from benchmarks.records.files import write_record


@pytest.fixture
def results(tmp_path):
    """Writes records into the folder `f` and returns the folder above it."""

    def write(*records):
        for each in records:
            write_record(tmp_path / "f" / "records", each)
        return tmp_path

    return write
