"""The counts of a capture as lines in a file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from profiler.errors import OutputError
from profiler.ingest.pipeline import Written
from profiler.ingest.stats import Stats


def test_a_line_each_time_and_a_new_file_behind_one_that_was_renamed(tmp_path: Path) -> None:
    path, old = tmp_path / "counts", tmp_path / "counts.1"
    stats = Stats(path, 0.0)
    stats.write(Written(requests=1), None)
    path.rename(old)
    stats.write(Written(requests=2), None)
    stats.write(Written(requests=3), None, final=True)
    stats.close()
    for file, expected in ((old, [(1, False)]), (path, [(2, False), (3, True)])):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(line["written"]["requests"], line["final"]) for line in lines] == expected
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_due_after_the_interval(tmp_path: Path) -> None:
    stats = Stats(tmp_path / "counts", 3600)
    assert not stats.due()
    stats = Stats(tmp_path / "counts", 0)
    assert stats.due()


def test_a_file_that_cannot_be_written_is_told_by_its_option(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"No such file.*choose another --stats"):
        Stats(tmp_path / "no" / "counts", 1)
