# SPDX-License-Identifier: Apache-2.0
"""Turns streams into messages: bytes in, HTTP messages out, no I/O.

:class:`Messages` is the stage. It keeps two readers for each connection. Readers of HTTP/1
(``http1.py``) share what they must know of each other (``connection.py``). Readers of HTTP/2
(``http2.py``) parse frames (``frames.py``) and HPACK (``header_state.py``). ``opening.py`` detects
the version and removes a PROXY header (``proxy.py``). ``classify.py`` decides whether bytes are
HTTP/1 at all, and ``fields.py`` parses the fields of a head. ``content.py`` removes codings
of bodies, and ``charset.py`` makes text.

A socket that does not carry HTTP, or no longer does after an upgrade or CONNECT, is reported once
as :class:`NotHttp`. After that it makes no message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Union

from profiler.ingest.http import http1, http2
from profiler.ingest.http.connection import Connection
from profiler.ingest.http.frames import is_sure_start
from profiler.ingest.http.message import (
    MEMORY_LIMIT,
    Head,
    Message,
    NotHttp,
    Output,
    Proxy,
    Request,
)
from profiler.ingest.http.opening import Opening, end_of
from profiler.ingest.settings import Settings
from profiler.ingest.stream import RESET, Event, Finish, Gap
from profiler.ingest.wire import RECV, SEND, Chunk

__all__ = ["Head", "Message", "Messages", "NotHttp", "Request", "Resting"]

# Sockets that are remembered as not HTTP, for chunks that were under way when it was reported.
_NOT_HTTP_MAX = 4096

# What a connection takes while nothing is open on it: measured, tests/unit/test_memory.py.
CONNECTION_SIZE = 1200

# What a PROXY header takes, with its place in a table.
_PROXY_SIZE = 400

_Reader = Union[http1.Reader, http2.Reader]
_Readers = tuple[_Reader, _Reader]


class Resting(NamedTuple):
    """An HTTP/1 connection between two messages.

    ``requests`` is the direction of requests, and ``number`` that of the last one. ``request`` is
    the last one if it has no response yet. ``times`` are those of the last bytes, by direction.
    """

    requests: int
    number: int
    request: Request | None
    times: tuple[int, int]


class Messages:
    """The connections that are open, and their readers by direction."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._readers: dict[int, _Readers] = {}
        self._openings: dict[int, Opening] = {}
        self._not_http: dict[int, None] = {}
        # By socket: what a PROXY header states, for as long as its connection is open.
        self._proxies: dict[int, Proxy] = {}
        # By the requests of connections that were dropped, because these may resume.
        self._numbers_used = 0

    def feed(self, event: Event) -> Sequence[Output]:
        """Return the messages that ``event`` completes, in the order of their ends."""
        socket = event.socket
        readers = self._readers.get(socket)
        out: list[Output] = []
        if readers is not None:
            self._feed(readers, event, out)
            return self._stamp(socket, out) if self._proxies else out
        opening = self._openings.pop(socket, None)
        if opening is None:
            if isinstance(event, Finish):
                self._not_http.pop(socket, None)
                return ()
            if socket in self._not_http:
                # It is still forwarded, so whoever ignores it has forgotten that.
                return (NotHttp(socket),)
            opening = Opening()
        opening.feed(event)
        if opening.http2 is None:
            self._openings[socket] = opening
            return ()
        self._readers[socket] = self._open(opening)
        if opening.proxy is not None:
            self._proxies[socket] = opening.proxy
        for held in opening.events:
            readers = self._readers.get(socket)
            if readers is not None:
                self._feed(readers, held, out)
        return self._stamp(socket, out) if self._proxies else out

    def finish(self, socket: int) -> Sequence[Output]:
        """The capture ends: forget a connection; return its messages that are still open."""
        out: list[Output] = []
        self._openings.pop(socket, None)
        _finish(self._readers.get(socket, ()), out)
        self._close(socket)
        return self._stamp(socket, out) if self._proxies else out

    def sockets(self) -> list[int]:
        """Return the connections that are open, in the order in which they were first seen."""
        return [*self._readers, *self._openings]

    def held(self, socket: int) -> int:
        """Return the bytes of memory that a connection takes; 0 if it is not known."""
        readers = self._readers.get(socket)
        if readers is None:
            opening = self._openings.get(socket)
            return 0 if opening is None else CONNECTION_SIZE + opening.held
        sender, receiver = readers
        held = CONNECTION_SIZE + sender.connection.held + sender.held + receiver.held
        return held + _PROXY_SIZE if self._proxies and socket in self._proxies else held

    @property
    def known(self) -> tuple[dict[int, Any], ...]:
        """The tables whose keys are the sockets that are known; they are never replaced."""
        return self._readers, self._openings, self._not_http

    @property
    def numbers_from_one(self) -> bool:
        """Whether the requests of a new connection are numbered from 1 on."""
        return not self._numbers_used

    def resting(self, socket: int) -> Resting | None:
        """Return the state of a connection; ``None`` if that takes more to describe."""
        sender, receiver = self._readers.get(socket, (None, None))
        if not (isinstance(sender, http1.Reader) and isinstance(receiver, http1.Reader)):
            return None
        connection = sender.connection
        if not (sender.rests and receiver.rests and connection.rests) or socket in self._proxies:
            return None
        assert connection.requests is not None
        times = sender.last_time, receiver.last_time
        return Resting(connection.requests, connection.count, connection.request, times)

    def resume(self, socket: int, resting: Resting) -> None:
        """Continue a connection that was forgotten in this state."""
        connection = Connection(count=resting.number)
        connection.resume(resting.requests, resting.request)
        sender = http1.Reader(SEND, connection, self._settings)
        receiver = http1.Reader(RECV, connection, self._settings)
        for reader, time in zip((sender, receiver), resting.times):
            reader.resume(time)
        self._readers[socket] = sender, receiver

    def give_up(self, socket: int, reason: str = MEMORY_LIMIT) -> Sequence[Output]:
        """Forget a connection, for ``reason``; return the messages that are open.

        If traffic resumes, it is parsed like a connection first seen mid-stream.
        """
        out: list[Output] = []
        self._openings.pop(socket, None)
        for reader in self._readers.get(socket, ()):
            reader.give_up(reason, out)
            if isinstance(reader, http1.Reader):
                self._numbers_used = max(self._numbers_used, reader.connection.count)
        self._close(socket)
        return self._stamp(socket, out) if self._proxies else out

    def forget(self, socket: int) -> None:
        """Drop the state of ``socket`` without its messages: its readers cannot be trusted."""
        self._openings.pop(socket, None)
        self._close(socket)
        self._proxies.pop(socket, None)

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._readers) + len(self._openings)

    def _stamp(self, socket: int, out: list[Output]) -> list[Output]:
        """Add what the PROXY header of ``socket`` states to its messages."""
        proxy = self._proxies.get(socket)
        if proxy is None:
            return out
        if socket not in self._readers:
            del self._proxies[socket]
        return [item._replace(proxy=proxy) if isinstance(item, Message) else item for item in out]

    def _open(self, opening: Opening) -> _Readers:
        if opening.http2:
            return http2.readers(self._settings, joined=False, requests=opening.requests)
        connection = Connection(opening.joined, self._numbers_used)
        return (
            http1.Reader(SEND, connection, self._settings),
            http1.Reader(RECV, connection, self._settings),
        )

    def _feed(self, readers: _Readers, event: Event, out: list[Output]) -> None:
        reader = readers[event.direction]
        if isinstance(event, Chunk):
            if (
                isinstance(reader, http1.Reader)
                and reader.connection.requests is None
                and reader.skips
                and is_sure_start(event)
            ):
                readers = self._replace(event.socket, http2.readers(self._settings, joined=True))
                reader = readers[event.direction]
            reader.feed(event, out)
            if reader.over is not None:
                self._leave(readers, event, out)
        elif isinstance(event, Gap):
            reader.gap(event, out)
        else:
            # A process that has not met the end when it closes has not seen the rest.
            ended = event.direction == SEND or not readers[SEND].finished
            reader.finish(out, ended and event.reason != RESET, event)
            if readers[0].finished and readers[1].finished:
                self._close(event.socket)

    def _leave(self, readers: _Readers, event: Chunk, out: list[Output]) -> None:
        """With ``event`` HTTP ends, or continues in another version."""
        socket, direction = event.socket, event.direction
        reader = readers[direction]
        following: _Readers
        if isinstance(reader, http2.Reader) and reader.over == http2.HTTP1:
            connection = Connection()
            connection.requests = 1 - direction
            answer = http1.Reader(direction, connection, self._settings)
            following = (answer, readers[RECV]) if direction == SEND else (readers[SEND], answer)
            self._readers[socket] = following
            rest = reader.rest
            reader.close()
            self._feed(following, end_of(event, rest), out)
            return
        if isinstance(reader, http1.Reader) and reader.over == "h2c":
            # RFC 7540, 3.2: the request that was upgraded is answered on stream 1.
            (upgrade,) = [output for output in out[-1:] if isinstance(output, Message)]
            following = http2.readers(
                self._settings, False, 1 - direction, upgraded=upgrade.head.request
            )
            self._replace(socket, following)
            _finish(readers, out)
            if reader.rest:
                self._feed(following, end_of(event, reader.rest), out)
            return
        _finish(readers, out)
        self._close(socket)
        self._not_http[socket] = None
        if len(self._not_http) > _NOT_HTTP_MAX:
            del self._not_http[next(iter(self._not_http))]
        out.append(NotHttp(socket))

    def _close(self, socket: int) -> None:
        for reader in self._readers.pop(socket, ()):
            if isinstance(reader, http2.Reader):
                reader.close()

    def _replace(self, socket: int, new: _Readers) -> _Readers:
        old = self._readers[socket]
        for direction in (SEND, RECV):
            new[direction].finished = old[direction].finished
        self._readers[socket] = new
        return new


def _finish(readers: Iterable[_Reader], out: list[Output]) -> None:
    for reader in readers:
        reader.finish(out, ended=False)
