# SPDX-License-Identifier: Apache-2.0
"""An end of an exchange as a span, by OpenTelemetry's semantic conventions for HTTP.

Ids are hashes of what both ends know of the request: ``connection`` and ``sequence``. So the two
spans of an exchange are in one trace, and the server's names the client's as its parent, although
the profilers that made them never talk to each other. Rules, in this order:

- A valid ``traceparent`` of the request gives the trace and the parent of both spans. The server's
  span has a link to the client's.
- Without one, the exchange is a trace of its own. The client's span is its root, and the parent of
  the server's.
- Without ``connection`` and ``sequence``, the span is alone in its trace: no parent is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from profiler import __version__
from profiler.exchanges.headers import header, values
from profiler.exchanges.model import (
    NO_RESPONSE,
    Exchange,
    Side,
    absolute_url,
    grpc_status,
    nanoseconds,
    outcome,
    reasons,
    repeated_request,
    service_of,
)
from profiler.outputs.otlp.protobuf import (
    attribute,
    common,
    fixed32,
    fixed64,
    integer,
    message,
    string,
)

if TYPE_CHECKING:
    from profiler.exchanges.redact import Redactor
    from profiler.schema import Record

# trace/v1/trace.proto
_SERVER, _CLIENT = 2, 3
_ERROR = 2
_ATTRIBUTES = 9
_HAS_IS_REMOTE = 0x100
_IS_REMOTE = 0x200

SCOPE = message(1, string(1, "http-profiler") + string(2, __version__))
"""The ``InstrumentationScope`` of a ``ScopeSpans`` or ``ScopeMetrics``."""

# https://opentelemetry.io/docs/specs/semconv/http/http-spans: others are _OTHER.
_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
_NO_RESPONSE = frozenset((NO_RESPONSE, "reset", "exited"))
# https://www.w3.org/TR/trace-context: a later version may have more fields.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_EXPORT_PATH = re.compile(
    r"/v1(?:development)?/(?:traces|metrics|logs|profiles)"
    r"|/opentelemetry\.proto\.collector\.[^?]*/Export"
)
_EXPORT_TYPES = ("application/x-protobuf", "application/json", "application/grpc")
_RESOURCES_MAX = 1024


class Span(NamedTuple):
    """An encoded span, and the encoded resource that it belongs to."""

    resource: bytes
    content: bytes


class Parent(NamedTuple):
    """What a ``traceparent`` says."""

    trace: bytes
    span: bytes
    flags: int


class Ids(NamedTuple):
    """The ids of the two spans of an exchange."""

    trace: bytes
    client: bytes
    server: bytes
    is_shared: bool
    """Whether the other end computes the same ids."""


def ids_of(side: Side, role: str) -> Ids:
    """Return the ids of a side's exchange, from what both ends know of its request."""
    seen = side.records[0]
    connection, sequence = seen.get("connection"), seen.get("sequence")
    is_shared = connection is not None and sequence is not None
    if is_shared:
        parts: list[object] = [connection, seen["type"], sequence]
        if "tls" in seen:
            # It begins at 0 in each connection, and a later one can have the same ports.
            parts.append(next((header(one, "date") for one in side.responses), None))
    else:
        parts = [seen.get(name) for name in ("timestamp", "type", "netns", "pid", "exchange")]
        parts.append(role)
    digest = blake2b("\0".join(map(str, parts)).encode(), digest_size=32).digest()
    return Ids(digest[:16], digest[16:24], digest[24:], is_shared)


def parent_of(request: Record) -> Parent | None:
    """Return what the ``traceparent`` of a request says; ``None`` without a valid one."""
    found = list(values(request, "traceparent"))
    match = _TRACEPARENT.fullmatch(found[0].strip()) if len(found) == 1 else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    return Parent(bytes.fromhex(match[2]), bytes.fromhex(match[3]), int(match[4], 16))


def is_export(side: Side) -> bool:
    """Whether this is an export of OTLP: a span of it would cause the next one."""
    request = side.request or repeated_request(side)
    if request is None or request.get("method") != "POST":
        return False
    path = request.get("url", "").partition("?")[0]
    if path[-1:] not in "sgt" or not _EXPORT_PATH.search(path):
        return False
    content_type = header(request, "content-type")
    # Only the summary in the response is known.
    return content_type is None or content_type.startswith(_EXPORT_TYPES)


class Encoder:
    """Makes spans of the sides of exchanges.

    ``redactor`` hides secrets in what is taken from messages. ``given`` are the attributes of
    every resource that the user gave, and ``host`` is the name of the captured machine.
    """

    def __init__(self, redactor: Redactor | None, given: Mapping[str, str], host: str | None):
        self._redactor = redactor
        self._given = {**({"host.name": host} if host else {}), **given}
        self._resources: dict[tuple[object, ...], bytes] = {}

    def span(self, role: str, side: Side) -> Span:
        """Return the span of a side."""
        records = side.records
        seen, response = records[0], side.response
        request = side.request or repeated_request(side) or {}
        is_client = role == "client"
        ids = ids_of(side, role)
        start = nanoseconds(seen["timestamp"])
        end = _end(side, start)
        why = list(dict.fromkeys(reasons(side)))
        error = _error(side, is_client)

        method = request.get("method")
        is_known = method in _METHODS
        name = method if is_known else "HTTP"
        parts = [
            string(5, str(name)),
            integer(6, _CLIENT if is_client else _SERVER),
            fixed64(7, start),
            fixed64(8, end),
            message(2, ids.client if is_client else ids.server),
        ]
        self._relate(parts, ids, request, is_client)
        if method is not None:
            parts.append(
                common(_ATTRIBUTES, "http.request.method", method if is_known else "_OTHER")
            )
            if not is_known:
                parts.append(attribute(_ATTRIBUTES, "http.request.method_original", method))
        self._add_url(parts, request, seen, is_client)
        _add_addresses(parts, seen, is_client)
        version = seen.get("http_version")
        if version is not None:
            parts.append(common(_ATTRIBUTES, "network.protocol.name", "http"))
            parts.append(common(_ATTRIBUTES, "network.protocol.version", version))
        agent = header(request, "user-agent")
        if agent is not None:
            if self._redactor is not None:
                agent = self._redactor.header("user-agent", agent)
            make = common if len(agent) < 200 else attribute
            parts.append(make(_ATTRIBUTES, "user_agent.original", agent))
        if side.request is not None and "bytes" in side.request:
            parts.append(attribute(_ATTRIBUTES, "http.request.size", side.request["bytes"]))
        if response is not None:
            if "status_code" in response:
                status = response["status_code"]
                parts.append(common(_ATTRIBUTES, "http.response.status_code", status))
                parts.append(attribute(_ATTRIBUTES, "http.response.size", response["bytes"]))
            code = grpc_status(response)
            if code is not None:
                parts.append(common(_ATTRIBUTES, "rpc.system", "grpc"))
                parts.append(common(_ATTRIBUTES, "rpc.grpc.status_code", code))
        else:
            why.append("response_not_seen")
        if side.request is None:
            why.append("request_not_seen")
        if "tid" in seen:
            parts.append(attribute(_ATTRIBUTES, "thread.id", seen["tid"]))
        tls = seen.get("tls")
        if tls is not None:
            parts.append(common(_ATTRIBUTES, "tls.protocol.name", "tls"))
            if "version" in tls:
                parts.append(common(_ATTRIBUTES, "tls.protocol.version", tls["version"]))
        if error is not None:
            parts.append(common(_ATTRIBUTES, "error.type", error))
            parts.append(_STATUS_ERROR)
        if why:
            parts.append(
                message(
                    11,
                    fixed64(1, end)
                    + string(2, "http_profiler.incomplete")
                    + attribute(3, "http_profiler.reasons", why),
                )
            )
        return Span(self._resource(seen), b"".join(parts))

    def _relate(self, parts: list[bytes], ids: Ids, request: Record, is_client: bool) -> None:
        """Add the trace, the parent and the link, by the rules of the module."""
        parent = parent_of(request) if request else None
        if parent is not None:
            flags = parent.flags & 0xFF | _HAS_IS_REMOTE
            parts.append(message(1, parent.trace))
            parts.append(message(4, parent.span))
            parts.append(fixed32(16, flags if is_client else flags | _IS_REMOTE))
            state = ",".join(values(request, "tracestate"))
            if self._redactor is not None:
                state = self._redactor.header("tracestate", state)
            if state:
                parts.append(string(3, state))
            if not is_client and ids.is_shared:
                link = message(1, parent.trace) + message(2, ids.client)
                parts.append(message(13, link))
            return
        parts.append(message(1, ids.trace))
        if not is_client and ids.is_shared:
            parts.append(message(4, ids.client))
            parts.append(fixed32(16, _HAS_IS_REMOTE | _IS_REMOTE))

    def _add_url(self, parts: list[bytes], request: Record, seen: Record, is_client: bool) -> None:
        if "url" not in request:
            return
        url = absolute_url(request, seen)
        if self._redactor is not None:
            url = self._redactor.url(url)
        scheme, _, rest = url.partition("://")
        authority, slash, _ = rest.partition("/")
        authority = authority.rpartition("@")[2]
        address, port = _split(authority)
        if address:
            parts.append(common(_ATTRIBUTES, "server.address", address[:255]))
        port = port or {"http": 80, "https": 443}.get(scheme)
        if port is not None:
            parts.append(common(_ATTRIBUTES, "server.port", port))
        parts.append(common(_ATTRIBUTES, "url.scheme", scheme[:64]))
        if is_client:
            parts.append(attribute(_ATTRIBUTES, "url.full", url))
            return
        if request.get("method") == "CONNECT":
            return
        target = rest[len(rest.partition("/")[0]) :].partition("#")[0] if slash else "/"
        path, _, query = target.partition("?")
        parts.append(attribute(_ATTRIBUTES, "url.path", path))
        if query:
            parts.append(attribute(_ATTRIBUTES, "url.query", query))

    def _resource(self, seen: Record) -> bytes:
        names = ("pid", "process_start", "service", "cmdline", "comm", "cgroup")
        container, pod = seen.get("container", {}), seen.get("pod", {})
        key = (*map(seen.get, names), *container.values(), len(container), *pod.values())
        found = self._resources.get(key)
        if found is None:
            if len(self._resources) >= _RESOURCES_MAX:
                self._resources.clear()
            attributes = {**resource_of(seen), **self._given}
            found = b"".join(attribute(1, *each) for each in attributes.items())
            self._resources[key] = found
        return found


_STATUS_ERROR = message(15, integer(3, _ERROR))


def resource_of(seen: Record) -> dict[str, str | int | list[str]]:
    """Return the attributes of a record's process: its resource."""
    found: dict[str, str | int | list[str] | None] = {
        # The conventions require one.
        "service.name": service_of(seen) or "unknown_service",
        "process.pid": seen.get("pid"),
        "process.creation.time": seen.get("process_start"),
        "process.linux.cgroup": seen.get("cgroup"),
    }
    container, pod = seen.get("container", {}), seen.get("pod", {})
    found["container.id"] = container.get("id")
    found["container.name"] = container.get("name")
    found["container.runtime.name"] = container.get("runtime")
    image, tag = _image(container.get("image"))
    found["container.image.name"] = image
    found["container.image.tags"] = tag
    # Pods of Podman are not Kubernetes'; those have a namespace.
    if "namespace" in pod:
        found["k8s.namespace.name"] = pod["namespace"]
        found["k8s.pod.name"] = pod.get("name")
        found["k8s.pod.uid"] = pod.get("uid")
        found["k8s.container.name"] = pod.get("container")
    return {name: value for name, value in found.items() if value is not None}


def given_attributes(text: str, service: str) -> dict[str, str]:
    """Return what ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME`` say.

    Raises ValueError if ``text`` is not ``name=value,...``, with percent-encoded values.
    """
    given = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(pair)
        given[name.strip()] = unquote(value.strip())
    if service:
        given["service.name"] = service
    return given


def _add_addresses(parts: list[bytes], seen: Record, is_client: bool) -> None:
    is_request = seen["type"] == "request"
    near, far = ("source", "dest") if is_request == is_client else ("dest", "source")
    get = seen.get
    if f"{far}_ip" in seen:
        address, port = get(f"{far}_ip"), get(f"{far}_port")
        parts.append(common(_ATTRIBUTES, "network.transport", "tcp"))
        parts.append(common(_ATTRIBUTES, "network.peer.address", str(address)))
        if port is not None:
            parts.append(common(_ATTRIBUTES, "network.peer.port", int(str(port))))
        parts.append(common(_ATTRIBUTES, "network.type", "ipv6" if ":" in str(address) else "ipv4"))
        if is_client:
            return
        if f"{near}_ip" in seen:
            parts.append(common(_ATTRIBUTES, "network.local.address", str(get(f"{near}_ip"))))
            parts.append(common(_ATTRIBUTES, "network.local.port", int(str(get(f"{near}_port")))))
        proxied = seen.get("proxy")
        if proxied is not None:
            address, port = proxied["source_ip"], proxied["source_port"]
        parts.append(common(_ATTRIBUTES, "client.address", str(address)))
        if port is not None:
            parts.append(common(_ATTRIBUTES, "client.port", int(str(port))))
    elif "source_path" in seen or "dest_path" in seen:
        parts.append(common(_ATTRIBUTES, "network.transport", "unix"))
        path = get(f"{far}_path")
        if path is not None:
            parts.append(common(_ATTRIBUTES, "network.peer.address", str(path)))


def _end(side: Side, start: int) -> int:
    """Return when the last byte was seen, in nanoseconds since 1970."""
    response = side.response
    if response is None:
        return max(nanoseconds(record["timestamp"]) for record in side.records)
    if "duration_ms" in response and side.request is not None:
        return start + round(response["duration_ms"] * 1e6)
    return max(start, nanoseconds(response["timestamp"]))


def _error(side: Side, is_client: bool) -> str | None:
    """Return ``error.type``; ``None`` if the span is not an error."""
    response = side.response
    status = response.get("status_code") if response is not None else None
    if status is not None and status >= (400 if is_client else 500):
        return str(status)
    if outcome(Exchange(side, None)) != "failed":
        return None
    code = grpc_status(response) if response is not None else None
    if code:
        return str(code)
    return next((why for why in reasons(side) if why in _NO_RESPONSE), "_OTHER")


def _split(authority: str) -> tuple[str, int | None]:
    """Return host and port; without a port, or with one that is no number, ``None``."""
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        return authority.strip("[]"), None
    return host.strip("[]"), int(port) if port.isascii() and port.isdigit() and len(
        port
    ) < 6 else None


def _image(image: str | None) -> tuple[str | None, list[str] | None]:
    """Return an image's name and tags: ``registry:5000/name:tag@digest``."""
    if image is None:
        return None, None
    name = image.partition("@")[0]
    before, colon, tag = name.rpartition(":")
    return (before, [tag]) if colon and "/" not in tag else (name, None)
