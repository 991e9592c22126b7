# SPDX-License-Identifier: Apache-2.0
"""What the two directions of an HTTP/2 connection must know of each other.

Each stream carries one request and its responses (RFC 9113, 8.1), so a response
finds its request by the stream's number.
"""

from __future__ import annotations

from profiler.ingest.http.message import Request, request_size
from profiler.ingest.wire import Chunk

# Streams of one direction that are open at once, and requests in flight:
# endpoints permit a hundred or a few (RFC 9113, 5.1.2).
STREAMS_MAX = 1000

# What two readers, with their HPACK tables, take more than those of HTTP/1: measured,
# tests/unit/test_memory.py.
_READERS_SIZE = 3400

# Requests of streams that were reset, for responses that were on their way: a peer's frames may
# cross the RST_STREAM (RFC 9113, 5.1).
_RESET_MAX = 100


class Connection:
    """What the two directions must know of each other.

    ``requests`` is the direction of the client, once that is known. ``proven``
    is set with the first message. ``error`` is what a GOAWAY
    said was wrong.
    """

    __slots__ = (
        "_first_number", "_inflight", "_last", "_reset", "_unasked", "error", "held", "proven",
        "requests",
    )  # fmt: skip

    def __init__(self, requests: int | None, upgraded: Request | None) -> None:
        """``upgraded`` is the HTTP/1 request that is answered on stream 1 (RFC 7540, 3.2)."""
        self.requests = requests
        self.proven = False
        self.error: str | None = None
        self.held = _READERS_SIZE
        # By stream: the requests that have no final response yet.
        self._inflight: dict[int, Request] = {}
        self._reset: dict[int, Request] = {}
        self._last = [0, 0]  # the streams that were opened last by the server and by the client
        self._unasked = 0  # the last stream whose response found no request in flight
        self._first_number = 0
        if upgraded is not None:
            self._first_number = upgraded.number - 1
            self._remember(1, upgraded)

    def ask(
        self, stream: int, method: str | None, target: str | None, host: str | None, origin: Chunk
    ) -> Request:
        """A request's head was read; ``origin`` is the chunk of its first byte."""
        request = Request(self._first_number + stream, method, target, host, origin)
        # RFC 9113, 5.1.1: each new stream has a greater number. What is damaged may look like the
        # head of an old one, or have taken so long to read that the response has gone by.
        if stream > self._last[stream % 2] and stream != self._unasked:
            self._last[stream % 2] = stream
            self._remember(stream, request)
        if len(self._inflight) > STREAMS_MAX:
            self.answered(next(iter(self._inflight)))
        return request

    def asked(self, stream: int) -> Request | None:
        """Return the request that a response on ``stream`` answers."""
        request = self._inflight.get(stream) or self._reset.get(stream)
        if request is None:
            self._unasked = stream
        return request

    def answered(self, stream: int) -> Request | None:
        """The final response has ended, or none will come: forget the request, and return it."""
        request = self._inflight.pop(stream, None)
        late = self._reset.pop(stream, None)
        for one in (request, late):
            if one is not None:
                self.held -= request_size(one)
        return request

    def reset(self, stream: int, request: Request) -> None:
        """The stream of ``request`` was reset before its response began, which may still come."""
        self._reset[stream] = request
        self.held += request_size(request)
        if len(self._reset) > _RESET_MAX:
            self.held -= request_size(self._reset.pop(next(iter(self._reset))))

    def unanswered(self) -> list[tuple[int, Request]]:
        """Return the requests in flight by stream, and forget them: no response comes any more."""
        requests = [*self._inflight.items()]
        for stream, _ in requests:
            self.answered(stream)
        return requests

    def _remember(self, stream: int, request: Request) -> None:
        self._inflight[stream] = request
        self.held += request_size(request)
