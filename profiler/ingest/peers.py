# SPDX-License-Identifier: Apache-2.0
"""Finds the process at the other end of a connection, if it is on this machine.

Both ends know the TCP sequence number with which a direction begins. Together with the addresses it
identifies the direction, also where network namespaces use the same addresses. Of a Unix socket,
the inode of the client's end identifies the connection. Two sockets that moved messages in the same
direction are the two ends of one connection. So the first request, as its client sent it, has no
peer yet.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.ingest.process import Identity
from profiler.ingest.wire import AF_UNIX, SEND, TLS_STREAM, Chunk

if TYPE_CHECKING:
    from profiler.schema import Peer

# Sockets, and directions whose other end was not seen. Each takes less than 1 KiB.
_KEPT = 8192


@dataclass(frozen=True, eq=False)
class End:
    """A socket as its other end sees it; equal only to itself, so it is cheap as part of a key."""

    socket: int
    fields: Peer


class _Socket:
    __slots__ = ("looked_up", "other", "own")

    def __init__(self, own: End) -> None:
        self.own = own
        self.other: End | None = None
        self.looked_up = [False, False]


class Peers:
    """The sockets that moved messages, and their other ends; the oldest are forgotten."""

    def __init__(self) -> None:
        self.changed: list[int] = []
        """Sockets whose other end was seen after them; whoever keeps their lines empties it."""
        self._sockets: OrderedDict[int, _Socket] = OrderedDict()
        self._waiting: OrderedDict[tuple[str, bool, int], _Socket] = OrderedDict()
        self._is_frozen = False

    def freeze(self) -> None:
        """Learn no more: at the end of a capture, messages come in no particular order."""
        self._is_frozen = True

    def other(self, socket: int) -> End | None:
        """Return the other end of a socket; ``None`` if it was not seen."""
        known = self._sockets.get(socket)
        return known.other if known is not None else None

    def has_met(self, origin: Chunk) -> bool:
        """Whether :meth:`meet` would learn nothing from a message with this ``origin``."""
        known = self._sockets.get(origin.socket)
        if known is None:
            return self._is_frozen
        return known.other is not None or known.looked_up[origin.direction] or self._is_frozen

    def meet(
        self,
        origin: Chunk,
        connection: str | None,
        is_client: bool,
        comm: str,
        process: Identity | None,
    ) -> None:
        """Remember the socket that moved ``origin``, and look for its other end.

        ``connection`` is its field of the record. With TLS in a library, nothing identifies the
        direction.
        """
        known = self._sockets.get(origin.socket)
        if known is None:
            known = _Socket(End(origin.socket, _fields(origin.pid, comm, process)))
            _keep(self._sockets, origin.socket, known)
        known.looked_up[origin.direction] = True
        is_identified = origin.family == AF_UNIX or origin.sequence
        if connection is None or not is_identified or origin.socket & TLS_STREAM:
            return
        direction = connection, (origin.direction == SEND) == is_client, origin.sequence
        first = self._waiting.pop(direction, None)
        # A socket that was forgotten meets what is left of itself.
        if first is None or first.own.socket == origin.socket:
            _keep(self._waiting, direction, known)
        else:
            known.other, first.other = first.own, known.own
            self.changed.append(first.own.socket)


def _fields(pid: int, comm: str, process: Identity | None) -> Peer:
    fields: Peer = {}
    if process is not None and process.workload is not None:
        fields.update(process.workload.fields)  # type: ignore[typeddict-item]
    fields["process"] = {"pid": pid, "comm": comm}
    return fields


def _keep(table: OrderedDict, key: object, value: object) -> None:  # type: ignore[type-arg]
    table[key] = value
    if len(table) > _KEPT:
        table.popitem(last=False)
