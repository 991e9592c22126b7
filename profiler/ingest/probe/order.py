# SPDX-License-Identifier: Apache-2.0
"""Records of several CPUs, put into one order.

A ring buffer keeps the order in which records were written. The perf buffer,
which kernels before 5.8 have instead, has a part for each CPU, read one after
the other: there, a response would be met before its request. So records are
sorted by their time, and what is younger than the beginning of a poll waits for
the next one, which may still bring an older one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from profiler.ingest.wire import CHUNK, END

# struct event: kind, direction, family, flags, syscall, time
_TIME = struct.Struct("=8xQ")


class Order:
    """The records that wait for older ones."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def arrange(self, records: Sequence[bytes], polled: int) -> list[bytes]:
        """Return what is older than ``polled``, the time at which the poll began, in order.

        Introductions come first: they have no time, and must precede what they introduce.
        """
        introductions = [record for record in records if record[0] not in (CHUNK, END)]
        events = self._waiting + [record for record in records if record[0] in (CHUNK, END)]
        events.sort(key=_time)
        ready = sum(1 for record in events if _time(record) < polled)
        self._waiting = events[ready:]
        return introductions + events[:ready]

    def rest(self) -> list[bytes]:
        """Return what still waits: nothing more will come."""
        rest, self._waiting = self._waiting, []
        return rest


def _time(record: bytes) -> int:
    return int(_TIME.unpack_from(record)[0])
