# SPDX-License-Identifier: Apache-2.0
"""Metrics of exchanges, decoded by OpenTelemetry's own classes."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from profiler.accounting import Exported
from profiler.outputs.otlp import metrics
from profiler.outputs.otlp.metrics import BOUNDS, Metrics
from tests.unit.test_otlp_spans import side, values

COUNTS = Exported(5, 3, 0, {"refused": 2})


def decoded(collected: Metrics) -> list[tuple[dict[str, Any], Any]]:
    request = ExportMetricsServiceRequest.FromString(collected.request(10, 20, COUNTS))
    return [
        (values(each.resource.attributes), metric)
        for each in request.resource_metrics
        for scope in each.scope_metrics
        for metric in scope.metrics
    ]


def collect(*sides: tuple[str, Any]) -> Metrics:
    collected = Metrics({"deployment.environment.name": "test"}, "host-1")
    for role, one in sides:
        collected.add(role, one)
    return collected


def test_histograms() -> None:
    times = (5.0, 6.0, 300.0, 20000.0)
    found = decoded(collect(*(("server", side("server", (), {"duration_ms": t})) for t in times)))
    resource, metric = found[0]
    assert resource == {
        "service.name": "nginx",
        "host.name": "host-1",
        "deployment.environment.name": "test",
    }
    assert (metric.name, metric.unit) == ("http.server.request.duration", "s")
    assert metric.histogram.aggregation_temporality == 2  # cumulative
    [point] = metric.histogram.data_points
    assert values(point.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }
    assert tuple(point.explicit_bounds) == BOUNDS
    # A bound belongs to the bucket below it.
    assert list(point.bucket_counts) == [1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert point.count == 4
    assert point.sum == pytest.approx(20.311)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (10, 20)


def test_client_and_errors() -> None:
    found = decoded(
        collect(
            ("client", side("client", (), {"status_code": 404})),
            ("client", side("client", {"url": "/other"}, {"status_code": 404})),
            ("server", side("server", (), {"status_code": 404})),
        )
    )
    points = {metric.name: metric.histogram.data_points for _, metric in found[:-1]}
    [client] = points["http.client.request.duration"]
    assert client.count == 2, "the path is no attribute"
    assert values(client.attributes).items() >= {
        ("error.type", "404"), ("server.address", "shop.example"), ("server.port", 80)
    }  # fmt: skip
    [server] = points["http.server.request.duration"]
    assert "error.type" not in values(server.attributes)


def test_only_whole_durations() -> None:
    nothing = [side("client", (), None), side("client", None), side("client", (), {
        "duration_ms": None, "bytes": 0, "incomplete": ["no_response"]})]  # fmt: skip
    assert len(decoded(collect(*(("client", each) for each in nothing)))) == 1


def test_counter() -> None:
    resource, metric = decoded(collect())[-1]
    assert resource["service.name"] == "http-profiler"
    assert metric.name == "http_profiler.spans"
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == 2
    assert {
        values(point.attributes)["http_profiler.outcome"]: point.as_int
        for point in metric.sum.data_points
    } == {"sent": 3, "dropped refused": 2}


def test_account() -> None:
    collected = collect()
    collected.set_account([["seen", "", 7, 70, 8, 80], ["lost", "ring_full", 0, 0, 1, 10]])
    counters = {metric.name: metric for _, metric in decoded(collected)}
    calls = [
        (values(point.attributes), point.as_int)
        for point in counters["http_profiler.calls"].sum.data_points
    ]
    assert calls == [
        ({"http_profiler.fate": "seen", "network.io.direction": "transmit"}, 7),
        ({"http_profiler.fate": "seen", "network.io.direction": "receive"}, 8),
        (
            {
                "http_profiler.fate": "lost",
                "http_profiler.reason": "ring_full",
                "network.io.direction": "transmit",
            },
            0,
        ),
        (
            {
                "http_profiler.fate": "lost",
                "http_profiler.reason": "ring_full",
                "network.io.direction": "receive",
            },
            1,
        ),
    ]
    points = counters["http_profiler.bytes"].sum.data_points
    assert [point.as_int for point in points] == [70, 80, 0, 10]


def test_bounded_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer can name any host; what is beyond the limit is one series."""
    monkeypatch.setattr(metrics, "SERIES_MAX", 10)
    sides = [
        ("client", side("client", {"headers": {"host": f"host-{number}"}})) for number in range(50)
    ]
    collected = collect(*sides, *sides)
    points = [p for _, metric in decoded(collected)[:-1] for p in metric.histogram.data_points]
    assert len(points) == 11
    assert sum(point.count for point in points) == 100
    [other] = [p for p in points if values(p.attributes) == {"otel.metric.overflow": True}]
    assert other.count == 80
