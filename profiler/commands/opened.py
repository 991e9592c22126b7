# SPDX-License-Identifier: Apache-2.0
"""The capture that ``report``, ``export`` and ``query`` read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from profiler.accounting import Account
from profiler.commands.options import STDOUT, captures_of, conditions_of
from profiler.commands.progress import progress
from profiler.errors import DAMAGED, OutputError
from profiler.exchanges.filter import Filter, filtered
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.read import Capture
from profiler.exchanges.redact import Redactor, described
from profiler.exchanges.text import visible_lines

if TYPE_CHECKING:
    from profiler.schema import Record


class Opened:
    """A capture, with the filters and the redactor to apply to it."""

    def __init__(self, options: argparse.Namespace, raw: bool = True) -> None:
        """Open it, and print first how secrets are treated.

        Without ``raw``, the records have no ``raw_payload``, which saves redacting it.
        """
        target = getattr(options, "output", STDOUT)
        captures = captures_of(options)
        for path in captures:
            if target.exists() and path.exists() and target.samefile(path):
                raise OutputError(f"{target} is the capture that is read; choose another --output")
        self.capture = Capture(*captures)
        self.redactor = Redactor() if options.redact else None
        self._raw = raw
        self._filter = Filter(conditions_of(options))
        say(described(self.redactor))

    def records(self) -> Iterator[Record]:
        """Yield the records that the filters keep; show the progress on a terminal."""
        with progress() as report:
            # Filters match captured values, not their placeholders.
            for record in filtered(self.capture.records(report), self._filter):
                if not self._raw:
                    record.pop("raw_payload", None)
                    record.pop("raw_payload_encoding", None)
                yield record if self.redactor is None else self.redactor.record(record)

    def ended(self, exchanges: Exchanges | None = None) -> int:
        """Print what was read and what was damaged; return the exit code."""
        capture, dropped = self.capture, self._filter.dropped
        for line in Account(dropped=dropped, undecided=self._filter.given_up).left_out():
            say(line)
        if exchanges is not None:
            messages = capture.lines - capture.damage.lines - sum(dropped.values())
            say(f"{len(exchanges)} exchanges in {messages} messages")
        if capture.damaged:
            say(capture.damaged)
            return DAMAGED
        return 0


def say(text: str) -> None:
    """Print one line for the user."""
    print(f"http-profiler: {visible_lines(text)}", file=sys.stderr, flush=True)
