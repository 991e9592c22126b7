"""Streams become messages: bytes in, HTTP messages out, no I/O.

:class:`Messages` is the stage. It keeps two readers for each connection
(``http1.py``) and what they must know of each other (``connection.py``).
``classify.py`` judges whether bytes are HTTP at all, ``fields.py`` reads the
fields of a head, ``content.py`` removes content codings, ``charset.py`` makes text.

A socket that turns out not to carry HTTP, or no longer does after an upgrade
or CONNECT, is reported once as :class:`NotHttp` and never makes a message.
"""

from __future__ import annotations

from collections.abc import Sequence

from profiler.http.connection import Connection
from profiler.http.http1 import Reader
from profiler.http.message import MEMORY_LIMIT, Head, Message, NotHttp, Output, Request
from profiler.settings import Settings
from profiler.stream import Event, Finish, Gap
from profiler.wire import FLAG_JOINED, RECV, SEND, Chunk

__all__ = ["Head", "Message", "Messages", "NotHttp", "Request"]

# Sockets that are remembered as not HTTP, for chunks that were under way when that was said.
_NOT_HTTP_MAX = 4096

# What a connection takes while nothing is open on it: measured, tests/unit/test_memory.py.
CONNECTION_SIZE = 1200


class Messages:
    """The connections that are open, and their readers by direction."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._readers: dict[int, tuple[Reader, Reader]] = {}
        self._not_http: dict[int, None] = {}
        # By the requests of connections that were given up: these may go on.
        self._numbers_used = 0

    def feed(self, event: Event) -> Sequence[Output]:
        """Return the messages that ``event`` completes, in the order of their ends."""
        socket = event.socket
        readers = self._readers.get(socket)
        if readers is None:
            if isinstance(event, Finish):
                self._not_http.pop(socket, None)
                return ()
            if socket in self._not_http:
                return ()
            connection = Connection(_is_joined(event), self._numbers_used)
            readers = (
                Reader(SEND, connection, self._settings),
                Reader(RECV, connection, self._settings),
            )
            self._readers[socket] = readers
        reader = readers[event.direction]
        out: list[Output] = []
        if isinstance(event, Chunk):
            reader.feed(event, out)
            if reader.over is not None:
                self._leave(socket, out)
        elif isinstance(event, Gap):
            reader.gap(event, out)
        else:
            # A process that has not met the end when it closes has not seen the rest.
            ended = event.direction == SEND or not readers[SEND].finished
            reader.finish(out, ended and event.reason != RESET, event.reason)
            if readers[0].finished and readers[1].finished:
                del self._readers[socket]
        return out

    def finish(self) -> Sequence[Output]:
        """The capture ends: return the messages that are still open."""
        out: list[Output] = []
        for readers in self._readers.values():
            for reader in readers:
                reader.finish(out, ended=False)
        self._readers.clear()
        return out

    def held(self, socket: int) -> int:
        """Return the bytes of memory that a connection takes; 0 if it is not known."""
        readers = self._readers.get(socket)
        if readers is None:
            return 0
        sender, receiver = readers
        return CONNECTION_SIZE + sender.connection.held + sender.held + receiver.held

    def give_up(self, socket: int) -> Sequence[Output]:
        """Forget a connection that takes too much memory; return the messages that are open.

        If it goes on, it is like one that was joined.
        """
        out: list[Output] = []
        for reader in self._readers.pop(socket, ()):
            reader.give_up(MEMORY_LIMIT, out)
            self._numbers_used = max(self._numbers_used, reader.connection.count)
        return out

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._readers)

    def _leave(self, socket: int, out: list[Output]) -> None:
        for reader in self._readers.pop(socket):
            reader.finish(out, ended=False)
        self._not_http[socket] = None
        if len(self._not_http) > _NOT_HTTP_MAX:
            del self._not_http[next(iter(self._not_http))]
        out.append(NotHttp(socket))


def _is_joined(event: Event) -> bool:
    """Whether the connection carried bytes before this event, its first."""
    return not isinstance(event, Chunk) or bool(event.flags & FLAG_JOINED or event.position)
