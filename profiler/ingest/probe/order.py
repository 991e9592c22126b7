# SPDX-License-Identifier: Apache-2.0
"""Sorts the records of several CPUs by time.

A ring buffer keeps the order in which records were written. Kernels before 5.8 have only
the perf buffer, with one part for each CPU. The parts are read one after the other, so a
response could come before its request. Records are therefore sorted by time. Records newer
than the start of a poll wait for the next poll, which may still return older ones.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from profiler.ingest.wire import CHUNK, END

# struct event: kind, direction, family, flags, syscall, time
_TIME = struct.Struct("=8xQ")


class Order:
    """The records that wait, because older ones may still arrive."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def arrange(self, records: Sequence[bytes], polled: int) -> list[bytes]:
        """Return the records older than ``polled``, the time when the poll began, in order.

        Descriptions of processes and sockets come first: they have no time, and must precede
        the records that refer to them.
        """
        descriptions = [record for record in records if record[0] not in (CHUNK, END)]
        events = self._waiting + [record for record in records if record[0] in (CHUNK, END)]
        events.sort(key=_time)
        ready = sum(1 for record in events if _time(record) < polled)
        self._waiting = events[ready:]
        return descriptions + events[:ready]

    def rest(self) -> list[bytes]:
        """Return the records that still wait, after the last poll."""
        rest, self._waiting = self._waiting, []
        return rest


def _time(record: bytes) -> int:
    return int(_TIME.unpack_from(record)[0])
