# SPDX-License-Identifier: Apache-2.0
"""Durations of requests as histograms, by OpenTelemetry's semantic conventions for HTTP.

These are ``http.server.request.duration`` and ``http.client.request.duration``, in seconds, and
what became of the spans (``http_profiler.spans``) and of all calls (``http_profiler.calls``,
``http_profiler.bytes``: the account). All are cumulative, so an export that is lost
makes the next one no less right. The number of series is bounded; beyond it, one with
``otel.metric.overflow`` has the rest
(https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from struct import pack
from typing import TYPE_CHECKING, Any

from profiler.exchanges.headers import header
from profiler.exchanges.model import Side, absolute_url, grpc_status
from profiler.outputs.otlp.protobuf import attribute, double, fixed64, integer, message, string
from profiler.outputs.otlp.spans import METHODS, SCOPE, authority_of, error_of, resource_of

if TYPE_CHECKING:
    from profiler.accounting import Exported

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SERIES_MAX = 2000

_CUMULATIVE = 2  # metrics/v1/metrics.proto
_OVERFLOW = attribute(9, "otel.metric.overflow", True)
_NAMES = {"client": "http.client.request.duration", "server": "http.server.request.duration"}


class _Series:
    __slots__ = ("attributes", "buckets", "sum")

    def __init__(self, attributes: bytes) -> None:
        self.attributes = attributes
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0


class Metrics:
    """Collects durations. ``given`` and ``host`` as for :class:`~.spans.Encoder`."""

    def __init__(self, given: Mapping[str, str], host: str | None) -> None:
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
        series.buckets[bisect_left(BOUNDS, seconds)] += 1
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
        key = resource, role, encoded
        if key not in self._series and len(self._series) >= SERIES_MAX:
            key = b"", role, _OVERFLOW
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = _Series(key[2])
        return found

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
            by_name.setdefault(_NAMES[role], []).append(message(1, point))
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
        counts = {"sent": spans.sent, **{f"dropped {k}": n for k, n in spans.dropped.items()}}
        counters: dict[tuple[str, str], list[tuple[dict[str, str], int]]] = {
            ("http_profiler.spans", "{span}"): [
                ({"http_profiler.outcome": outcome}, number) for outcome, number in counts.items()
            ]
        }
        for fate, reason, *numbers in self._account:
            of = {
                "http_profiler.fate": fate,
                **({"http_profiler.reason": reason} if reason else {}),
            }
            for at, direction in ((0, "transmit"), (2, "receive")):
                directed = {**of, "network.io.direction": direction}
                for name, number in zip(_COUNTED, numbers[at : at + 2]):
                    counters.setdefault(name, []).append((directed, number))
        own_metrics = [
            string(1, name) + string(3, unit) + message(7, _counter(points, start, now))
            for (name, unit), points in counters.items()
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
