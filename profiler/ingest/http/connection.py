"""What the two directions of a connection must know of each other.

A response can only be framed by who knows its request (HEAD, CONNECT), and
responses come in the order of their requests (RFC 9112, 9.3.2): so requests
wait here, first in, first out. A request waits from the moment its head is
read, because its response may start before its body is complete.

A hole may have swallowed requests or responses. The rule then is to leave a
response without a request rather than to give it the wrong one: whoever waited
when it showed is given up, and pairing begins again with the next request, unless
the client pipelines: then nobody can tell which answers are still to come. That a
client pipelines is only known once it was seen to.
"""

from __future__ import annotations

from profiler.ingest.http.message import REQUEST, RESPONSE, Request, Type

# More requests than any client sends ahead: if as many wait, responses are not being seen.
WAITING_MAX = 1000

# What a request takes besides its method, target and host.
_REQUEST_SIZE = 250


class Connection:
    """The requests of one connection that wait for their final response.

    ``requests`` is the direction that carries them, told by the first start
    line in either direction: from then on the connection is HTTP, whatever
    else it carries. ``joined`` says that it carried bytes before those that are
    seen. ``held`` is the memory, in bytes, of the requests that wait.
    """

    __slots__ = (
        "_pipelines", "_unasked_time", "_waiting", "count", "held", "joined", "requests",
    )  # fmt: skip

    def __init__(self, joined: bool = False, count: int = 0) -> None:
        """Requests are numbered from ``count`` + 1 on."""
        self.joined = joined
        self.requests: int | None = None
        self.held = 0
        self.count = count
        # None stands for requests of unknown number: who waits behind it waits in vain.
        # A list: nearly always of one, and an empty deque takes ten times as much.
        self._waiting: list[Request | None] = []
        self._pipelines = False
        self._unasked_time = 0  # of the last final response that found nobody waiting

    def type_in(self, direction: int) -> Type | None:
        """Return the type of the messages in ``direction``; ``None`` while it is not known."""
        if self.requests is None:
            return None
        return REQUEST if self.requests == direction else RESPONSE

    def ask(self, method: str, target: str, host: str | None, time: int) -> Request:
        """A request's head was read; ``time`` is that of its first byte."""
        self.count += 1
        request = _new(Request, (self.count, method, target, host, time))
        waiting = self._waiting
        if time < self._unasked_time:
            # It took so long to read that its answer has gone by.
            self._unasked_time = 0
            return request
        if waiting:
            last = waiting[-1]
            if last is not None and last.time == time:
                self._pipelines = True  # both began in one syscall
            if len(waiting) >= WAITING_MAX:
                self._clear()
                waiting.append(None)
        waiting.append(request)
        self.held += request_size(request)
        return request

    def answer(self, status: int, time: int) -> Request | None:
        """A response's head was read: return its request, if that is known."""
        # RFC 9110, 15.2: a 1xx response is an interim one. 101 is the last of HTTP.
        final = status >= 200 or status == 101
        waiting = self._waiting
        if not waiting:
            if final:
                self._unasked_time = time
            return None
        request = waiting[0]
        if request is not None and request.time > time:
            # Its head was cut off and is only now given up: it cannot answer what came later.
            return None
        if request is not None and final:
            self._remove_first()
            if waiting:
                self._pipelines = True
        return request

    def missed_requests(self) -> None:
        """Requests go on behind a hole: if some wait already, it is not known how many."""
        if self._waiting or self._pipelines:
            self._waiting.append(None)

    def missed_responses(self, time: int) -> None:
        """Responses until ``time`` may have been in a hole: who waited then may be answered."""
        waiting = self._waiting
        if self._pipelines:
            self._clear()
            waiting.append(None)
            return
        while waiting and (waiting[0] is None or waiting[0].time <= time):
            self._remove_first()

    def _remove_first(self) -> None:
        request = self._waiting.pop(0)
        if request is not None:
            self.held -= request_size(request)

    def _clear(self) -> None:
        self._waiting.clear()
        self.held = 0


# NamedTuple's own way goes through Python.
_new = tuple.__new__


def request_size(request: Request) -> int:
    """Return the bytes of memory that a request takes while it waits."""
    _, method, target, host, _ = request
    return _REQUEST_SIZE + len(method or "") + len(target or "") + len(host or "")
