# SPDX-License-Identifier: Apache-2.0
"""The native fast path writes what Python writes, whatever the streams are."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["profiler"]):
    from profiler.exchanges.conditions import conditions
    from profiler.exchanges.query import parse
    from profiler.ingest import fastpath, wire
    from profiler.ingest.settings import Settings
    from tests.fastpath.compare import same_lines
    from tests.fuzz import actions

# The first byte of an input chooses one.
SETTINGS = (
    Settings(),
    Settings(max_head=512, max_body=128, max_memory=40_000, max_connection_memory=20_000),
    Settings(redact=True),
    Settings(where=conditions([parse("status=200")])),
)
BATCHES = (1, 3, 1000)


def test_one_input(data: bytes) -> None:
    """Replay ``data`` both ways."""
    if data:
        choice = data[0]
        records = [wire.encode(item) for item in actions.decode(data[1:])]
        batch = BATCHES[choice // len(SETTINGS) % len(BATCHES)]
        same_lines(records, SETTINGS[choice % len(SETTINGS)], batch)


if __name__ == "__main__":
    if fastpath.module() is None:
        sys.exit("the module http_profiler_fastpath is not installed: pip install ./fastpath")
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
