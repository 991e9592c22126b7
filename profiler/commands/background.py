# SPDX-License-Identifier: Apache-2.0
"""Captures from a Python program: ``with profiler.capture(port=8080) as messages:``.

The capture runs in a child process (``attend.py``), so that its probe, its root privileges and its
errors stay out of the asserting program. A thread reads its lines. The block starts when the probe
is attached. After the block, or after :meth:`Messages.settle`, every message sent before is
available.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Union, cast, overload

import orjson

from profiler.commands.attend import END, SETTLE
from profiler.errors import ProfilerError
from profiler.exchanges.model import Exchange
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.verify import Assertion, expect, fail_if, verify

if TYPE_CHECKING:
    from profiler.schema import Record

Value = Union[str, int, float]

# Compiling the probe takes seconds, or minutes in an emulated machine.
START_SECONDS = 300.0
SETTLE_SECONDS = 60.0


@contextlib.contextmanager
def capture(
    *, command: Sequence[str] | None = None, **options: Value | Sequence[Value] | None
) -> Iterator[Messages]:
    """Capture until the block ends; it starts once no message can be missed.

    ``options`` are those of the command line, with ``_`` instead of ``-``, and a list where an
    option may be repeated: ``port=[80, 8080]``, ``comm="nginx"``, ``max_body=0``. ``command``
    starts the profiler, for example ``["sudo", "-n", "http-profiler"]``; by default, it is this
    Python's. Configuration files are ignored unless ``config`` names one, so that a test behaves
    the same everywhere. Raises ProfilerError with the profiler's last message.
    """
    options.setdefault("config", os.devnull)
    arguments = [*(command or (sys.executable, "-m", "profiler.cli")), *_arguments(options)]
    with tempfile.TemporaryFile() as stderr:
        feed = _Feed([*arguments, "attend"], stderr)
        try:
            feed.begin()
            yield Messages(feed)
        finally:
            feed.stop()


class Messages(Sequence["Record"]):
    """The messages captured so far, as records (``docs/reference/record.md``); the list grows."""

    def __init__(self, feed: _Feed, start: int = 0) -> None:
        self._feed = feed
        self._start = start

    def __len__(self) -> int:
        return len(self._feed.records) - self._start

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return self._feed.records[self._start :][index]
        return self._feed.records[self._start + range(len(self))[index]]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._feed.records[self._start :])

    def wait_for(self, wanted: Callable[[Record], object], timeout: float = 10.0) -> Record:
        """Return the first record, present or future, for which ``wanted`` is true.

        Raises TimeoutError after ``timeout`` seconds, ProfilerError if the capture has ended.
        """
        deadline = time.monotonic() + timeout
        number = self._start
        while True:
            record = self._feed.record(number, deadline - time.monotonic())
            if record is None and self._feed.has_ended:
                raise self._feed.error("the capture ended before a matching message was seen")
            if record is None:
                raise TimeoutError(f"no such message within {timeout:g} s, among {len(self)}")
            if wanted(record):
                return record
            number += 1

    def follow(self) -> Iterator[Record]:
        """Yield all records, present and future, until the capture ends."""
        number = self._start
        while (record := self._feed.record(number)) is not None:
            yield record
            number += 1

    def settle(self) -> None:
        """Wait until every message sent or received before is available. Raises ProfilerError."""
        self._feed.settle()

    def from_now(self) -> Messages:
        """Return the messages of this capture that are seen from now on."""
        self.settle()
        return Messages(self._feed, len(self._feed.records))

    def stop(self) -> None:
        """End the capture before the block ends; messages sent before are then available."""
        self._feed.stop()

    def exchanges(self) -> list[Exchange]:
        """Return the exchanges so far, in order of time."""
        return list(Exchanges(self))

    def fail_if(self, condition: str) -> None:
        """Settle, and raise AssertionError if an exchange matches ``condition``.

        ``docs/reference/query.md`` describes the language. Raises ConditionError, a ProfilerError.
        """
        self._assert(fail_if(condition))

    def expect(self, expectation: str) -> None:
        """Settle, and raise AssertionError if the exchanges do not fulfil ``expectation``.

        Raises ConditionError, which is a ProfilerError.
        """
        self._assert(expect(expectation))

    def _assert(self, assertion: Assertion) -> None:
        self.settle()
        number, verdicts = verify(self.exchanges(), [assertion])
        lines = [line for verdict in verdicts for line in verdict.lines()]
        if lines:
            raise AssertionError("\n".join([*lines, f"({number} exchanges)"]))


class _Feed:
    """The child process, and the thread that reads its output."""

    def __init__(self, arguments: Sequence[str], stderr: IO[bytes]) -> None:
        self.records: list[Record] = []
        self.has_ended = False
        self._stderr = stderr
        self._changed = threading.Condition()
        self._mark = -1
        self._asked = 0
        try:
            self._child = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=0
            )
        except OSError as error:
            raise ProfilerError(f"cannot start {arguments[0]}: {error.strerror}") from error
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def begin(self) -> None:
        """Wait until the probe is attached. Raises ProfilerError."""
        self._wait_for_mark(0, START_SECONDS)

    def settle(self) -> None:
        if not self.has_ended:
            self._asked += 1
            self._send(SETTLE)
            self._wait_for_mark(self._asked, SETTLE_SECONDS)

    def stop(self) -> None:
        self._send(END)
        self._reader.join()
        self._child.wait()

    def record(self, number: int, seconds: float | None = None) -> Record | None:
        """Return record ``number`` once it is available; ``None`` if it never is."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.records) > number or self.has_ended, seconds)
            return self.records[number] if len(self.records) > number else None

    def error(self, what: str) -> ProfilerError:
        """Return an error: ``what`` with the profiler's last message."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1].partition(": ")[2] if lines else ""
        return ProfilerError(f"{what}: {reason}" if reason else what)

    def _send(self, word: bytes) -> None:
        # A caller that waits for the answer notices the end.
        with contextlib.suppress(BrokenPipeError):
            assert self._child.stdin is not None, "it is a pipe"
            self._child.stdin.write(word)

    def _read(self) -> None:
        assert self._child.stdout is not None, "it is a pipe"
        with io.BufferedReader(cast(io.RawIOBase, self._child.stdout)) as lines:
            for line in lines:
                record = orjson.loads(line)
                with self._changed:
                    if "mark" in record:
                        self._mark = record["mark"]
                    else:
                        self.records.append(record)
                    self._changed.notify_all()
        with self._changed:
            self.has_ended = True
            self._changed.notify_all()

    def _wait_for_mark(self, number: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._mark >= number or self.has_ended, seconds)
        if self._mark >= number:
            return
        if self.has_ended:
            self._child.wait()
            raise self.error("the capture ended")
        raise self.error(f"the profiler did not answer within {seconds:g} s")


def _arguments(options: dict[str, Value | Sequence[Value] | None]) -> Iterator[str]:
    for name, values in options.items():
        if values is None:
            continue
        for value in [values] if isinstance(values, (str, int, float)) else values:
            yield f"--{name.replace('_', '-')}={value}"
