# SPDX-License-Identifier: Apache-2.0
"""Bounds the memory of open connections.

The stages report how much a connection holds (``Messages.held``,
``Streams.held``). This module keeps the sum, and the order in which connections
last moved data. It drops a connection that exceeds the limit for one
connection. If all connections together exceed the total limit, it drops the one
that has been idle longest.

Sizes are those of Python's objects, not of bytes on the wire. A string that two objects
share counts in both, so the sum is too high rather than too low.

The limits cover only what connections hold. The interpreter, BCC, the ring
buffer and small tables of fixed size are not included.
"""

from __future__ import annotations

from collections import OrderedDict


class Memory:
    """The bytes that each open connection holds; the one idle longest comes first."""

    def __init__(self, connection_limit: int, limit: int) -> None:
        self._connection_limit = connection_limit
        self._limit = limit
        self._held: OrderedDict[int, int] = OrderedDict()
        self.total = 0

    def use(self, socket: int, size: int) -> list[int]:
        """Note that connection ``socket`` moved data and holds ``size`` bytes; 0 if it is closed.

        Return the connections to drop. Their sizes are already removed here.
        """
        held = self._held
        before = held.get(socket, 0)
        if size == before:
            if size:
                held.move_to_end(socket)
            return []
        self.total += size - before
        if not size:
            held.pop(socket, None)
            return []
        held[socket] = size
        held.move_to_end(socket)
        if size > self._connection_limit:
            self.total -= held.pop(socket)
            return [socket]
        dropped = []
        while self.total > self._limit:
            idle, size = held.popitem(last=False)
            self.total -= size
            dropped.append(idle)
        return dropped

    @property
    def room(self) -> int:
        """The bytes that connections may hold elsewhere: what is left of half the limit."""
        return self._limit // 2 - self.total

    def __len__(self) -> int:
        """The number of connections that hold something."""
        return len(self._held)
