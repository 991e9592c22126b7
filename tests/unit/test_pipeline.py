# SPDX-License-Identifier: Apache-2.0
"""The pipeline: damaged records, and the limits of each route."""

from __future__ import annotations

import pytest

from profiler.errors import CaptureFileError
from profiler.ingest import wire
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.wire import RECV, SEND
from profiler.schema import Record
from tests.unit.wires import Wire


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
def test_damaged_counts_are_refused(document: bytes) -> None:
    class Sink:
        def write(self, record: object) -> None:
            raise AssertionError(record)

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64")
    with pytest.raises(CaptureFileError, match="counts are damaged"):
        pipeline.feed(wire.encode(wire.Counters(document)))


@pytest.mark.parametrize(("route", "reported"), [("socket", ["no_response"]), ("syscall", [])])
def test_a_response_is_missing_only_where_it_would_have_been_seen(
    route: str, reported: list[str]
) -> None:
    """The syscall route does not see what io_uring sends."""
    records: list[Record] = []

    class Sink:
        def write(self, record: Record) -> None:
            records.append(record)

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64", route=route)
    client = Wire(socket=1)
    for item in (client.send(b"GET / HTTP/1.1\r\n\r\n"), client.end(RECV), client.end(SEND)):
        pipeline.feed(wire.encode(item))
    pipeline.finish()
    assert records[0]["type"] == "request"
    assert [record["incomplete"][0] for record in records[1:]] == reported
