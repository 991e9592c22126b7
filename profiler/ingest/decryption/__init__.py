# SPDX-License-Identifier: Apache-2.0
"""Decrypts TLS with the secrets of a key log (--tls-keys): ciphertext in, plain text out, no I/O.

:class:`Decryption` is the stage between ``stream`` and ``http``. Connections that do not begin
with a TLS handshake pass through it unchanged. ``connection`` decrypts one connection;
``handshake`` parses hellos, ``ciphers`` opens records and ``keylog`` finds their secrets. Nothing
is sent or verified: certificates do not matter to an observer who has the keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple, Union

from profiler.errors import UnsupportedError
from profiler.ingest.decryption.connection import HANDSHAKE_RECORD, Connection
from profiler.ingest.decryption.handshake import CLIENT_HELLO, Handshake
from profiler.ingest.decryption.keylog import LINE_MAX, KeyLog, line_of, parse
from profiler.ingest.stream import Event, Finish
from profiler.ingest.wire import FLAG_JOINED, Chunk

__all__ = ["LINE_MAX", "Decryption", "Handshake", "Undecryptable", "load"]

# Sockets that are remembered as undecryptable, for chunks that were under way.
_OVER_MAX = 4096
# Closed connections that still wait for a key. A key is written before its connection is closed,
# so it is late only as long as the key log is not read.
_CLOSED_MAX = 256

MEMORY = "it held too much memory"


class Undecryptable(NamedTuple):
    """No more plain text of this socket will come: its bytes need not be forwarded."""

    socket: int


PlainEvent = Union[Event, Handshake, Undecryptable]


def load() -> None:
    """Import what decryption needs. Raises UnsupportedError if the package is missing."""
    if find_spec("cryptography") is None:
        raise UnsupportedError(
            "decrypting TLS needs the package cryptography: install http-profiler[tls]"
        )
    from profiler.ingest.decryption import ciphers  # noqa: F401


class Decryption:
    """The connections that are being decrypted."""

    def __init__(self) -> None:
        self._keys = KeyLog()
        self._connections: dict[int, Connection] = {}
        self._by_random: dict[bytes, dict[int, None]] = {}
        self._over: OrderedDict[int, None] = OrderedDict()
        self._closed: OrderedDict[int, None] = OrderedDict()
        self.causes: dict[str, int] = {}
        """Cause -> connections that are not decrypted, or not to their end, because of it."""

    def learn(self, lines: bytes) -> Sequence[int]:
        """Take lines of a key log; return the sockets to resume with them."""
        waiting: dict[int, None] = {}
        for line in lines.splitlines():
            secret = parse(line)
            if secret is not None:
                self._keys.add(secret)
                waiting.update(self._by_random.get(secret.random, {}))
        return tuple(waiting)

    def resume(self, socket: int) -> Sequence[PlainEvent]:
        """Return the plain text that a new secret reveals."""
        connection = self._connections[socket]
        out: list[PlainEvent] = [*connection.resume()]
        self._settle(socket, connection, out)
        return out

    def used(self) -> bytes:
        """Return the lines of the key log that were used since the previous call."""
        return b"".join(line_of(secret) + b"\n" for secret in self._keys.newly_used())

    def feed(self, event: Event) -> Sequence[PlainEvent]:
        """Return the plain text that ``event`` reveals; ``event`` itself if it is no TLS.

        Raises UnsupportedError if the package for decryption is missing.
        """
        socket = event.socket
        connection = self._connections.get(socket)
        if connection is None:
            if _begins(event) and (socket not in self._over or _is_client_hello(event)):
                if not self._connections:
                    load()
                self._over.pop(socket, None)
                connection = self._connections[socket] = Connection(socket, self._keys)
            elif socket not in self._over:
                return (event,)
            elif isinstance(event, Chunk):
                return (Undecryptable(socket),)
            else:
                return (event,) if isinstance(event, Finish) else ()
        random = connection.random
        out: list[PlainEvent] = [*connection.feed(event)]
        if connection.random != random and connection.random:
            self._by_random.setdefault(connection.random, {})[socket] = None
        self._settle(socket, connection, out)
        if isinstance(event, Finish) and socket in self._connections and connection.is_closed:
            self._closed[socket] = None
            if len(self._closed) > _CLOSED_MAX:
                oldest = next(iter(self._closed))
                self.give_up(oldest, self._connections[oldest].missing)
        return out

    def held(self, socket: int) -> int:
        """Return the bytes of memory that a connection takes; 0 if it is not being decrypted."""
        connection = self._connections.get(socket)
        return connection.held if connection else 0

    def give_up(self, socket: int, cause: str = MEMORY) -> None:
        """Drop the state of ``socket``; its further bytes are not decrypted."""
        connection = self._connections.get(socket)
        if connection:
            self._count(connection.cause or cause)
            self._end(socket, connection)

    def finish(self) -> None:
        """The capture ends: count what still waits for a key."""
        for socket, connection in tuple(self._connections.items()):
            if connection.cause or connection.is_waiting:
                self._count(connection.cause or connection.missing)
            self._forget(socket, connection)

    def __len__(self) -> int:
        """Connections that are being decrypted."""
        return len(self._connections)

    def _settle(self, socket: int, connection: Connection, out: list[PlainEvent]) -> None:
        """Forget a connection that is over."""
        if connection.is_over:
            self._count(connection.cause or connection.missing)
            self._end(socket, connection)
            out.append(Undecryptable(socket))
        elif connection.is_finished:
            if connection.cause:
                self._count(connection.cause)
            self._forget(socket, connection)

    def _end(self, socket: int, connection: Connection) -> None:
        self._forget(socket, connection)
        self._over[socket] = None
        if len(self._over) > _OVER_MAX:
            self._over.popitem(last=False)

    def _forget(self, socket: int, connection: Connection) -> None:
        del self._connections[socket]
        self._closed.pop(socket, None)
        if connection.random:
            sockets = self._by_random.get(connection.random, {})
            sockets.pop(socket, None)
            if not sockets:
                self._by_random.pop(connection.random, None)

    def _count(self, cause: str) -> None:
        self.causes[cause] = self.causes.get(cause, 0) + 1


def _is_client_hello(event: Event) -> bool:
    """Whether the inode belongs to another connection now, not to the rest of an earlier one."""
    return isinstance(event, Chunk) and event.payload[5:6] == bytes([CLIENT_HELLO])


def _begins(event: Event) -> bool:
    """Whether a connection of TLS begins: no message of HTTP begins with this byte."""
    return (
        isinstance(event, Chunk)
        and event.position == 0
        and not event.flags & FLAG_JOINED
        and event.payload[:1] == bytes([HANDSHAKE_RECORD])
    )
