# SPDX-License-Identifier: Apache-2.0
"""The capture of an end-to-end test: validates its lines, and its losses may excuse a failure.

A preemptible kernel sometimes skips the probe, in an emulated guest fifty times as often as
elsewhere. The capture's account shows it; only then is the failed test run again.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from profiler.accounting import SKIPPED_CALLS
from provisioning import Guest
from provisioning.capture import Capture as GuestCapture
from provisioning.capture import Record
from tests.records import read_record

# Calls that were never seen, and calls that later traffic of their connection revealed.
_NOT_SEEN = re.compile(rf"{SKIPPED_CALLS} for (\d+) calls")
_FAULT = re.compile(r"an error dropped a connection|because of an error")
_LOST = re.compile(r" \+ lost .*\bskipped (\d+)/")


class CaptureSkipped(AssertionError):
    """A test failed, and the capture's account shows calls that skipped the probe."""


class Capture(GuestCapture):
    """A capture that validates its records and decides whether it excuses a failure."""

    in_use: ClassVar[set[Capture]] = set()
    """The captures that the current test has read or stopped."""

    _excused = 0

    def __init__(self, guest: Guest, *options: str, **how: Any) -> None:
        """As for GuestCapture. On the syscall route, lines are written without the fast path."""
        if "syscall" in options:
            how["before"] = ("env", "HTTP_PROFILER_FASTPATH=0", *how.get("before", ()))
        super().__init__(guest, *options, **how)

    def parse(self, line: str) -> Record:
        """Parse and validate a line."""
        return read_record(line)

    def __exit__(self, kind, error, traceback) -> None:
        """Stop the profiler, and validate its last lines too."""
        super().__exit__(kind, error, traceback)
        if error is None:
            super().records()
            # The profiler survives errors of its own, and reports them.
            assert not _FAULT.search(self.said), self.said

    def records(self) -> list[Record]:
        """Return every record written so far."""
        self.in_use.add(self)
        return super().records()

    def stop(self, signal: str = "INT") -> str:
        """Stop the profiler; return everything it printed to standard error."""
        self.in_use.add(self)
        return super().stop(signal)

    def excuses(self) -> bool:
        """Does the account show more calls that skipped the probe than at the previous check?

        A failure that repeats without another loss is the test's own: the captures of a
        module outlive the test that is run again.
        """
        before, self._excused = self._excused, lost_by_skipping(self.account())
        return self._excused > before


def skipped_calls(said: str) -> int:
    """Return how many calls skipped the probe unseen, by the profiler's last account."""
    return sum(map(int, _NOT_SEEN.findall(_last_account(said))))


def lost_by_skipping(said: str) -> int:
    """Return how many calls skipped the probe, whether revealed later or not."""
    return skipped_calls(said) + sum(map(int, _LOST.findall(_last_account(said))))


def _last_account(said: str) -> str:
    return said.rpartition("wrote ")[2]
