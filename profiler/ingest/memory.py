# SPDX-License-Identifier: Apache-2.0
"""How much memory the open connections take, and which of them is given up for it.

The stages say what a connection holds (``Messages.held``, ``Streams.held``);
this is the sum, and the order in which connections last moved. The rule: what
holds more than one connection may is given up; when all together hold too much,
the one that has been idle for the longest time goes first.

The bounds are on what connections hold. What the profiler takes besides - the
interpreter, BCC, the ring buffer, small tables of fixed size - comes on top.
"""

from __future__ import annotations

from collections import OrderedDict


class Memory:
    """The bytes that each open connection holds, the one idle for longest first."""

    def __init__(self, connection_limit: int, limit: int) -> None:
        self._connection_limit = connection_limit
        self._limit = limit
        self._held: OrderedDict[int, int] = OrderedDict()
        self.total = 0

    def use(self, socket: int, size: int) -> list[int]:
        """Connection ``socket`` moved and holds ``size`` bytes, 0 if it is gone.

        Return the connections to be given up; they are forgotten here.
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
        given_up = []
        while self.total > self._limit:
            idle, size = held.popitem(last=False)
            self.total -= size
            given_up.append(idle)
        return given_up

    def __len__(self) -> int:
        """Connections that hold something."""
        return len(self._held)
