# SPDX-License-Identifier: Apache-2.0
"""Which version of HTTP does a connection begin with?

HTTP/2 begins with the client's preface (RFC 9113, 3.4), or, since a server need
not wait for that, with the server's SETTINGS. Their first bytes identify both, and
may come one by one: so bytes that begin like either wait here until it is decided.
Everything else goes to HTTP/1, which decides whether it is that (``classify.py``).

A PROXY header (``proxy.py``) may precede all this. It is removed here.
"""

from __future__ import annotations

from profiler.ingest.http import proxy
from profiler.ingest.http.frames import HEADER_SIZE, PREFACE
from profiler.ingest.http.message import Proxy
from profiler.ingest.stream import Event
from profiler.ingest.wire import FLAG_JOINED, Chunk

# What an event takes besides its payload.
_EVENT_SIZE = 700

# The first bytes of a PROXY header of version 1 and 2.
_PROXY_BEGINS = (b"P", b"\r")


class Opening:
    """The first events of a connection, until it is known whether it is ``http2``.

    ``requests`` is then the client's direction. ``joined``: the connection carried bytes before.
    ``proxy`` is what a PROXY header states, ``held`` the memory of the events that wait.
    """

    __slots__ = ("_begun", "_skipped", "events", "held", "http2", "joined", "proxy", "requests")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.joined = False
        self.proxy: Proxy | None = None
        self.http2: bool | None = None
        self.requests: int | None = None
        self._begun = [b"", b""]
        self.held = 0
        self._skipped = [0, 0]  # the size of the PROXY header of each direction

    def feed(self, event: Event) -> None:
        """Look at the next event."""
        if not self.events and not any(self._skipped):
            self.joined = (
                not isinstance(event, Chunk) or event.flags & FLAG_JOINED > 0 or event.position > 0
            )
        self.events.append(event)
        # The payload waits in its event and in ``_begun``.
        self.held += _EVENT_SIZE + (2 * len(event.payload) if isinstance(event, Chunk) else 0)
        direction = event.direction
        begun = self._begun[direction]
        if (
            not isinstance(event, Chunk)
            or event.flags & FLAG_JOINED
            or event.position != self._skipped[direction] + len(begun)
        ):
            # What comes is not the beginning, so nothing but whole messages or frames can tell.
            self.http2 = False
            return
        begun += event.payload
        self._begun[direction] = begun
        if begun[:1] in _PROXY_BEGINS and not self._skipped[direction]:
            header = proxy.parse(begun)
            if header is not None:
                size, stated = header
                if not size:
                    return
                self.proxy = stated or self.proxy
                self._skip(direction, size)
                begun = self._begun[direction]
        if begun.startswith(PREFACE):
            self.http2, self.requests = True, direction
        elif may_be_settings(begun):
            if len(begun) >= HEADER_SIZE:
                self.http2, self.requests = True, 1 - direction
        elif not PREFACE.startswith(begun):
            self.http2 = False

    def _skip(self, direction: int, size: int) -> None:
        """Remove a header of ``size`` bytes from the events of ``direction``."""
        self._skipped[direction] = size
        self._begun[direction] = self._begun[direction][size:]
        kept: list[Event] = []
        for event in self.events:
            if isinstance(event, Chunk) and event.direction == direction and event.position < size:
                if event.position + event.captured > size:
                    kept.append(end_of(event, event.payload[size - event.position :]))
            else:
                kept.append(event)
        self.events = kept
        self.held = _EVENT_SIZE * len(kept) + 2 * sum(map(len, self._begun))


def end_of(chunk: Chunk, rest: bytes) -> Chunk:
    """Return the last bytes of ``chunk`` as one of their own."""
    size = len(rest)
    position = chunk.position + chunk.captured - size
    return chunk._replace(payload=rest, position=position, size=size, captured=size)


def may_be_settings(data: bytes) -> bool:
    """Whether a server's first frame may begin like ``data``, as far as that goes."""
    # RFC 9113, 6.5: length, type, no ACK, stream 0. No server has so many settings to tell.
    if data[:1] > b"\0":
        return False
    length, rest = data[:3], data[3:HEADER_SIZE]
    return (
        length[1:2] <= b"\x05"
        and (len(length) < 3 or int.from_bytes(length, "big") % 6 == 0)
        and b"\x04\0\0\0\0\0".startswith(rest)
    )
