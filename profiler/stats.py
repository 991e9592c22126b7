"""The counts of a capture that goes on, as JSON lines in a file.

Each line says when, what was written, and the kernel's account in both
directions. In a line that is not ``final``, a call may be counted as seen whose
fate is not decided yet.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from profiler.errors import OutputError
from profiler.pipeline import Written
from profiler.probe.counters import Accounts
from profiler.record import timestamp


class Stats:
    """A file of counts, created with mode 0600 and appended to. Raises OutputError."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.fdopen(os.open(path, flags, 0o600), "w")
        except OSError as error:
            raise self._error(error) from error

    def due(self) -> bool:
        """Has the interval passed since the last line?"""
        return time.monotonic() >= self._due

    def write(self, written: Written, accounts: Accounts | None, final: bool = False) -> None:
        """Append a line. Raises OutputError."""
        line = {"timestamp": timestamp(time.time_ns()), "final": final, "written": asdict(written)}
        if accounts:
            line["account"] = accounts.to_json()
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error
        self._due = time.monotonic() + self._seconds

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _error(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write the counts to {self._path}: {error.strerror}; "
            "free space or permissions there, or choose another --stats"
        )
