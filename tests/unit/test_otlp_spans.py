# SPDX-License-Identifier: Apache-2.0
"""Spans of exchanges, decoded by OpenTelemetry's own classes."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from profiler.exchanges.model import Side
from profiler.exchanges.redact import Redactor
from profiler.outputs.otlp.spans import Encoder, given_attributes, is_export

CLIENT, SERVER = trace_pb2.Span.SPAN_KIND_CLIENT, trace_pb2.Span.SPAN_KIND_SERVER
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
START = 1_767_225_600_000_000_000  # 2026-01-01


def record(kind: str, role: str, **more: Any) -> Any:
    """A message of an exchange from 192.0.2.1:5000 to 192.0.2.2:80."""
    client, server = ("192.0.2.1", 5000), ("192.0.2.2", 80)
    source, dest = (client, server) if kind == "request" else (server, client)
    made = {
        "timestamp": f"2026-01-01T00:00:00.{'000000000' if kind == 'request' else '250000000'}Z",
        "type": kind,
        "role": role,
        "pid": 11 if role == "client" else 22,
        "comm": "curl" if role == "client" else "nginx",
        "source_ip": source[0],
        "source_port": source[1],
        "dest_ip": dest[0],
        "dest_port": dest[1],
        "bytes": 100,
        "http_version": "1.1",
        "exchange": "7-1",
        "connection": "1:x",
        "sequence": 1000 if kind == "request" else 2000,
        "headers": {},
    }
    if kind == "request":
        made.update(method="GET", url="/items?page=2", headers={"host": "shop.example"})
    else:
        made.update(status_code=200, duration_ms=300.0, latency_ms=250.0)
    made.update(more)
    return {name: value for name, value in made.items() if value is not None}


def side(role: str, request: Any = (), response: Any = ()) -> Side:
    return Side(
        None if request is None else record("request", role, **dict(request)),
        (),
        None if response is None else record("response", role, **dict(response)),
    )


def span_of(
    role: str, one: Side, redactor: Redactor | None = None, **given: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the span, its attributes and those of its resource."""
    encoded = Encoder(redactor, given, "host-1").span(role, one)
    span = trace_pb2.Span.FromString(encoded.content)
    resource = Resource.FromString(encoded.resource)
    return span, values(span.attributes), values(resource.attributes)


def values(attributes: Any) -> dict[str, Any]:
    found = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        if kind == "array_value":
            value = [one.string_value for one in value.values]
        assert each.key not in found, "an attribute is there once"
        found[each.key] = value
    return found


def test_client() -> None:
    span, attributes, resource = span_of("client", side("client"))
    assert span.kind == CLIENT
    assert span.name == "GET"
    assert span.start_time_unix_nano == START
    assert span.end_time_unix_nano == START + 300_000_000
    assert span.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert not span.events
    assert attributes == {
        "http.request.method": "GET",
        "server.address": "shop.example",
        "server.port": 80,
        "url.scheme": "http",
        "url.full": "http://shop.example/items?page=2",
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.peer.address": "192.0.2.2",
        "network.peer.port": 80,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "http.request.size": 100,
        "http.response.size": 100,
        "http.response.status_code": 200,
    }
    assert resource == {"service.name": "curl", "process.pid": 11, "host.name": "host-1"}


def test_server() -> None:
    request = {"headers": {"host": "shop.example:8080", "user-agent": "curl/8"}, "tid": 23}
    span, attributes, _ = span_of("server", side("server", request))
    assert span.kind == SERVER
    assert "url.full" not in attributes
    assert attributes.items() >= {
        ("url.path", "/items"),
        ("url.query", "page=2"),
        ("url.scheme", "http"),
        ("server.address", "shop.example"),
        ("server.port", 8080),
        ("client.address", "192.0.2.1"),
        ("client.port", 5000),
        ("network.peer.address", "192.0.2.1"),
        ("network.local.address", "192.0.2.2"),
        ("network.local.port", 80),
        ("user_agent.original", "curl/8"),
        ("thread.id", 23),
    }


def test_both_ends_are_one_trace() -> None:
    """Each end is encoded without the other, as on two machines."""
    client, _, _ = span_of("client", side("client"))
    server, _, _ = span_of("server", side("server", {"exchange": "99-3", "netns": 5}))
    assert client.trace_id == server.trace_id
    assert len(client.trace_id) == 16
    assert client.parent_span_id == b""
    assert server.parent_span_id == client.span_id
    assert len(server.span_id) == 8
    assert server.span_id != client.span_id
    other, _, _ = span_of("client", side("client", {"sequence": 1001}))
    assert other.trace_id != client.trace_id
    assert other.span_id != client.span_id


def test_traceparent() -> None:
    """A header gives trace and parent of both; the link names the client's span."""
    headers = {"host": "a", "traceparent": TRACEPARENT, "tracestate": "a=1"}
    client, _, _ = span_of("client", side("client", {"headers": headers}))
    server, _, _ = span_of("server", side("server", {"headers": headers}))
    for span in (client, server):
        assert span.trace_id.hex() == TRACE
        assert span.parent_span_id.hex() == PARENT
        assert span.flags & 0xFF == 1
        assert span.trace_state == "a=1"
    assert not client.links
    [link] = server.links
    assert (link.trace_id, link.span_id) == (client.trace_id, client.span_id)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-xyz",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        [TRACEPARENT, TRACEPARENT],
    ],
    ids=str,
)
def test_invalid_traceparent(value: Any) -> None:
    span, _, _ = span_of("client", side("client", {"headers": {"traceparent": value}}))
    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""


@pytest.mark.parametrize("missing", ["connection", "sequence"])
def test_alone(missing: str) -> None:
    """Without what both ends know, a span has a trace of its own, and no parent is guessed."""
    client, _, _ = span_of("client", side("client", {missing: None}, {missing: None}))
    server, _, _ = span_of("server", side("server", {missing: None}, {missing: None}))
    assert client.trace_id != server.trace_id
    assert client.parent_span_id == server.parent_span_id == b""
    again, _, _ = span_of("client", side("client", {missing: None}, {missing: None}))
    assert again.span_id == client.span_id


def test_tls_counts_from_zero() -> None:
    """Its sequence begins anew in each connection, and a port is used again."""
    tls = {"tls": {"version": "1.3"}, "sequence": 0}
    first, attributes, _ = span_of("client", side("client", tls, {"headers": {"date": "Mon"}}))
    second, _, _ = span_of("client", side("client", tls, {"headers": {"date": "Tue"}}))
    server, _, _ = span_of("server", side("server", tls, {"headers": {"date": "Mon"}}))
    assert first.span_id != second.span_id
    assert server.parent_span_id == first.span_id
    assert attributes["url.scheme"] == "https"
    assert attributes["server.port"] == 443
    assert attributes["tls.protocol.version"] == "1.3"


@pytest.mark.parametrize(
    ("role", "request_", "response", "error", "why"),
    [
        ("client", {}, {"status_code": 404}, "404", None),
        ("server", {}, {"status_code": 404}, None, None),
        ("server", {}, {"status_code": 503}, "503", None),
        ("client", {}, None, None, ["response_not_seen"]),
        ("client", {"incomplete": ["exited"]}, None, "exited", ["exited", "response_not_seen"]),
        (
            "client",
            {},
            {"status_code": None, "bytes": 0, "duration_ms": None, "incomplete": ["no_response"]},
            "no_response",
            ["no_response"],
        ),
        ("server", {}, {"incomplete": ["reset"]}, "reset", ["reset"]),
        ("server", {}, {"incomplete": ["body_limit"]}, None, ["body_limit"]),
        ("client", {}, {"trailers": {"grpc-status": "14"}}, "14", None),
        ("server", None, {"request": {"method": "GET", "url": "/"}}, None, ["request_not_seen"]),
    ],
)
def test_errors_and_incomplete(
    role: str, request_: Any, response: Any, error: str | None, why: list[str] | None
) -> None:
    span, attributes, _ = span_of(role, side(role, request_, response))
    assert attributes.get("error.type") == error
    assert span.status.code == (trace_pb2.Status.STATUS_CODE_ERROR if error else 0)
    if why is None:
        assert not span.events
    else:
        [event] = span.events
        assert event.name == "http_profiler.incomplete"
        assert values(event.attributes) == {"http_profiler.reasons": why}
        assert event.time_unix_nano == span.end_time_unix_nano
    assert span.end_time_unix_nano >= span.start_time_unix_nano


def test_unknown_method() -> None:
    span, attributes, _ = span_of("client", side("client", {"method": "FROB"}))
    assert span.name == "HTTP"
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "FROB"


def test_unix_socket() -> None:
    own = {
        "source_ip": None, "source_port": None, "dest_ip": None, "dest_port": None,
        "dest_path": "/run/app.sock",
    }  # fmt: skip
    _, attributes, _ = span_of("client", side("client", own, own))
    assert attributes["network.transport"] == "unix"
    assert attributes["network.peer.address"] == "/run/app.sock"


def test_resource() -> None:
    own = {
        "service": "web",
        "process_start": "2026-01-01T00:00:00.000000000Z",
        "cgroup": "/kubepods/x",
        "container": {
            "id": "c" * 64, "name": "app", "image": "reg:5000/shop/web:1.2@sha256:0",
            "runtime": "containerd",
        },
        "pod": {"name": "web-1", "namespace": "shop", "uid": "u-1", "container": "app"},
    }  # fmt: skip
    _, _, resource = span_of("server", side("server", own))
    assert resource == {
        "service.name": "web",
        "host.name": "host-1",
        "process.pid": 22,
        "process.creation.time": "2026-01-01T00:00:00.000000000Z",
        "process.linux.cgroup": "/kubepods/x",
        "container.id": "c" * 64,
        "container.name": "app",
        "container.image.name": "reg:5000/shop/web",
        "container.image.tags": ["1.2"],
        "container.runtime.name": "containerd",
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "web-1",
        "k8s.pod.uid": "u-1",
        "k8s.container.name": "app",
    }
    # A pod of Podman is not one of Kubernetes.
    _, _, resource = span_of("server", side("server", {"pod": {"name": "p", "uid": "u"}}))
    assert not [name for name in resource if name.startswith("k8s.")]


def test_given_attributes() -> None:
    given = given_attributes("deployment.environment.name=prod,host.name=h%2C2,", "all")
    _, _, resource = span_of("client", side("client"), **given)
    assert resource["deployment.environment.name"] == "prod"
    assert resource["host.name"] == "h,2"
    assert resource["service.name"] == "all"


def test_redacted() -> None:
    """What a redacted line hides is in no attribute."""
    target = "/login?token=sesame-1&page=2"
    request = {
        "url": target,
        "headers": {
            "host": "user:sesame-2@shop.example",
            "user-agent": "x Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzZXNhbWUifQ.c2VzYW1lLTM0NTY3OA",
            "authorization": "Bearer sesame-4",
            "cookie": "session=sesame-5",
        },
        "cmdline": "curl --password sesame-6",
    }
    for role in ("client", "server"):
        one = side(role, request)
        shown = Encoder(None, {}, None).span(role, one)
        hidden = Encoder(Redactor(b"k" * 32), {}, None).span(role, one)
        assert b"sesame-1" in shown.content
        for secret in (b"sesame", b"eyJzdWIiOi"):
            assert secret not in hidden.content + hidden.resource
        assert b"page=2" in hidden.content


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"method": "POST", "url": "/v1/traces"}, True),
        ({"method": "POST", "url": "/otlp/v1/metrics?x=1"}, True),
        ({"method": "POST", "url": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
          "headers": {"content-type": "application/grpc"}}, True),
        ({"method": "GET", "url": "/v1/traces"}, False),
        ({"method": "POST", "url": "/v1/traces", "headers": {"content-type": "text/plain"}}, False),
        ({"method": "POST", "url": "/v1/orders"}, False),
        ({"method": "POST", "url": "/v1/tracesx"}, False),
    ],
)  # fmt: skip
def test_exports_of_telemetry(request_: Any, expected: bool) -> None:
    own = {"headers": {"content-type": "application/x-protobuf"}, **request_}
    assert is_export(side("server", own)) is expected
    if expected:
        summary = {"method": own["method"], "url": own["url"]}
        assert is_export(side("server", None, {"request": summary}))


def test_odd_text() -> None:
    """A peer chooses these texts; a Collector takes only UTF-8."""
    request = {"url": "/\ud800?\x00#f", "headers": {"host": "é", "user-agent": "\udfff"}}
    span, attributes, _ = span_of("server", side("server", request))
    assert attributes["url.path"] == "/?"
    assert attributes["user_agent.original"] == "?"
    assert span.name == "GET"
