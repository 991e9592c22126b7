# SPDX-License-Identifier: Apache-2.0
"""Appends the account of a running capture to the ``--stats`` file at an interval."""

from __future__ import annotations

import json
import time
from pathlib import Path

from profiler.accounting import Account
from profiler.ingest.record import timestamp
from profiler.outputs.jsonl import Lines


class Stats:
    """The file, as :class:`~profiler.outputs.jsonl.Lines` has it. Raises OutputError."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._lines = Lines(path, "--stats")

    def due(self) -> bool:
        """Has the interval passed since the last line?"""
        return time.monotonic() >= self._due

    def write(self, account: Account) -> None:
        """Append a line. Raises OutputError."""
        line = {"timestamp": timestamp(time.time_ns()), **account.to_json()}
        self._lines.add(json.dumps(line).encode() + b"\n")
        self._lines.flush()
        self._due = time.monotonic() + self._seconds

    def close(self) -> None:
        """Close the file. Raises OutputError."""
        self._lines.close()
