"""The capture that ``report``, ``export`` and ``query`` read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from profiler.commands.options import STDOUT, filters_of
from profiler.errors import DAMAGED, OutputError
from profiler.exchanges.read import Capture
from profiler.exchanges.redact import Redactor, described
from profiler.exchanges.selection import Selection, left_out, selected
from profiler.exchanges.store import Exchanges
from profiler.ingest.record import Record


class Opened:
    """The capture that is read, and what of it is wanted, and how it is shown."""

    def __init__(self, options: argparse.Namespace, raw: bool = True) -> None:
        """Open it, and say what is done about secrets, as the first line.

        Without ``raw`` the records have no ``raw_payload``, which then need not be redacted.
        """
        self.capture = Capture(options.capture)
        target = getattr(options, "output", STDOUT)
        if target.exists() and options.capture.exists() and target.samefile(options.capture):
            raise OutputError(f"{target} is the capture itself; choose another --output")
        self.redactor = Redactor() if options.redact else None
        self._raw = raw
        self._selection = Selection(filters_of(options))
        say(described(self.redactor))

    def records(self) -> Iterator[Record]:
        """Yield the records that are wanted."""
        # Filters ask what was said, not the tokens that stand for it.
        for record in selected(self.capture.records(), self._selection):
            if not self._raw:
                record.pop("raw_payload", None)
                record.pop("raw_payload_encoding", None)
            yield record if self.redactor is None else self.redactor.record(record)

    def ended(self, exchanges: Exchanges | None = None) -> int:
        """Say what was read and what was not; return the exit code."""
        capture, selection = self.capture, self._selection
        for line in left_out(selection.dropped, selection.given_up):
            say(line)
        if exchanges is not None:
            messages = capture.lines - capture.damage.lines - sum(selection.dropped.values())
            say(f"{len(exchanges)} exchanges in {messages} messages")
        if capture.damage.lines:
            say(f"of the {capture.lines} lines of {capture.name}, {capture.damage}")
            return DAMAGED
        return 0


def say(text: str) -> None:
    """Print one line for the user."""
    print(f"http-profiler: {text}", file=sys.stderr, flush=True)
