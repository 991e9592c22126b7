"""Streams become messages: bytes in, HTTP messages out, no I/O.

:class:`Messages` is the stage. It keeps two readers for each connection: of
HTTP/1 (``http1.py``), with what they must know of each other
(``connection.py``), or of HTTP/2 (``http2.py``), on frames (``frames.py``) and
HPACK (``header_state.py``). ``opening.py`` tells which. ``classify.py`` judges
whether bytes are HTTP/1 at all, ``fields.py`` reads the fields of a head,
``content.py`` removes content codings.

A socket that turns out not to carry HTTP, or no longer does after an upgrade
or CONNECT, is reported once as :class:`NotHttp` and never makes a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Union

from profiler.http import http1, http2
from profiler.http.connection import Connection
from profiler.http.frames import is_sure_start
from profiler.http.message import Head, Message, NotHttp, Output, Request
from profiler.http.opening import Opening
from profiler.settings import Settings
from profiler.stream import Event, Finish, Gap
from profiler.wire import RECV, SEND, Chunk

__all__ = ["Head", "Message", "Messages", "NotHttp", "Request"]

# Sockets that are remembered as not HTTP, for chunks that were under way when that was said.
_NOT_HTTP_MAX = 4096


_Http2 = tuple[http2.Reader, http2.Reader]
_Readers = Union[tuple[http1.Reader, http1.Reader], _Http2]


class Messages:
    """The connections that are open, and their readers by direction."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._readers: dict[int, _Readers] = {}
        self._openings: dict[int, Opening] = {}
        self._not_http: dict[int, None] = {}

    def feed(self, event: Event) -> Sequence[Output]:
        """Return the messages that ``event`` completes, in the order of their ends."""
        socket = event.socket
        readers = self._readers.get(socket)
        out: list[Output] = []
        if readers is not None:
            self._feed(readers, event, out)
            return out
        opening = self._openings.pop(socket, None)
        if opening is None:
            if isinstance(event, Finish):
                self._not_http.pop(socket, None)
                return ()
            if socket in self._not_http:
                return ()
            opening = Opening()
        opening.feed(event)
        if opening.http2 is None:
            self._openings[socket] = opening
            return ()
        self._readers[socket] = self._open(opening)
        for held in opening.events:
            readers = self._readers.get(socket)
            if readers is not None:
                self._feed(readers, held, out)
        return out

    def finish(self) -> Sequence[Output]:
        """The capture ends: return the messages that are still open."""
        out: list[Output] = []
        for readers in self._readers.values():
            _finish(readers, out)
        self._readers.clear()
        self._openings.clear()
        return out

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._readers) + len(self._openings)

    def _open(self, opening: Opening) -> _Readers:
        if opening.http2:
            return http2.readers(self._settings, joined=False, requests=opening.requests)
        connection = Connection()
        return (
            http1.Reader(SEND, connection, self._settings),
            http1.Reader(RECV, connection, self._settings),
        )

    def _feed(self, readers: _Readers, event: Event, out: list[Output]) -> None:
        reader = readers[event.direction]
        if isinstance(event, Chunk):
            if reader.undecided and is_sure_start(event):
                following = http2.readers(self._settings, joined=True)
                reader = self._replace(event.socket, readers, following)[event.direction]
            reader.feed(event, out)
            if reader.over:
                self._leave(readers, event, out)
        elif isinstance(event, Gap):
            reader.gap(event, out)
        else:
            reader.finish(out)
            if readers[0].finished and readers[1].finished:
                del self._readers[event.socket]

    def _leave(self, readers: _Readers, event: Chunk, out: list[Output]) -> None:
        """HTTP/1, or all HTTP, ends with ``event``."""
        socket, reader = event.socket, readers[event.direction]
        last = out[-1] if out else None
        if isinstance(reader, http1.Reader) and isinstance(last, Message) and _is_h2c(last):
            following = http2.readers(
                self._settings, False, 1 - event.direction, upgraded=last.head.request
            )
            self._replace(socket, readers, following)
            _finish(readers, out)
            if reader.rest:
                self._feed(following, _end_of(event, reader.rest), out)
            return
        _finish(readers, out)
        del self._readers[socket]
        self._not_http[socket] = None
        if len(self._not_http) > _NOT_HTTP_MAX:
            del self._not_http[next(iter(self._not_http))]
        out.append(NotHttp(socket))

    def _replace(self, socket: int, old: _Readers, new: _Http2) -> _Http2:
        for direction in (SEND, RECV):
            new[direction].finished = old[direction].finished
        self._readers[socket] = new
        return new


def _finish(readers: _Readers, out: list[Output]) -> None:
    for reader in readers:
        reader.finish(out, closed=False)


def _is_h2c(message: Message) -> bool:
    """Whether HTTP/2 follows this response (RFC 7540, 3.2)."""
    head = message.head
    upgrade = head.fields.by_name.get("upgrade", "").lower()
    return head.status == 101 and "h2c" in re.split(r"[ \t,]+", upgrade)


def _end_of(chunk: Chunk, rest: bytes) -> Chunk:
    """Return the last bytes of ``chunk`` as one of their own."""
    size = len(rest)
    position = chunk.position + chunk.captured - size
    return chunk._replace(payload=rest, position=position, size=size, captured=size)
