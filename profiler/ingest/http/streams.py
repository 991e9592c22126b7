"""What the two directions of an HTTP/2 connection must know of each other.

Each stream carries one request and its responses (RFC 9113, 8.1), so a response
finds its request by the stream's number.
"""

from __future__ import annotations

from profiler.ingest.http.connection import request_size
from profiler.ingest.http.message import Request

# Streams of one direction that are open at once, and requests that wait for their response:
# endpoints permit a hundred or a few (RFC 9113, 5.1.2).
STREAMS_MAX = 1000

# What two readers, with their HPACK tables, take more than those of HTTP/1: measured,
# tests/unit/test_memory.py.
_READERS_SIZE = 3400


class Connection:
    """What the two directions must know of each other.

    ``requests`` is the direction of the client, once that is known. ``proven``
    is set with the first message. ``error`` is what a GOAWAY
    said was wrong.
    """

    __slots__ = ("_asked", "_first_number", "error", "held", "proven", "requests")

    def __init__(self, requests: int | None, upgraded: Request | None) -> None:
        """``upgraded`` is the HTTP/1 request that is answered on stream 1 (RFC 7540, 3.2)."""
        self.requests = requests
        self.proven = False
        self.error: str | None = None
        self.held = _READERS_SIZE
        # By stream: the requests that have no final response yet.
        self._asked: dict[int, Request] = {}
        self._first_number = 0
        if upgraded is not None:
            self._first_number = upgraded.number - 1
            self._remember(1, upgraded)

    def ask(
        self, stream: int, method: str | None, target: str | None, host: str | None, time: int
    ) -> Request:
        """A request's head was read; ``time`` is that of its first byte."""
        request = Request(self._first_number + stream, method, target, host, time)
        self._remember(stream, request)
        if len(self._asked) > STREAMS_MAX:
            self.answered(next(iter(self._asked)))
        return request

    def asked(self, stream: int) -> Request | None:
        """Return the request that a response on ``stream`` answers."""
        return self._asked.get(stream)

    def answered(self, stream: int) -> None:
        """The final response has ended, or none will come."""
        request = self._asked.pop(stream, None)
        if request is not None:
            self.held -= request_size(request)

    def _remember(self, stream: int, request: Request) -> None:
        self.answered(stream)
        self._asked[stream] = request
        self.held += request_size(request)
