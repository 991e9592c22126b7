# SPDX-License-Identifier: Apache-2.0
"""Finds the process at the other end of a connection, if it is on this machine.

Both ends know the TCP sequence number with which a direction begins. Together with the addresses it
identifies the direction, also where network namespaces use the same addresses. Of a Unix socket,
the inode of the client's end identifies the connection. Of a TLS session in a library, the
addresses do: its plain text has no sequence number. A socket that sent and one that received
messages in the same direction are the two ends of one connection. So the first request, as its
client sent it, has no peer yet.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.ingest.process import Identity
from profiler.ingest.wire import AF_UNIX, SEND, TLS_STREAM, Chunk

if TYPE_CHECKING:
    from profiler.schema import Peer

    # The connection, whether requests move in it, and the TCP sequence number of the first byte.
    _Direction = tuple[str, bool, int]

# Sockets, and directions whose other end was not seen. Each takes less than 1 KiB.
KEPT = 8192


@dataclass(frozen=True, eq=False)
class End:
    """A process as the other end sees it; equal only to itself, so it is cheap as part of a key."""

    fields: Peer


class _Socket:
    __slots__ = ("looked_up", "number", "other", "own")

    def __init__(self, number: int, own: End) -> None:
        self.number = number
        self.own = own
        self.other: End | None = None
        self.looked_up = [False, False]


class Peers:
    """The sockets that moved messages, and their other ends; the oldest are forgotten."""

    def __init__(self) -> None:
        self._sockets: OrderedDict[int, _Socket] = OrderedDict()
        self._waiting: OrderedDict[_Direction, tuple[_Socket, int]] = OrderedDict()
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

        ``connection`` is its field of the record.
        """
        known = self._sockets.get(origin.socket)
        if known is None:
            own = End(description_of(origin.pid, comm, process))
            known = _Socket(origin.socket, own)
            _keep(self._sockets, origin.socket, known)
        known.looked_up[origin.direction] = True
        direction = self.direction_of(origin, connection, is_client)
        if direction is None:
            return
        first, moved = self._waiting.pop(direction, (known, origin.direction))
        # A socket that was forgotten meets what is left of itself. A client uses a port again.
        if first.number == origin.socket or moved == origin.direction:
            _keep(self._waiting, direction, (known, origin.direction))
        else:
            known.other, first.other = first.own, known.own

    @staticmethod
    def direction_of(origin: Chunk, connection: str | None, is_client: bool) -> _Direction | None:
        """Return what identifies a direction at both ends; ``None`` if that is unknown."""
        has_number = origin.family != AF_UNIX and not origin.socket & TLS_STREAM
        if connection is None or (has_number and not origin.sequence):
            return None
        return connection, (origin.direction == SEND) == is_client, origin.sequence


def description_of(pid: int, comm: str, process: Identity | None) -> Peer:
    """Return the field ``peer`` of the lines of the other end."""
    fields: Peer = {}
    if process is not None and process.workload is not None:
        fields.update(process.workload.fields)  # type: ignore[typeddict-item]
    fields["process"] = {"pid": pid, "comm": comm}
    return fields


def _keep(table: OrderedDict, key: object, value: object) -> None:  # type: ignore[type-arg]
    table[key] = value
    if len(table) > KEPT:
        table.popitem(last=False)
