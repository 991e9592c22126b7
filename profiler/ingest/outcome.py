"""What a capture came to, and whether it is all that there was."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.ingest.pipeline import Written
from profiler.ingest.probe.counters import Accounts

SKIPPED_CALLS = "the kernel skipped the probe"


@dataclass(frozen=True)
class Outcome:
    """What a capture came to."""

    written: Written
    accounts: Accounts | None

    @property
    def skipped(self) -> str | None:
        """What may be missing of what anybody did, in words; ``None`` if nothing is.

        What is missed of a TCP connection that goes on is found, and ``lost``.
        """
        if self.accounts is None or not self.accounts.skipped:
            return None
        return f"{SKIPPED_CALLS} for {self.accounts.skipped} calls of this machine"

    @property
    def lost(self) -> str | None:
        """What is missing of what was to be captured, in words; ``None`` if nothing is.

        Bytes that were counted and could not be read (``unreadable``: pages of a file that
        sendfile sends) are not meant: the messages around them are whole, and say so themselves.
        """
        lost = []
        if self.accounts is None:
            lost.append("the kernel's counts are missing")
        else:
            sides = (self.accounts.send, self.accounts.recv)
            calls = sum(
                tally.calls
                for side in sides
                for reason, tally in side.lost.items()
                if reason != "unreadable"
            )
            if calls:
                lost.append(f"calls that were lost: {calls}")
        if self.written.given_up:
            lost.append(f"connections that were given up: {self.written.given_up}")
        if self.written.undecided:
            lost.append(f"exchanges that were left out undecided: {self.written.undecided}")
        return "; ".join(lost) or None
