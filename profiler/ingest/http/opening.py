# SPDX-License-Identifier: Apache-2.0
"""Which version of HTTP does a connection begin with?

HTTP/2 begins with the client's preface (RFC 9113, 3.4), or, since a server need
not wait for that, with the server's SETTINGS. Their first bytes identify both, and
may come one by one: so bytes that begin like either wait here until it is decided.
Everything else goes to HTTP/1, which decides whether it is that (``classify.py``).
"""

from __future__ import annotations

from profiler.ingest.http.frames import HEADER_SIZE, PREFACE
from profiler.ingest.stream import Event
from profiler.ingest.wire import FLAG_JOINED, Chunk


class Opening:
    """The first events of a connection, until it is told whether it is ``http2``.

    ``requests`` is then the client's direction.
    """

    __slots__ = ("_begun", "events", "http2", "requests")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.http2: bool | None = None
        self.requests: int | None = None
        self._begun = [b"", b""]

    def feed(self, event: Event) -> None:
        """Look at the next event."""
        self.events.append(event)
        direction = event.direction
        begun = self._begun[direction]
        if (
            not isinstance(event, Chunk)
            or event.flags & FLAG_JOINED
            or event.position != len(begun)
        ):
            # What comes is not the beginning, so nothing but whole messages or frames can tell.
            self.http2 = False
            return
        begun += event.payload
        self._begun[direction] = begun
        if begun.startswith(PREFACE):
            self.http2, self.requests = True, direction
        elif may_be_settings(begun):
            if len(begun) >= HEADER_SIZE:
                self.http2, self.requests = True, 1 - direction
        elif not PREFACE.startswith(begun):
            self.http2 = False


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
