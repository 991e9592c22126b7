# SPDX-License-Identifier: Apache-2.0
"""Delivery of spans to a mock Collector that misbehaves; every span is accounted for."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import time
import tracemalloc
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from profiler.errors import UsageError
from profiler.outputs.otlp import delivery
from profiler.outputs.otlp.delivery import Queue, Sender
from profiler.outputs.otlp.endpoint import endpoint, resource_attributes
from profiler.outputs.otlp.protobuf import attribute, message, string
from profiler.outputs.otlp.spans import Span
from tests.unit.mock_collector import (
    MockCollector,
    answer,
    close,
    garbage,
    mock_collector,
    partial,
    reply,
)

RESOURCE = attribute(1, "service.name", "shop")
LIMIT = 20.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(delivery, "_LINGER_SECONDS", 0.05)


def span(number: int) -> Span:
    return Span(RESOURCE, message(2, number.to_bytes(8, "big")) + string(5, f"span {number}"))


class Delivery:
    """Sends ``count`` spans to a URL, and closes the queue after them."""

    def __init__(
        self,
        url: str,
        count: int = 3,
        patience: float | None = 5.0,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.queue = Queue(1 << 20)
        target = endpoint(url, environment or {})
        self.sender = Sender(self.queue, target, self.lines.append, patience)
        self.sender.start()
        for number in range(count):
            self.queue.put(span(number))

    def end(self) -> dict[str, int]:
        self.queue.close()
        self.sender.join(LIMIT)
        assert not self.sender.is_alive()
        return self.counts()

    def counts(self) -> dict[str, int]:
        counts = self.queue.snapshot()
        assert counts.spans == counts.sent + counts.waiting + sum(counts.dropped.values())
        dropped = {reason: number for reason, number in counts.dropped.items() if number}
        return {"sent": counts.sent, "waiting": counts.waiting, **dropped}


def names(collector: MockCollector) -> list[str]:
    return [each.name for each in collector.spans]


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_sent_once() -> None:
    with mock_collector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, tenant=7"}
        delivery = Delivery(collector.url, 1200, environment=environment)
        assert delivery.end() == {"sent": 1200, "waiting": 0}
        assert sorted(names(collector)) == sorted(f"span {n}" for n in range(1200))
        assert set(collector.paths) == {"/v1/traces"}
        for request in collector.requests:
            assert request["Content-Type"] == "application/x-protobuf"
            assert request["Content-Encoding"] == "gzip"
            assert request["authorization"] == "Bearer x"
            assert request["tenant"] == "7"
        assert all(
            [each.key for each in one.resource.attributes] == ["service.name"]
            for one in collector.resource_spans
        )
    assert delivery.lines == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500, 301])
def test_refused(status: int) -> None:
    """What the Collector refuses is dropped, and is not sent again."""
    body = string(2, "bad \x1b[31mdata")
    with mock_collector(answer(status, body)) as collector:
        delivery = Delivery(collector.url)
        assert delivery.end() == {"sent": 0, "waiting": 0, "refused": 3}
        assert len(collector.requests) == 1
    [line] = delivery.lines
    assert f"answers {status}" in line
    assert "bad" in line


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_tried_again(status: int) -> None:
    with mock_collector(answer(status), answer(status)) as collector:
        delivery = Delivery(collector.url)
        assert delivery.end() == {"sent": 3, "waiting": 0}
        assert names(collector) == ["span 0", "span 1", "span 2"]
        assert len(collector.requests) == 3
    said, over = delivery.lines
    assert f"answers {status}" in said
    assert "accepts data again" in over


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after(form: str) -> None:
    """The Collector states how long to wait: longer than this client would."""
    value = "1"
    if form == "date":
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    times: list[float] = []

    def wait(handler: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        reply(handler, 429, Retry_After=value)

    with mock_collector(wait) as collector:
        delivery = Delivery(collector.url)
        assert delivery.end() == {"sent": 3, "waiting": 0}
        assert time.monotonic() - times[0] >= 0.95
        assert len(collector.requests) == 2


@pytest.mark.parametrize("trouble", [garbage, close])
def test_no_http(trouble: Callable[[BaseHTTPRequestHandler], None]) -> None:
    with mock_collector(trouble) as collector:
        delivery = Delivery(collector.url)
        assert delivery.end() == {"sent": 3, "waiting": 0}
        assert len(names(collector)) == 3
    assert "cannot send to" in delivery.lines[0]


def test_hang() -> None:
    """A Collector that never answers is tried again, and nothing is counted as sent."""
    with mock_collector() as collector:

        def hang(_handler: BaseHTTPRequestHandler) -> None:
            collector.released.wait(LIMIT)

        collector.answers.append(hang)
        environment = {"OTEL_EXPORTER_OTLP_TIMEOUT": "200"}
        delivery = Delivery(collector.url, environment=environment)
        until(lambda: bool(collector.requests))
        assert delivery.counts() == {"sent": 0, "waiting": 3}
        assert delivery.end() == {"sent": 3, "waiting": 0}
    assert "no answer in time" in delivery.lines[0]


def test_partial_success() -> None:
    with mock_collector(partial(2, "too old")) as collector:
        delivery = Delivery(collector.url)
        assert delivery.end() == {"sent": 1, "waiting": 0, "rejected": 2}
    assert "too old" in delivery.lines[0]


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff", b"<html>", partial], ids=["bytes", "page", "object"]
)
def test_odd_success(body: object) -> None:
    """What is accepted counts, whatever the body is; a warning is shown."""
    reaction = answer(200, body) if isinstance(body, bytes) else partial(0, "deprecated")
    with mock_collector(reaction) as collector:
        delivery = Delivery(collector.url)
        assert delivery.end() == {"sent": 3, "waiting": 0}
    assert len(delivery.lines) == (0 if isinstance(body, bytes) else 1)


def test_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        delivery = Delivery(f"http://127.0.0.1:{port}", patience=0.2)
        assert delivery.end() == {"sent": 0, "waiting": 0, "unreachable": 3}
    assert "Connection refused" in delivery.lines[0]


def test_restarted_collector() -> None:
    """What was made while the Collector was down is delivered, in order, each once."""
    with mock_collector() as first:
        delivery = Delivery(first.url, 2, patience=None)
        until(lambda: len(first.spans) == 2)
        port = int(first.url.rpartition(":")[2])
    for number in range(2, 900):
        delivery.queue.put(span(number))
    until(lambda: bool(delivery.lines))
    with mock_collector(port=port) as second:
        assert delivery.end() == {"sent": 900, "waiting": 0}
        assert names(second) == [f"span {n}" for n in range(2, 900)]


def test_full_queue() -> None:
    """Beyond its bound, new spans are dropped and counted; the others are delivered."""
    queue = Queue(10 * (len(span(0).content) + delivery.OVERHEAD))
    for number in range(25):
        queue.put(span(number))
    counts = queue.snapshot()
    assert (counts.waiting, counts.dropped["queue_full"]) == (10, 15)
    queue.close()
    with mock_collector() as collector:
        sender = Sender(queue, endpoint(collector.url, {}), lambda _: None, 5.0)
        sender.start()
        sender.join(LIMIT)
        assert names(collector) == [f"span {n}" for n in range(10)]
    counts = queue.snapshot()
    assert (counts.sent, counts.waiting, counts.spans) == (10, 0, 25)


@pytest.mark.parametrize("size", [10, 700])
def test_memory(size: int) -> None:
    """The queue takes no more memory than its bound."""
    bound = 4 << 20
    tracemalloc.start()
    try:
        queue = Queue(bound)
        number = 0
        while not queue.counts.dropped["queue_full"]:
            number += 1
            queue.put(Span(RESOURCE, number.to_bytes(size, "big")))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bound / 2 < used <= bound


def test_end_in_flight() -> None:
    """What is being sent when the time is over is dropped once, even if it is accepted later."""
    with mock_collector() as collector:

        def late(handler: BaseHTTPRequestHandler) -> None:
            collector.released.wait(LIMIT)
            reply(handler, 200)

        collector.answers.append(late)
        delivery = Delivery(collector.url)
        until(lambda: bool(collector.requests))
        delivery.queue.close()
        assert not delivery.queue.drained(0.01)
        delivery.queue.drop_all("end")
        assert delivery.counts() == {"sent": 0, "waiting": 0, "end": 3}
        collector.released.set()
        assert delivery.end() == {"sent": 0, "waiting": 0, "end": 3}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "collector")])
    today = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.mark.parametrize("is_trusted", [True, False])
def test_tls(certificate: Path, is_trusted: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    environment = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate)} if is_trusted else {}
    with mock_collector(tls=context) as collector:
        delivery = Delivery(collector.url, patience=0.2, environment=environment)
        if is_trusted:
            assert delivery.end() == {"sent": 3, "waiting": 0}
            assert delivery.lines == []
        else:
            assert delivery.end() == {"sent": 0, "waiting": 0, "unreachable": 3}
            assert not collector.spans
            assert "its certificate is not valid (self" in delivery.lines[0]


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("http://collector:4318", {}, "http://collector:4318/v1/traces"),
        ("http://collector/", {}, "http://collector:80/v1/traces"),
        ("https://[::1]:4318/otlp", {}, "https://[::1]:4318/otlp/v1/traces"),
        ("env", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1/"}, "http://a:1/v1/traces"),
        (
            "env",
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2/spans",
            },
            "http://b:2/spans",
        ),
    ],
)
def test_endpoint(url: str, environment: dict[str, str], expected: str) -> None:
    assert str(endpoint(url, environment)) == expected


def test_metrics_endpoint() -> None:
    assert str(endpoint("http://a:1/x", {}).metrics) == "http://a:1/x/v1/metrics"
    assert endpoint("http://a:1", {"OTEL_METRICS_EXPORTER": "none"}).metrics is None
    assert endpoint("env", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:1/t"}).metrics is None


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("collector:4318", {}, "give a URL such as"),
        ("ftp://collector", {}, "give a URL such as"),
        ("http://", {}, "give a URL such as"),
        ("http://a:x", {}, "is not a URL"),
        ("http://a/ b", {}, "percent-encode"),
        ("http://user:secret@a", {}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ("env", {}, "OTEL_EXPORTER_OTLP_ENDPOINT is not set"),
        ("http://a", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf"),
        ("http://a", {"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "gzip or none"),
        ("http://a", {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "milliseconds"),
        ("http://a", {"OTEL_EXPORTER_OTLP_HEADERS": "a=1,secret"}, "entry 2"),
        ("http://a", {"OTEL_EXPORTER_OTLP_HEADERS": "a=secret%0d%0ab"}, "entry 1"),
        ("http://a", {"OTEL_METRIC_EXPORT_INTERVAL": "-1"}, "OTEL_METRIC_EXPORT_INTERVAL=-1"),
        ("https://a", {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"}, "cannot use /nowhere"),
        ("https://a", {"OTEL_EXPORTER_OTLP_CERTIFICATE": __file__}, "no valid PEM"),
    ],
)
def test_wrong_endpoint(url: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        endpoint(url, environment)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_wrong_attributes() -> None:
    with pytest.raises(UsageError, match="OTEL_RESOURCE_ATTRIBUTES is not a list"):
        resource_attributes({"OTEL_RESOURCE_ATTRIBUTES": "a"})
