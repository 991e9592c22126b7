# SPDX-License-Identifier: Apache-2.0
"""Periodically appends the account of a running capture to the ``--stats`` file."""

from __future__ import annotations

import json
import time
from pathlib import Path

from profiler.accounting import Account
from profiler.ingest.record import timestamp
from profiler.outputs.jsonl import Lines
from profiler.privileges.helper import Helper


class Stats:
    """The ``--stats`` file, opened by :class:`~profiler.outputs.jsonl.Lines`.

    Raises OutputError if it cannot be opened.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._lines = Lines(path, "--stats")

    def share(self, helper: Helper) -> None:
        """Share the file, see :class:`~profiler.outputs.Sink`."""
        self._lines.share(helper)

    def due(self) -> bool:
        """Whether the interval since the last line has passed."""
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
