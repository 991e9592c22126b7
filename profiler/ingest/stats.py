"""The counts of a capture that goes on, as JSON lines in a file.

Each line says when, what was written, and the kernel's account in both
directions. In a line that is not ``final``, a call may be counted as seen whose
fate is not decided yet.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from profiler.ingest.pipeline import Written
from profiler.ingest.probe.counters import Accounts
from profiler.ingest.record import timestamp
from profiler.outputs.jsonl import Lines


class Stats:
    """A file of counts, as :class:`~profiler.outputs.jsonl.Lines` has them. Raises OutputError."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._lines = Lines(path, "--stats")

    def due(self) -> bool:
        """Has the interval passed since the last line?"""
        return time.monotonic() >= self._due

    def write(self, written: Written, accounts: Accounts | None, final: bool = False) -> None:
        """Append a line. Raises OutputError."""
        line = {"timestamp": timestamp(time.time_ns()), "final": final, "written": asdict(written)}
        if accounts:
            line["account"] = accounts.to_json()
        self._lines.add(json.dumps(line).encode() + b"\n")
        self._lines.flush()
        self._due = time.monotonic() + self._seconds

    def close(self) -> None:
        """Close the file. Raises OutputError."""
        self._lines.close()
