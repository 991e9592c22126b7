# SPDX-License-Identifier: Apache-2.0
"""Memory: whatever many connections send, Python's real memory grows by the bound and little more.

Each input is played on one connection after the other, and they stay open. ``--max-memory`` is
a count that the pipeline makes; this target compares it with what tracemalloc measures.
"""

from __future__ import annotations

import sys
import tracemalloc

import atheris

with atheris.instrument_imports(include=["profiler"]):
    from profiler.ingest import record, wire
    from profiler.ingest.http import classify, fields
    from profiler.ingest.pipeline import Pipeline
    from profiler.ingest.process import Processes
    from profiler.ingest.settings import Settings
    from profiler.schema import Record
    from tests.fuzz import actions

BOUND = 400_000
SETTINGS = Settings(
    max_head=16_384, max_body=4096, max_memory=BOUND, max_connection_memory=BOUND // 2
)
# Beside the bound: the pipeline itself with its small tables of sockets, and what one call takes
# while it is parsed (each of its characters may take 4 bytes, and there are several copies).
BASE = 400_000
CONNECTIONS = 200
# Enough to reach the bound, and little enough for many inputs in a second.
RECORDS_MAX = 300
BYTES_MAX = 2_000_000

# These caches have bounds of their own (tests/unit/test_memory.py), far above the one here.
record._CONSTANTS_MAX = 1
fields._REMEMBERED_SIZE = classify._REMEMBERED_SIZE = 0


class Sink:
    """Keeps nothing."""

    def write(self, record: Record) -> None:
        pass


def test_one_input(data: bytes) -> None:
    """Play ``data`` on many connections."""
    items = [wire.encode(item) for item in actions.decode(data)]
    size = sum(map(len, items))
    if not items:
        return
    tracemalloc.start()
    try:
        pipeline = Pipeline(SETTINGS, Sink(), Processes(None), "x86_64")
        for n in range(min(CONNECTIONS, BYTES_MAX // size, RECORDS_MAX // len(items))):
            for item in items:
                decoded = wire.decode(item)
                pipeline.feed(wire.encode(decoded._replace(socket=decoded.socket + 4 * n)))
        _check("while connections are open")
        pipeline.finish()
        _check("at the end")
    finally:
        tracemalloc.stop()
    assert not pipeline.account.faults, pipeline.account.faults


def _check(when: str) -> None:
    _, peak = tracemalloc.get_traced_memory()
    assert peak <= 1.25 * BOUND + BASE, f"{peak} bytes {when}"


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
