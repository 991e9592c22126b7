# SPDX-License-Identifier: Apache-2.0
"""What the two directions of a connection must know of each other.

A response can only be framed by who knows its request (HEAD, CONNECT), and
responses come in the order of their requests (RFC 9112, 9.3.2): so the requests
in flight are kept here, first in, first out. A request is in flight from the moment
its head is read, because its response may start before its body is complete.

A hole may have swallowed requests or responses. The rule then is to leave a
response without a request rather than to give it the wrong one. Requests in flight
at that time are forgotten, and pairing resumes with the next request. If the client
pipelines, pairing does not resume, because it is unknown which answers are still to
come. A client is known to pipeline only after it was seen to.
"""

from __future__ import annotations

from typing import Callable

from profiler.ingest.http.draft import without_payload
from profiler.ingest.http.message import REQUEST, RESPONSE, Output, Request, Type, request_size
from profiler.ingest.wire import Chunk, construct

# More requests than any client sends ahead: if as many are in flight, no responses are seen.
INFLIGHT_MAX = 1000

# A payload of this size is kept with its chunk, which is cheaper than a chunk without it.
_PAYLOAD_MAX = 512


class Connection:
    """The requests of one connection that have no final response yet.

    ``requests`` is the direction that carries them, told by the first start
    line in either direction: from then on the connection is HTTP, whatever
    else it carries. ``joined`` says that it carried bytes before those that are
    seen. ``ended`` is set when responses have ended, and all of them were read.
    ``held`` is the memory, in bytes, of the requests in flight. ``undecided`` is set while one
    direction has begun with something else than HTTP, and the other has not begun. The first start
    line there decides, and calls it.
    """

    __slots__ = (
        "_inflight", "_pipelines", "_unasked_time", "count", "ended", "held", "joined", "requests",
        "undecided",
    )  # fmt: skip

    def __init__(self, joined: bool = False, count: int = 0) -> None:
        """Requests are numbered from ``count`` + 1 on."""
        self.joined = joined
        self.requests: int | None = None
        self.undecided: Callable[[list[Output]], None] | None = None
        self.ended = False
        self.held = 0
        self.count = count
        # None stands for requests of unknown number: those after it are never paired.
        # A list: nearly always of one, and an empty deque takes ten times as much.
        self._inflight: list[Request | None] = []
        self._pipelines = False
        self._unasked_time = 0  # of the last final response that found none in flight

    @property
    def rests(self) -> bool:
        """Whether ``requests``, ``count`` and ``request`` are all of its state."""
        inflight = self._inflight
        if self.requests is None or self.undecided is not None or self.ended:
            return False
        if self._pipelines or self._unasked_time or len(inflight) > 1:
            return False
        return not inflight or (inflight[0] is not None and inflight[0].number == self.count)

    @property
    def request(self) -> Request | None:
        """The first request in flight."""
        return self._inflight[0] if self._inflight else None

    def resume(self, requests: int, request: Request | None) -> None:
        """Continue with at most one ``request`` in flight, in direction ``requests``."""
        self.requests = requests
        if request is not None:
            self._inflight.append(request)
            self.held += request_size(request)

    def type_in(self, direction: int) -> Type | None:
        """Return the type of the messages in ``direction``; ``None`` while it is not known."""
        if self.requests is None:
            return None
        return REQUEST if self.requests == direction else RESPONSE

    def ask(
        self, method: str | None, target: str | None, host: str | None, origin: Chunk
    ) -> Request:
        """A request's head was read; ``origin`` is the chunk of its first byte."""
        self.count += 1
        if len(origin.payload) > _PAYLOAD_MAX:
            origin = without_payload(origin)
        request = construct(Request, (self.count, method, target, host, origin))
        inflight = self._inflight
        time = origin.time
        if time < self._unasked_time:
            # It took so long to read that its answer has gone by.
            self._unasked_time = 0
            return request
        if inflight:
            last = inflight[-1]
            if last is not None and last.origin.time == time:
                self._pipelines = True  # both began in one syscall
            if len(inflight) >= INFLIGHT_MAX:
                self._clear()
                inflight.append(None)
        inflight.append(request)
        self.held += request_size(request)
        return request

    def answer(self, status: int | None, time: int) -> Request | None:
        """A response's head was read: return its request, if that is known."""
        # RFC 9110, 15.2: a 1xx response is an interim one. 101 is the last of HTTP.
        final = status is None or not 100 <= status < 200 or status == 101
        inflight = self._inflight
        if not inflight:
            if final:
                self._unasked_time = time
            return None
        request = inflight[0]
        if request is not None and request.origin.time > time:
            # Its head was cut off and is reported only now: it cannot answer what came later.
            return None
        if request is not None and final:
            self._remove_first()
            if inflight:
                self._pipelines = True
        return request

    def missed_requests(self) -> None:
        """Requests resume after a hole: if some are in flight, it is not known how many."""
        inflight = self._inflight
        # One None is enough; a peer that causes holes must not make the list grow.
        if (inflight and inflight[-1] is not None) or (not inflight and self._pipelines):
            inflight.append(None)

    def missed_responses(self, time: int) -> None:
        """Responses until ``time`` may have been in a hole, and have answered earlier requests."""
        inflight = self._inflight
        if self._pipelines:
            self._clear()
            inflight.append(None)
            return
        while inflight and (inflight[0] is None or inflight[0].origin.time <= time):
            self._remove_first()

    def unanswered(self) -> list[Request]:
        """Return the requests in flight, and forget them: no response comes any more."""
        inflight = self._inflight
        # Behind requests of unknown number any may have been answered.
        sure = inflight[:1] != [None]
        requests = [request for request in inflight if sure and request is not None]
        self._clear()
        return requests

    def _remove_first(self) -> None:
        request = self._inflight.pop(0)
        if request is not None:
            self.held -= request_size(request)

    def _clear(self) -> None:
        self._inflight.clear()
        self.held = 0
