# SPDX-License-Identifier: Apache-2.0
"""What the pipeline does with records that are damaged."""

from __future__ import annotations

import pytest

from profiler.errors import CaptureFileError
from profiler.ingest import wire
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"send": 1}',
        b"[" * 5000,
        b"\xff",
        b'{"send": {"seen": {"calls": "x"}, "forwarded": {}, "filtered": {}, "lost": {}}}',
    ],
)
def test_counts_that_are_damaged_are_refused(document: bytes) -> None:
    class Sink:
        def write(self, record: object) -> None:
            raise AssertionError(record)

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64")
    with pytest.raises(CaptureFileError, match="counts are damaged"):
        pipeline.feed(wire.encode(wire.Counters(document)))
