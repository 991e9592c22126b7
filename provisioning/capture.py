# SPDX-License-Identifier: Apache-2.0
"""Runs the profiler in a guest: start, wait, read, stop.

The demo and the end-to-end tests share these four steps. They wait for a condition,
never for a fixed time. When the profiler does not meet the condition, the error
contains its messages.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

from provisioning.errors import GuestError
from provisioning.guest import Guest, Running

# Compiling the probe takes 10 s in an emulated guest on an idle host; reading the
# kernel's headers took 181 s in one on a busy host.
START_TIMEOUT = 400.0
STOP_TIMEOUT = 60.0
POLL_SECONDS = 0.3

Record = dict[str, Any]


class Capture:
    """``http-profiler`` in a guest, writing to a file there, as a context manager.

    ``before`` are words in front of the command, which runs as root, such as those of setpriv(1).
    ``exit_code`` and ``said`` (its standard error) are final after :meth:`stop` or :meth:`wait`.
    """

    def __init__(
        self,
        guest: Guest,
        *options: str,
        output: str = "/tmp/capture.jsonl",
        before: Sequence[str] = (),
    ) -> None:
        self.guest = guest
        self.output = output
        self.exit_code: int | None = None
        self._options = options
        self._before = before
        # Open as long as the capture is; __exit__ closes it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._said = ""
        self._running: Running | None = None
        self._records: list[Record] = []
        self._read = 0

    @property
    def said(self) -> str:
        """The profiler's standard error so far."""
        if not self._errors.closed:
            self._errors.seek(0)
            self._said = self._errors.read().decode(errors="replace")
        return self._said

    def __enter__(self) -> Capture:
        self.guest.exec(["sudo", "rm", "-f", self.output])
        self._running = self.guest.popen(
            ["sudo", *self._before, "http-profiler", "--output", self.output, *self._options],
            stdout=None,
            stderr=self._errors,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while "capturing" not in self.said:
            if self._running.poll() is not None:
                # If the machine ended, this raises that error, with its console.
                self.guest.exec(["true"], timeout=60)
                raise GuestError(f"{self.guest.name}: http-profiler ended: {self.said.strip()}")
            if time.monotonic() > deadline:
                self._running.__exit__(None, None, None)
                raise GuestError(f"{self.guest.name}: http-profiler does not start: {self.said}")
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._running is not None
        self._running.__exit__(kind, error, traceback)
        _ = self.said  # Read it now: callers may want it after the file is closed.
        self._errors.close()

    def stop(self, signal: str = "INT") -> str:
        """Stop the profiler; return everything it printed to standard error."""
        assert self._running is not None
        self._running.signal(signal)
        self.wait()
        return self.said

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait until the profiler has ended; return its exit code."""
        assert self._running is not None
        self.exit_code = self._running.wait(timeout)
        return self.exit_code

    def parse(self, line: str) -> Record:
        """Parse a line of output; a subclass may check it."""
        record: Record = json.loads(line)
        return record

    def records(self) -> list[Record]:
        """Return every record written so far."""
        new = self.guest.exec(f"sudo tail -c +{self._read + 1} {self.output}").stdout
        whole = new[: new.rfind("\n") + 1]
        self._records += [self.parse(line) for line in whole.splitlines()]
        self._read += len(whole.encode())
        return self._records

    def wait_for(
        self, wanted: Callable[[Record], bool], count: int = 1, timeout: float = 60.0
    ) -> list[Record]:
        """Return the ``wanted`` records as soon as there are ``count``; else GuestError."""
        deadline = time.monotonic() + timeout
        while True:
            found = [record for record in self.records() if wanted(record)]
            if len(found) >= count:
                return found
            if time.monotonic() > deadline:
                self.account()
                raise GuestError(
                    f"{len(found)} of {count} records after {timeout:.0f} s, among "
                    f"{len(self._records)}: {[_short(record) for record in self._records[-20:]]}; "
                    f"the profiler's messages: {self.said}"
                )
            time.sleep(POLL_SECONDS)

    def account(self) -> str:
        """Request the profiler's account, what it has seen and lost, and return it.

        After the profiler has ended, return its last messages.
        """
        assert self._running is not None
        if self._errors.closed or self._running.poll() is not None:
            return self.said
        before = len(self.said)
        self._running.signal("USR1")
        deadline = time.monotonic() + STOP_TIMEOUT
        # The last line of the account.
        while "resident memory" not in self.said[before:] and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.said[before:]

    def fetch(self, path: Path) -> None:
        """Copy the output to the host."""
        text = self.guest.exec(["sudo", "cat", self.output]).stdout
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _short(record: Record) -> str:
    what = record.get("url") or record.get("status_code")
    return f"{record['comm']} {record['direction']} {record['type']} {what}"
