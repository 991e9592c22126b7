# SPDX-License-Identifier: Apache-2.0
"""Reads lines of a file or a pipe in a thread, so that the screen never waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Condition, Thread
from typing import TYPE_CHECKING

from profiler.errors import ProfilerError

if TYPE_CHECKING:
    from profiler.schema import Record

_AHEAD = 1000
_POLL_SECONDS = 0.05


class _Reader(Thread):
    def __init__(self, records: Iterable[Record]) -> None:
        # A daemon: it may block on a line that never comes.
        super().__init__(daemon=True)
        self.changed = Condition()
        self.waiting: list[Record] = []
        self.is_done = False
        self.error: ProfilerError | None = None
        self._records = records

    def run(self) -> None:
        try:
            for record in self._records:
                with self.changed:
                    self.changed.wait_for(lambda: len(self.waiting) < _AHEAD)
                    self.waiting.append(record)
                    self.changed.notify()
        except ProfilerError as error:
            self.error = error
        with self.changed:
            self.is_done = True
            self.changed.notify()


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield records as they arrive; an empty list if none arrives for a moment.

    Raises the ProfilerError that reading raises.
    """
    reader = _Reader(records)
    reader.start()
    while True:
        with reader.changed:
            reader.changed.wait_for(lambda: reader.waiting or reader.is_done, _POLL_SECONDS)
            batch, reader.waiting = reader.waiting, []
            is_done = reader.is_done
            reader.changed.notify()
        yield batch
        if is_done:
            break
    if reader.error is not None:
        raise reader.error
