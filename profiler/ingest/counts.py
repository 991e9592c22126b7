"""Reads the counts of a capture: the last line of a file that ``--stats`` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from profiler.errors import CaptureFileError
from profiler.ingest.probe.counters import Accounts


@dataclass(frozen=True)
class Counts:
    """What the kernel said of a capture."""

    accounts: Accounts
    is_final: bool
    """The capture had ended: until then the fate of some calls is not decided."""

    def to_json(self) -> dict[str, Any]:
        """Return a row for each fate: its name, then calls and bytes, sent and received."""
        rows: list[list[Any]] = []
        sides = self.accounts.send, self.accounts.recv
        for name in ("seen", "forwarded"):
            send, recv = (getattr(side, name) for side in sides)
            rows.append([name, "", *send, *recv])
        for name in ("filtered", "lost"):
            send, recv = (getattr(side, name) for side in sides)
            for reason in {**send, **recv}:
                row = [*send.get(reason, (0, 0)), *recv.get(reason, (0, 0))]
                if any(row):
                    rows.append([name, reason, *row])
        return {"rows": rows, "skipped": self.accounts.skipped, "final": self.is_final}


def read_counts(path: Path) -> Counts:
    """Return what the last whole line says. Raises CaptureFileError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CaptureFileError(f"cannot read {path}: {error.strerror}") from error
    for line in reversed(lines):
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # What was being written when the machine went down.
        try:
            return Counts(Accounts.from_json(document["account"]), document["final"] is True)
        except (AttributeError, KeyError, TypeError):
            break
    raise CaptureFileError(f"{path} has no counts: give the file that --stats wrote")
