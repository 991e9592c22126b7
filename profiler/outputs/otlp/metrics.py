# SPDX-License-Identifier: Apache-2.0
"""Durations of requests as histograms, by OpenTelemetry's semantic conventions for HTTP.

These are ``http.server.request.duration`` and ``http.client.request.duration``, in seconds, and
what became of the spans (``http_profiler.spans``) and of all calls (``http_profiler.calls``,
``http_profiler.bytes``: the account). All are cumulative, so an export that is lost
makes the next one no less right. :mod:`profiler.outputs.prometheus` serves the same. The number of
series is bounded; beyond it, one with ``otel.metric.overflow`` has the rest
(https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from struct import pack
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.exchanges.headers import header
from profiler.exchanges.model import Side, absolute_url, grpc_status, nanoseconds
from profiler.outputs.otlp.protobuf import attribute, double, fixed64, integer, message, string
from profiler.outputs.otlp.spans import (
    METHODS,
    SCOPE,
    authority_of,
    context_of,
    error_of,
    resource_of,
)

if TYPE_CHECKING:
    from profiler.accounting import Exported

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SERIES_MAX = 2000

_CUMULATIVE = 2  # metrics/v1/metrics.proto
_OVERFLOW_NAME = "otel.metric.overflow"
_OVERFLOW = attribute(9, _OVERFLOW_NAME, True)
NAMES = {"client": "http.client.request.duration", "server": "http.server.request.duration"}


class Exemplar(NamedTuple):
    """An exchange that was counted."""

    trace: bytes
    span: bytes
    seconds: float
    """How long it took."""
    time: int
    """When it began, in nanoseconds since 1970."""


class Histogram(NamedTuple):
    """A series as of a moment."""

    role: str
    attributes: Mapping[str, Any]
    """Those of the resource, and its own."""
    buckets: list[int]
    sum: float
    exemplars: list[Exemplar | None]
    """The latest one of each bucket."""


class Counter(NamedTuple):
    """Numbers that only grow."""

    name: str
    unit: str
    points: list[tuple[dict[str, str], int]]


class _Series:
    __slots__ = ("attributes", "buckets", "exemplars", "labels", "role", "sum")

    def __init__(self, role: str, attributes: bytes, labels: Mapping[str, Any]) -> None:
        self.role = role
        self.attributes = attributes
        self.labels = labels
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.exemplars: list[Exemplar | None] = [None] * len(self.buckets)
        self.sum = 0.0


class Metrics:
    """Collects durations. ``given`` and ``host`` as for :class:`~.spans.Encoder`.

    One thread collects; others may call :meth:`histograms` and :meth:`counters`.
    """

    def __init__(
        self, given: Mapping[str, str], host: str | None, has_exemplars: bool = False
    ) -> None:
        self._has_exemplars = has_exemplars
        self._changing = Lock()
        self._given = {**({"host.name": host} if host else {}), **given}
        self._series: dict[tuple[bytes, str, bytes], _Series] = {}
        # What is seen of a side -> its series, because encoding the attributes takes longer.
        self._known: dict[tuple[object, ...], _Series] = {}
        self._account: list[Any] = []

    def add(self, role: str, side: Side) -> None:
        """Count a side, if all of it was seen: else its duration is not known."""
        request, response = side.request, side.response
        if request is None or response is None or "duration_ms" not in response:
            return
        get: Callable[..., Any] = request.get
        container, pod = get("container", {}), get("pod", {})
        key = (
            role, get("method"), get("http_version"), response.get("status_code"),
            grpc_status(response), tuple(response.get("incomplete", ())), "tls" in request,
            *(header(request, name) for name in (":authority", "host", ":scheme")),
            *((get("dest_ip"), get("dest_port"), get("dest_path")) if role == "client" else ()),
            get("service"), get("cmdline"), get("comm"), tuple(container.values()),
            tuple(pod.values()), get("url") if "://" in get("url", "")[:16] else None,
        )  # fmt: skip
        series = self._known.get(key)
        if series is None:
            if len(self._known) >= 2 * SERIES_MAX:
                self._known.clear()
            series = self._known[key] = self._series_of(role, side)
        seconds = response["duration_ms"] / 1000
        bucket, exemplar = bisect_left(BOUNDS, seconds), None
        if self._has_exemplars:
            exemplar = Exemplar(*context_of(side, role), seconds, nanoseconds(request["timestamp"]))
        with self._changing:
            series.buckets[bucket] += 1
            series.exemplars[bucket] = exemplar
            series.sum += seconds

    def set_account(self, rows: list[Any]) -> None:
        """Take the rows of :meth:`profiler.accounting.Account.to_report`, as of now."""
        self._account = rows

    def _series_of(self, role: str, side: Side) -> _Series:
        request, response = side.request, side.response
        assert request is not None and response is not None
        method, is_client = request.get("method"), role == "client"
        url = absolute_url(request, request)
        attributes: dict[str, Any] = {
            "http.request.method": method if method in METHODS else "_OTHER",
            "url.scheme": url.partition("://")[0],
            "http.response.status_code": response.get("status_code"),
            "error.type": error_of(side, is_client, grpc_status(response)),
            "network.protocol.version": request.get("http_version"),
        }
        if is_client:
            address, port = authority_of(url)
            attributes["server.address"] = address
            attributes["server.port"] = port
        encoded = b"".join(
            attribute(9, name, value) for name, value in attributes.items() if value is not None
        )
        of = {**resource_of(request), **self._given}
        # Processes of a service are counted together.
        resource = b"".join(
            attribute(1, name, value)
            for name, value in of.items()
            if not name.startswith("process.")
        )
        labels = {name: value for name, value in of.items() if not name.startswith("process.")}
        labels.update((name, value) for name, value in attributes.items() if value is not None)
        key = resource, role, encoded
        if key not in self._series and len(self._series) >= SERIES_MAX:
            key, labels = (b"", role, _OVERFLOW), {_OVERFLOW_NAME: "true"}
        found = self._series.get(key)
        if found is None:
            with self._changing:
                found = self._series[key] = _Series(role, key[2], labels)
        return found

    def histograms(self) -> list[Histogram]:
        """Return a copy of all series."""
        with self._changing:
            return [
                Histogram(one.role, one.labels, one.buckets[:], one.sum, one.exemplars[:])
                for one in self._series.values()
            ]

    def counters(self, spans: Exported | None) -> Iterator[Counter]:
        """Yield what became of the spans, if there are any, and of all calls."""
        if spans is not None:
            counts = {"sent": spans.sent, **{f"dropped {k}": n for k, n in spans.dropped.items()}}
            outcomes = [({"http_profiler.outcome": each}, n) for each, n in counts.items()]
            yield Counter("http_profiler.spans", "{span}", outcomes)
        account = self._account
        for at, (name, unit) in enumerate(_COUNTED):
            points = [
                (
                    {
                        "http_profiler.fate": fate,
                        **({"http_profiler.reason": reason} if reason else {}),
                        "network.io.direction": direction,
                    },
                    numbers[first + at],
                )
                for fate, reason, *numbers in account
                for first, direction in ((0, "transmit"), (2, "receive"))
            ]
            if points:
                yield Counter(name, unit, points)

    def request(self, start: int, now: int, spans: Exported) -> bytes:
        """Encode an ``ExportMetricsServiceRequest``; times are nanoseconds since 1970."""
        by_resource: dict[bytes, dict[str, list[bytes]]] = {}
        for (resource, role, _), series in self._series.items():
            point = (
                series.attributes
                + fixed64(2, start)
                + fixed64(3, now)
                + fixed64(4, sum(series.buckets))
                + double(5, series.sum)
                + message(6, pack(f"<{len(series.buckets)}Q", *series.buckets))
                + message(7, _ENCODED_BOUNDS)
            )
            by_name = by_resource.setdefault(resource, {})
            by_name.setdefault(NAMES[role], []).append(message(1, point))
        parts = [
            _resource_metrics(resource, [
                string(1, name) + string(3, "s")
                + message(9, b"".join(points) + integer(2, _CUMULATIVE))
                for name, points in metrics.items()
            ])
            for resource, metrics in by_resource.items()
        ]  # fmt: skip
        own = {"service.name": "http-profiler", **self._given}
        resource = b"".join(attribute(1, *each) for each in own.items())
        own_metrics = [
            string(1, name) + string(3, unit) + message(7, _counter(points, start, now))
            for name, unit, points in self.counters(spans)
        ]
        return b"".join([*parts, _resource_metrics(resource, own_metrics)])


_COUNTED = (("http_profiler.calls", "{call}"), ("http_profiler.bytes", "By"))


def _counter(points: list[tuple[dict[str, str], int]], start: int, now: int) -> bytes:
    """Encode a ``Sum`` that only grows."""
    encoded = (
        message(
            1,
            b"".join(attribute(7, *each) for each in attributes.items())
            + fixed64(2, start)
            + fixed64(3, now)
            + fixed64(6, number),
        )
        for attributes, number in points
    )
    return b"".join(encoded) + integer(2, _CUMULATIVE) + integer(3, 1)


_ENCODED_BOUNDS = pack(f"<{len(BOUNDS)}d", *BOUNDS)


def _resource_metrics(resource: bytes, metrics: list[bytes]) -> bytes:
    scope = SCOPE + b"".join(message(2, metric) for metric in metrics)
    return message(1, message(1, resource) + message(2, scope))
