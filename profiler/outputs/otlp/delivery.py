# SPDX-License-Identifier: Apache-2.0
"""A bounded queue of spans, and the thread that sends them in batches.

``spans = sent + dropped + waiting`` at every moment. What a Collector cannot take now is tried
again, until it can or the time for that is over; what it refuses is dropped
(https://opentelemetry.io/docs/specs/otlp/#failures). A response can get lost after the Collector
took a batch; then it gets the batch twice, with the same ids.
"""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import http.client
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from profiler.outputs.otlp.endpoint import Endpoint
from profiler.outputs.otlp.protobuf import fields, message
from profiler.outputs.otlp.spans import SCOPE, Span

BATCH_SPANS = 512
_BATCH_BYTES = 1024 * 1024
# How long the first span of a batch waits for others.
_LINGER_SECONDS = 1.0
# https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
_RETRYABLE = frozenset((429, 502, 503, 504))
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_RETRY_AFTER_MAX = 300.0
_REPEAT_SECONDS = 60.0
_RESPONSE_MAX = 64 * 1024
# What a span takes in the queue besides its bytes: three objects and a place.
OVERHEAD = 250

DROPPED = ("queue_full", "refused", "rejected", "unreachable", "end", "error", "stopped")
"""Why a span was dropped: the queue was full; the Collector answered a request with an error that
is final; it rejected part of a request; it could not be reached for too long; the capture ended; an
error of the profiler; the process that exports ended before the capture."""


@dataclass
class Counts:
    """What became of all spans."""

    spans: int = 0
    sent: int = 0
    waiting: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPPED, 0))


class Answer(NamedTuple):
    """What a Collector said to a batch."""

    kind: Literal["accepted", "refused", "retry"]
    rejected: int = 0
    """Spans that it did not accept."""
    cause: object = None
    """The kind of trouble; ``None`` if there was none."""
    trouble: str = ""
    """What happened, in one line."""
    wait: float | None = None
    """Seconds to wait before the next try, if it said so."""


class Queue:
    """Spans that wait, at most ``max_bytes`` of them, and what became of the others."""

    def __init__(self, max_bytes: int) -> None:
        self.changed = threading.Condition()
        self.counts = Counts()
        self._max_bytes = max_bytes
        self._spans: deque[tuple[float, Span]] = deque()
        self._bytes = 0
        self._in_flight: list[Span] = []
        self.is_closed = False

    def put(self, span: Span, may_wait: Callable[[], bool] = lambda: False) -> None:
        """Append a span, or drop it if there is no room; ``may_wait``: wait for room first."""
        size = len(span.content) + OVERHEAD
        with self.changed:
            self.counts.spans += 1
            while self._bytes + size > self._max_bytes and may_wait():
                self.changed.wait(0.1)
            if self._bytes + size > self._max_bytes:
                self.counts.dropped["queue_full"] += 1
                return
            self._spans.append((time.monotonic(), span))
            self._bytes += size
            self.counts.waiting += 1
            if len(self._spans) in (1, BATCH_SPANS):
                self.changed.notify_all()

    def count_error(self) -> int:
        """Count a span that could not be made; return how many there are."""
        with self.changed:
            self.counts.spans += 1
            self.counts.dropped["error"] += 1
            return self.counts.dropped["error"]

    def take(self) -> list[Span]:
        """Wait for a batch and return it; it stays in the queue until :meth:`settle`.

        Empty once the queue is closed and has no more.
        """
        with self.changed:
            while True:
                if self._spans:
                    age = time.monotonic() - self._spans[0][0]
                    left = _LINGER_SECONDS - age
                    if len(self._spans) >= BATCH_SPANS or left <= 0 or self.is_closed:
                        break
                    self.changed.wait(left)
                elif self.is_closed:
                    return []
                else:
                    self.changed.wait()
            batch: list[Span] = []
            size = 0
            while self._spans and len(batch) < BATCH_SPANS and size < _BATCH_BYTES:
                span = self._spans.popleft()[1]
                size += len(span.content)
                batch.append(span)
            self._in_flight = batch
            return batch

    def settle(self, sent: int, reason: str = "") -> None:
        """Count the batch that :meth:`take` returned: ``sent`` of it, the rest was dropped."""
        with self.changed:
            batch, self._in_flight = self._in_flight, []
            if not batch:
                return  # The time was over, and drop_all() has counted it.
            self._bytes -= sum(len(span.content) + OVERHEAD for span in batch)
            self.counts.sent += sent
            self.counts.waiting -= len(batch)
            if sent < len(batch):
                self.counts.dropped[reason] += len(batch) - sent
            self.changed.notify_all()

    def close(self) -> None:
        """Let :meth:`take` return what is left."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()

    def wait_for_end(self, seconds: float) -> None:
        """Wait at most so long for :meth:`close`."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_closed, seconds)

    def drained(self, seconds: float) -> bool:
        """Wait at most so long until nothing waits; return whether it is so."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.counts.waiting, seconds)

    def drop_all(self, reason: str) -> None:
        """Drop everything that waits."""
        with self.changed:
            self.counts.dropped[reason] += self.counts.waiting
            self.counts.waiting = self._bytes = 0
            self._spans.clear()
            self._in_flight = []
            self.changed.notify_all()

    def snapshot(self) -> Counts:
        """Return a copy of the counts."""
        with self.changed:
            counts = self.counts
            return Counts(counts.spans, counts.sent, counts.waiting, dict(counts.dropped))


class Client:
    """Sends requests to a path of a Collector, on a connection that is kept.

    ``report`` takes lines for the user: at most one a minute for each kind of trouble, and one when
    it is over.
    """

    def __init__(self, endpoint: Endpoint, report: Callable[[str], None]) -> None:
        self.endpoint = endpoint
        self._report = report
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": "http-profiler",
            **({"Content-Encoding": "gzip"} if endpoint.gzip else {}),
            **endpoint.headers,
        }
        self.since: float | None = None
        """When sending began to fail, without a success since."""
        self._reported: dict[object, float] = {}

    def pack(self, request: bytes) -> bytes:
        """Compress a request, if the endpoint requests it."""
        return gzip.compress(request, 1) if self.endpoint.gzip else request

    def note(self, answer: Answer) -> None:
        """Report trouble, and its end."""
        now = time.monotonic()
        if answer.kind == "retry":
            self.since = now if self.since is None else self.since
        else:
            if self.since is not None and answer.cause is None:
                self._report(f"OTLP: {self.endpoint} accepts data again")
                self._reported.clear()
            self.since = None
        if answer.cause is not None:
            last = self._reported.get(answer.cause)
            if last is None or now - last > _REPEAT_SECONDS:
                self._reported[answer.cause] = now
                self._report(f"OTLP: {answer.trouble}")

    def post(self, body: bytes) -> Answer:
        """Send a packed request once."""
        end = self.endpoint
        is_reused = self._connection is not None
        try:
            connection = self._connection or self._connect()
            connection.request("POST", end.path, body, self._headers)
            response = connection.getresponse()
            content = response.read(_RESPONSE_MAX)
            if response.will_close or not response.isclosed():
                self.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            if is_reused and isinstance(error, ConnectionError):
                # It was idle, and the Collector closed it.
                return self.post(body)
            trouble = f"cannot send to {end}: {_words(error)}; trying again"
            return Answer("retry", cause=type(error), trouble=trouble)
        status = response.status
        if 200 <= status < 300:
            return _accepted(content, end)
        said = f"{end} answers {status} {response.reason}".rstrip()
        if status in _RETRYABLE:
            after = _retry_after(response.getheader("Retry-After"))
            return Answer("retry", cause=status, trouble=f"{said}; trying again", wait=after)
        detail = _status_message(content)
        said += f" ({detail})" if detail else ""
        return Answer("refused", cause=status, trouble=f"{said}: what it was sent is dropped")

    def _connect(self) -> http.client.HTTPConnection:
        end = self.endpoint
        if end.tls is not None:
            self._connection = http.client.HTTPSConnection(
                end.host, end.port, timeout=end.seconds, context=end.tls
            )
        else:
            self._connection = http.client.HTTPConnection(end.host, end.port, timeout=end.seconds)
        return self._connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()


class Sender(threading.Thread):
    """Sends batches, one at a time.

    Spans are tried again for ``patience`` seconds since the last success; ``None``: as long as the
    capture runs.
    """

    def __init__(
        self,
        queue: Queue,
        endpoint: Endpoint,
        report: Callable[[str], None],
        patience: float | None,
    ) -> None:
        super().__init__(name="otlp", daemon=True)
        self._queue = queue
        self._client = Client(endpoint, report)
        self._patience = patience

    def run(self) -> None:
        """Send until the queue is closed and empty."""
        while batch := self._queue.take():
            self._deliver(batch)
        self._client.close()

    @property
    def has_given_up(self) -> bool:
        """Whether the Collector was out of reach for too long."""
        since = self._client.since
        return (
            self._patience is not None
            and since is not None
            and time.monotonic() - since >= self._patience
        )

    def _deliver(self, batch: list[Span]) -> None:
        body = self._client.pack(request_of(batch))
        wait = _FIRST_WAIT
        while True:
            answer = self._client.post(body)
            self._client.note(answer)
            if answer.kind == "accepted":
                self._queue.settle(max(len(batch) - answer.rejected, 0), "rejected")
                return
            if answer.kind == "refused":
                self._queue.settle(0, "refused")
                return
            if self.has_given_up:
                self._queue.settle(0, "unreachable")
                return
            # Jitter: a Collector has many clients, which lost it at the same moment.
            own = wait * random.uniform(0.5, 1.5)
            self._pause(own if answer.wait is None else answer.wait, answer.wait is not None)
            wait = min(wait * 2, _LONGEST_WAIT)

    def _pause(self, seconds: float, is_told: bool) -> None:
        """Wait for the next try. The end of the capture cuts a wait that nobody asked for."""
        seconds = min(seconds, _RETRY_AFTER_MAX)
        if self._patience is not None and self._client.since is not None:
            seconds = max(min(seconds, self._client.since + self._patience - time.monotonic()), 0.0)
        if is_told or self._queue.is_closed:
            time.sleep(seconds if is_told else min(seconds, 1.0))
        else:
            self._queue.wait_for_end(seconds)


class Latest(threading.Thread):
    """Sends the latest request; each contains the numbers of those before it.

    A request that fails is not repeated: the next one has its numbers. After one that the Collector
    refuses, none is sent: it has no use for them.
    """

    def __init__(self, endpoint: Endpoint, report: Callable[[str], None]) -> None:
        super().__init__(name="otlp-latest", daemon=True)
        self._client = Client(endpoint, report)
        self._changed = threading.Condition()
        self._request: bytes | None = None
        self._is_idle = True

    def put(self, request: bytes) -> None:
        """Send a request as soon as the one before is done."""
        if self.is_alive():
            with self._changed:
                self._request, self._is_idle = request, False
                self._changed.notify_all()

    def is_done(self, seconds: float) -> bool:
        """Wait at most so long until nothing is to be sent; return whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_idle or not self.is_alive(), seconds)

    def run(self) -> None:
        """Send until one is refused."""
        answer = Answer("accepted")
        while answer.kind != "refused":
            with self._changed:
                self._changed.wait_for(lambda: self._request is not None)
                request, self._request = self._request, None
            assert request is not None
            answer = self._client.post(self._client.pack(request))
            self._client.note(answer)
            with self._changed:
                self._is_idle = self._request is None or answer.kind == "refused"
                self._changed.notify_all()


def request_of(batch: Iterable[Span]) -> bytes:
    """Return an ``ExportTraceServiceRequest`` of spans, by resource."""
    by_resource: dict[bytes, list[bytes]] = {}
    for span in batch:
        by_resource.setdefault(span.resource, []).append(message(2, span.content))
    return b"".join(
        message(1, message(1, resource) + message(2, SCOPE + b"".join(spans)))
        for resource, spans in by_resource.items()
    )


def _accepted(content: bytes, end: Endpoint) -> Answer:
    """Read an ``ExportTraceServiceResponse``: part of the spans may be rejected."""
    rejected, text = 0, ""
    with contextlib.suppress(ValueError):
        for number, part in fields(content):
            if number == 1 and isinstance(part, bytes):
                for inner, value in fields(part):
                    if inner == 1 and isinstance(value, int):
                        rejected = value if value < 1 << 63 else 0
                    elif inner == 2 and isinstance(value, bytes):
                        text = value.decode("utf-8", "replace")
    if rejected:
        said = f"{end} rejects a part: {text or 'it gives no reason'}"
        return Answer("accepted", rejected, "rejected", said)
    if text:
        return Answer("accepted", 0, "warning", f"{end} warns: {text}")
    return Answer("accepted")


def _status_message(content: bytes) -> str:
    """Return the text of a ``google.rpc.Status``; empty if it is none."""
    with contextlib.suppress(ValueError):
        for number, value in fields(content):
            if number == 2 and isinstance(value, bytes):
                return value[:200].decode("utf-8", "replace")
    return ""


def _retry_after(text: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        date = email.utils.parsedate_to_datetime(text)
        return max(date.timestamp() - time.time(), 0.0)
    return None


def _words(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, http.client.HTTPException):
        return "it does not answer as HTTP"
    verification = getattr(error, "verify_message", None)
    if verification:
        return f"its certificate is not valid ({verification})"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
