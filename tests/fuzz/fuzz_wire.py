# SPDX-License-Identifier: Apache-2.0
"""Records of the wire, as from a damaged capture: parsed, or rejected with the proper error."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["profiler"]):
    import orjson

    from profiler.errors import CaptureFileError
    from profiler.ingest import wire
    from profiler.ingest.decryption import Decryption
    from profiler.ingest.pipeline import Pipeline
    from profiler.ingest.process import Processes
    from profiler.ingest.settings import Settings
    from profiler.schema import Record


class Sink:
    """Turns each record into a line."""

    def write(self, record: Record) -> None:
        orjson.dumps(record)


def test_one_input(data: bytes) -> None:
    """Split ``data`` into records by their length prefixes, and feed them to the pipeline."""
    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64", decryption=Decryption())
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        record = data[at + 2 : at + 2 + size]
        at += 2 + size
        try:
            item = wire.decode(record)
        except CaptureFileError:
            continue
        assert wire.decode(wire.encode(item)) == item
        try:
            pipeline.feed(record)
        except CaptureFileError:
            continue
    pipeline.finish()
    # The pipeline survives errors of the stages after the wire.
    assert not pipeline.account.faults, pipeline.account.faults


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
