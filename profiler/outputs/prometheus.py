# SPDX-License-Identifier: Apache-2.0
"""Serves metrics to Prometheus and to what scrapes like it (``--prometheus``).

``GET /metrics`` is the text format, or OpenMetrics with exemplars if the client prefers it.
``GET /healthz`` reports whether the capture is alive. The server runs in the process that exports.
Everything a client can cause is bounded: connections, the size of a request, the time that each
connection takes, and how often the text is made.

https://prometheus.io/docs/instrumenting/exposition_formats;
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md; names by
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from profiler.errors import OutputError, UsageError
from profiler.outputs.otlp.metrics import BOUNDS, NAMES, Histogram, Metrics

if TYPE_CHECKING:
    from profiler.accounting import Exported

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

CONNECTIONS = 4
"""So many clients are served at once; others wait."""
REQUEST_MAX = 8 * 1024
REQUEST_SECONDS = 2.0
"""How long a client may take to send its request."""
CONNECTION_SECONDS = 10.0
"""How long it may take altogether, as long as Prometheus waits by default."""
HEALTHY_SECONDS = 60.0
"""How long the capture may be silent; it reports its account each ten seconds."""

_BACKLOG = 16
# A client that asks again sooner gets the same text.
_FRESH_SECONDS = 1.0
_ADDRESS = re.compile(r"(?:(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:]*)):)?([0-9]{1,5})")
_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r?\n")
_ACCEPT = re.compile(rb"^accept:(.*)$", re.IGNORECASE | re.MULTILINE)
_QUALITY = re.compile(r";\s*q=([0-9.]+)", re.IGNORECASE)
_LEGAL = re.compile("[^a-zA-Z0-9_]")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_LE = (*map(str, BOUNDS), "+Inf")
_HELP = {
    "http.client.request.duration": "Duration of HTTP requests, as clients saw them.",
    "http.server.request.duration": "Duration of HTTP requests, as servers saw them.",
    "http_profiler.spans": "Spans that were exported or dropped.",
    "http_profiler.calls": "Calls of the kernel's socket functions, by what became of them.",
    "http_profiler.bytes": "Bytes of these calls.",
}


def listen(address: str) -> socket.socket:
    """Return a socket that listens at ``HOST:PORT``, ``:PORT`` or ``PORT``.

    Without a host, it is the loopback address. Raises UsageError and OutputError.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[3]) > 65535:
        raise UsageError(f"--prometheus {address!r}: give HOST:PORT or PORT, such as 9464")
    host = match[1] or match[2] or "127.0.0.1"
    try:
        found = socket.getaddrinfo(host, int(match[3]), type=socket.SOCK_STREAM)
        family, *_, place = found[0]
        return socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        is_of_system = isinstance(error, OSError) and not isinstance(error, socket.gaierror)
        why = os.strerror(number) if is_of_system and number else "no such host"
        raise OutputError(
            f"--prometheus {address}: cannot listen there: {why}; give another address"
        ) from None


def url_of(listener: socket.socket) -> str:
    """Return where the metrics are."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"


def render(metrics: Metrics, spans: Exported | None, is_openmetrics: bool) -> bytes:
    """Return all metrics as text; ``spans`` is ``None`` if none are exported."""
    lines = [*_histograms(metrics.histograms(), is_openmetrics)]
    for name, _, points in metrics.counters(spans):
        family = _LEGAL.sub("_", name)
        lines += _head(name, family if is_openmetrics else f"{family}_total", "counter")
        lines += [f"{family}_total{{{_labels(labels)}}} {number}" for labels, number in points]
    if is_openmetrics:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _histograms(series: list[Histogram], is_openmetrics: bool) -> Iterator[str]:
    for role, name in NAMES.items():
        # The unit is part of the name.
        family = f"{_LEGAL.sub('_', name)}_seconds"
        of_role = [one for one in series if one.role == role]
        if of_role:
            yield from _head(name, family, "histogram")
        if of_role and is_openmetrics:
            yield f"# UNIT {family} seconds"
        for one in of_role:
            labels, count = _labels(one.attributes), 0
            for le, number, exemplar in zip(_LE, one.buckets, one.exemplars):
                count += number
                line = f'{family}_bucket{{{labels},le="{le}"}} {count}'
                if exemplar is not None and is_openmetrics:
                    line += (
                        f' # {{trace_id="{exemplar.trace.hex()}",span_id="{exemplar.span.hex()}"}}'
                        f" {exemplar.seconds!r} {exemplar.time / 1e9:.3f}"
                    )
                yield line
            yield f"{family}_count{{{labels}}} {count}"
            yield f"{family}_sum{{{labels}}} {one.sum!r}"


def _head(name: str, family: str, kind: str) -> Iterator[str]:
    yield f"# HELP {family} {_HELP[name]}"
    yield f"# TYPE {family} {kind}"


def _labels(attributes: Mapping[str, Any]) -> str:
    """Return attributes as labels; those whose names become equal are joined to one."""
    found: dict[str, str] = {}
    for name, value in attributes.items():
        label = _LEGAL.sub("_", name)
        if not label or label[0].isdigit() or label.startswith("__") or label == "le":
            # These names are not permitted, or mean something.
            label = f"attribute_{label}"
        text = ",".join(value) if isinstance(value, list) else str(value)
        found[label] = f"{found[label]};{text}" if label in found else text
    return ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in found.items())


def prefers_openmetrics(accept: str) -> bool:
    """Whether a client with this ``Accept`` prefers OpenMetrics (RFC 9110, 12.5.1)."""
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for item in accept.split(","):
        media = item.partition(";")[0].strip().lower()
        if media in best:
            match = _QUALITY.search(item)
            try:
                quality = float(match[1]) if match else 1.0
            except ValueError:
                continue
            best[media] = max(best[media], quality)
    openmetrics, text = best.values()
    return openmetrics > 0 and openmetrics >= text


class _BadRequestError(Exception):
    """A status line that answers what is no valid request."""


class Server:
    """Answers the clients of a ``listener``; ``spans`` returns what became of the spans."""

    def __init__(
        self,
        listener: socket.socket,
        metrics: Metrics,
        spans: Callable[[], Exported | None],
    ) -> None:
        self.listener = listener
        self.heard_of = time.monotonic()
        """When the capture last reported its account."""
        self._metrics = metrics
        self._spans = spans
        self._rendering = threading.Lock()
        self._rendered: dict[bool, tuple[float, bytes]] = {}

    def start(self) -> None:
        """Serve in threads of its own, which end with the process."""
        for number in range(CONNECTIONS):
            name = f"prometheus-{number}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                # The client is gone already, or there are too many open files.
                time.sleep(0.1)
                continue
            with contextlib.suppress(OSError), connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        begun = time.monotonic()
        try:
            answer = self._answer_to(_read(connection, begun + REQUEST_SECONDS))
        except _BadRequestError as error:
            answer = _response(str(error), "text/plain", f"{error}\n".encode())
        except OSError:
            raise
        except Exception:
            # The thread must live: other clients follow.
            answer = _response("500 Internal Server Error", "text/plain", b"an error\n")
        limit = begun + CONNECTION_SECONDS
        view = memoryview(answer)
        while view:
            _limit(connection, limit)
            view = view[connection.send(view) :]

    def _answer_to(self, head: bytes) -> bytes:
        match = _REQUEST_LINE.match(head)
        if match is None:
            raise _BadRequestError("400 Bad Request")
        method, target = match.groups()
        if method not in (b"GET", b"HEAD"):
            raise _BadRequestError("405 Method Not Allowed")
        path = target.partition(b"?")[0]
        status, kind = "200 OK", "text/plain; charset=utf-8"
        if path == b"/metrics":
            accept = b",".join(_ACCEPT.findall(head)).decode("latin-1")
            is_openmetrics = prefers_openmetrics(accept)
            kind = OPENMETRICS if is_openmetrics else TEXT
            body = self._render(is_openmetrics)
        elif path == b"/healthz":
            silent = time.monotonic() - self.heard_of
            body = b"ok\n"
            if silent > HEALTHY_SECONDS:
                status = "503 Service Unavailable"
                body = f"the capture is silent for {silent:.0f} s\n".encode()
        else:
            status, body = "404 Not Found", b"there are /metrics and /healthz\n"
        return _response(status, kind, body, has_body=method == b"GET")

    def _render(self, is_openmetrics: bool) -> bytes:
        with self._rendering:
            made, text = self._rendered.get(is_openmetrics, (0.0, b""))
            if not text or time.monotonic() - made > _FRESH_SECONDS:
                text = render(self._metrics, self._spans(), is_openmetrics)
                self._rendered[is_openmetrics] = time.monotonic(), text
            return text


def _read(connection: socket.socket, limit: float) -> bytes:
    """Return the head of a request."""
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        if len(head) >= REQUEST_MAX:
            raise _BadRequestError("431 Request Header Fields Too Large")
        try:
            _limit(connection, limit)
            data = connection.recv(REQUEST_MAX)
        except socket.timeout:
            raise _BadRequestError("408 Request Timeout") from None
        if not data:
            raise _BadRequestError("400 Bad Request")
        head += data
    return head


def _limit(connection: socket.socket, limit: float) -> None:
    left = limit - time.monotonic()
    if left <= 0:
        raise socket.timeout
    connection.settimeout(left)


def _response(status: str, kind: str, body: bytes, *, has_body: bool = True) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if status.startswith("405") else ""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{allow}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
