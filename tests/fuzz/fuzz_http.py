# SPDX-License-Identifier: Apache-2.0
"""Streams and HTTP: no input raises, every line is valid, and memory stays within its limit."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["profiler"]):
    import orjson

    from profiler.ingest import wire
    from profiler.ingest.pipeline import Pipeline
    from profiler.ingest.process import Processes
    from profiler.ingest.settings import Settings
    from profiler.schema import Record
    from tests.fuzz import actions

# Small, so that every limit is reached.
SETTINGS = Settings(max_head=512, max_body=128, max_memory=40_000, max_connection_memory=20_000)
REASONS = {
    *("attached_mid_message", "body_limit", "closed_early", "exited", "head_limit", "lost"),
    *("memory_limit", "no_response", "reset", "stream_limit", "undecodable"),
    "unknown_header_state",
}


class Sink:
    """Checks each record."""

    def write(self, record: Record) -> None:
        orjson.dumps(record)
        assert record["captured"] <= record["bytes"]
        assert set(record.get("incomplete", ())) <= REASONS
        assert "incomplete" in record or record["captured"] == record["bytes"]


def test_one_input(data: bytes) -> None:
    """Play ``data`` through the pipeline."""
    pipeline = Pipeline(SETTINGS, Sink(), Processes(None), "x86_64")
    for item in actions.decode(data):
        pipeline.feed(wire.encode(item))
        assert pipeline.memory.total <= SETTINGS.max_memory
    pipeline.finish()
    # The pipeline survives errors, also those of the checks above.
    assert not pipeline.account.faults, pipeline.account.faults


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
