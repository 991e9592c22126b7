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
from collections.abc import Callable, Mapping
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple
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
    remote,
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
    varint,
)

if TYPE_CHECKING:
    from profiler.exchanges.redact import Redactor
    from profiler.schema import Headers, Record

# trace/v1/trace.proto
_SERVER, _CLIENT = 2, 3
_ERROR = 2
_ATTRIBUTES = 9
_HAS_IS_REMOTE = 0x100
_IS_REMOTE = 0x200

SCOPE = message(1, string(1, "http-profiler") + string(2, __version__))
"""The ``InstrumentationScope`` of a ``ScopeSpans`` or ``ScopeMetrics``."""

# https://opentelemetry.io/docs/specs/semconv/http/http-spans: others are _OTHER.
METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
"""The methods that have a name of their own in spans."""

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
_NAMED = (":authority", "host", ":scheme", "user-agent")
_ENDS = ("source_ip", "source_port", "dest_ip", "dest_port", "source_path", "dest_path")
_OF_PROCESS = ("pid", "process_start", "service", "cmdline", "comm", "cgroup")
_AUTHORITY_END = re.compile("[/?#]")
_EMPTY: Any = {}
# Parts of a kind that are kept, and the size up to which one is.
_KEPT_MAX = 1024
_KEPT_BYTES = 2048


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
    seen = side.request or side.records[0]
    connection, sequence = seen.get("connection"), seen.get("sequence")
    is_shared = connection is not None and sequence is not None
    if is_shared:
        text = f"{connection}\0{seen['type']}\0{sequence}"
        if "tls" in seen:
            # It begins at 0 in each connection, and a later one can have the same ports.
            text += f"\0{next((header(one, 'date') for one in side.responses), None)}"
    else:
        get = seen.get
        text = (
            f"{get('timestamp')}\0{seen['type']}\0{get('netns')}\0{get('pid')}\0"
            f"{get('exchange')}\0{role}"
        )
    digest = blake2b(text.encode("utf-8", "replace"), digest_size=32).digest()
    return Ids(digest[:16], digest[16:24], digest[24:], is_shared)


def parent_of(request: Record) -> Parent | None:
    """Return what the ``traceparent`` of a request says; ``None`` without a valid one."""
    found = list(values(request, "traceparent"))
    match = _TRACEPARENT.fullmatch(found[0].strip()) if len(found) == 1 else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    return Parent(bytes.fromhex(match[2]), bytes.fromhex(match[3]), int(match[4], 16))


def context_of(side: Side, role: str) -> tuple[bytes, bytes]:
    """Return the ids of the trace and of the span of a side whose request was seen."""
    ids = ids_of(side, role)
    parent = parent_of(side.request) if side.request is not None else None
    return parent.trace if parent else ids.trace, ids.client if role == "client" else ids.server


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

    A span is joined from encoded parts. Those that spans share are kept: resources, the ends of a
    connection, URLs, and the rest of the attributes that are not numbers of their own.
    """

    def __init__(self, redactor: Redactor | None, given: Mapping[str, str], host: str | None):
        self._redactor = redactor
        self._given = {**({"host.name": host} if host else {}), **given}
        self._resources: dict[tuple[object, ...], bytes] = {}
        self._addresses = _Kept(_addresses)
        self._urls = _Kept(self._url)
        self._shapes = _Kept(self._shape)

    def span(self, role: str, side: Side) -> Span:
        """Return the span of a side."""
        response = side.response
        seen = side.request or side.records[0]
        request = side.request or repeated_request(side) or _EMPTY
        is_client = role == "client"
        ids = ids_of(side, role)
        start = nanoseconds(seen["timestamp"])
        end = _end(side, start)
        get, headers = seen.get, request.get("headers", {})
        named, host, scheme, agent = map(headers.get, _NAMED)
        if list in (type(named), type(host), type(scheme), type(agent)):
            # A repeated field, which is no key.
            named, host, scheme, agent = (header(request, name) for name in _NAMED)
        method, tls = request.get("method"), seen.get("tls")
        proxied = seen.get("proxy", _EMPTY)
        # Where the request names no valid host, its server's address stands for it.
        far = remote(seen)
        parts = [
            _SPAN_ID,
            ids.client if is_client else ids.server,
            _times(b"\x39", start, b"\x41", end),
            self._relation(ids, request, headers, is_client),
            self._shapes(
                is_client, method, get("http_version"),
                response.get("status_code") if response is not None else None,
                agent, tls.get("version", "") if tls is not None else None,
            ),
            self._addresses(
                is_client, seen["type"] == "request", *map(get, _ENDS),
                proxied.get("source_ip"), proxied.get("source_port"),
            ),
            self._urls(
                is_client, method, request.get("url"), named, host, scheme, far, tls is not None
            ),
        ]  # fmt: skip
        if side.request is not None:
            parts.append(_request_size(side.request["bytes"]))
        if response is not None and "status_code" in response:
            parts.append(_response_size(response["bytes"]))
        if "tid" in seen:
            parts.append(_thread(seen["tid"]))
        if not _is_plain(side):
            self._add_result(parts, side, is_client, end)
        return Span(self._resource(seen), b"".join(parts))

    def _add_result(self, parts: list[bytes], side: Side, is_client: bool, end: int) -> None:
        """Add what went wrong, and why something is missing."""
        response = side.response
        code = grpc_status(response) if response is not None else None
        if code is not None:
            parts.append(common(_ATTRIBUTES, "rpc.system", "grpc"))
            parts.append(common(_ATTRIBUTES, "rpc.grpc.status_code", code))
        error = error_of(side, is_client, code)
        if error is not None:
            parts.append(common(_ATTRIBUTES, "error.type", error))
            parts.append(_STATUS_ERROR)
        why = list(dict.fromkeys(reasons(side)))
        if response is None:
            why.append("response_not_seen")
        if side.request is None:
            why.append("request_not_seen")
        if why:
            parts.append(
                message(
                    11,
                    fixed64(1, end)
                    + string(2, "http_profiler.incomplete")
                    + attribute(3, "http_profiler.reasons", why),
                )
            )

    def _relation(self, ids: Ids, request: Record, headers: Headers, is_client: bool) -> bytes:
        """Encode the trace, the parent and the link, by the rules of the module."""
        parent = parent_of(request) if "traceparent" in headers else None
        if parent is None:
            trace = _TRACE_ID + ids.trace
            if is_client or not ids.is_shared:
                return trace
            return trace + _PARENT_ID + ids.client + _REMOTE_PARENT
        flags = parent.flags & 0xFF | _HAS_IS_REMOTE | (0 if is_client else _IS_REMOTE)
        parts = [
            *(_TRACE_ID, parent.trace, _PARENT_ID, parent.span),
            fixed32(16, flags),
        ]
        state = ",".join(values(request, "tracestate"))
        if state:
            hidden = state if self._redactor is None else self._redactor.header("tracestate", state)
            parts.append(string(3, hidden))
        if not is_client and ids.is_shared:
            parts.append(message(13, message(1, parent.trace) + message(2, ids.client)))
        return b"".join(parts)

    def _shape(
        self,
        is_client: bool,
        method: str | None,
        version: str | None,
        status: int | None,
        agent: str | None,
        tls: str | None,
    ) -> bytes:
        is_known = method in METHODS
        parts = [
            string(5, str(method) if is_known else "HTTP"),
            integer(6, _CLIENT if is_client else _SERVER),
        ]
        attributes: dict[str, str | int | None] = {
            "http.request.method": method if is_known or method is None else "_OTHER",
            "http.request.method_original": None if is_known else method,
            "network.protocol.name": None if version is None else "http",
            "network.protocol.version": version,
            "http.response.status_code": status,
            "tls.protocol.name": None if tls is None else "tls",
            "tls.protocol.version": tls or None,
        }
        if agent is not None:
            redactor = self._redactor
            hidden = agent if redactor is None else redactor.header("user-agent", agent)
            attributes["user_agent.original"] = hidden
        return b"".join(parts) + _joined(attributes)

    def _url(
        self,
        is_client: bool,
        method: str | None,
        target: str | None,
        named: str | None,
        host: str | None,
        scheme: str | None,
        far: str | None,
        is_tls: bool,
    ) -> bytes:
        if target is None:
            return b""
        headers = {":authority": named, "host": host, ":scheme": scheme}
        asked: Any = {
            "type": "request", "url": target, "method": method, "dest_path": far,
            "headers": {name: value for name, value in headers.items() if value is not None},
            **({"tls": {}} if is_tls else {}),
        }  # fmt: skip
        url = absolute_url(asked, asked)
        if self._redactor is not None:
            url = self._redactor.url(url)
        scheme, _, rest = url.partition("://")
        authority = _AUTHORITY_END.split(rest, maxsplit=1)[0]
        address, port = authority_of(url)
        attributes: dict[str, str | int | None] = {
            "server.address": address,
            "server.port": port,
            "url.scheme": scheme,
        }
        if is_client:
            attributes["url.full"] = url
        elif method != "CONNECT":
            path, _, query = rest[len(authority) :].partition("#")[0].partition("?")
            attributes["url.path"] = path or "/"
            attributes["url.query"] = query or None
        return _joined(attributes)

    def _resource(self, seen: Record) -> bytes:
        container, pod = seen.get("container"), seen.get("pod")
        key = (
            *map(seen.get, _OF_PROCESS),
            tuple(container.values()) if container else None,
            tuple(pod.values()) if pod else None,
        )
        found = self._resources.get(key)
        if found is None:
            if len(self._resources) >= _KEPT_MAX:
                self._resources.clear()
            attributes = {**resource_of(seen), **self._given}
            found = b"".join(attribute(1, *each) for each in attributes.items())
            self._resources[key] = found
        return found


class _Kept:
    """Keeps what ``make`` returns for short arguments, in bounded memory."""

    def __init__(self, make: Callable[..., bytes]) -> None:
        self._make = make
        self._kept: dict[tuple[object, ...], bytes] = {}

    def __call__(self, *key: object) -> bytes:
        found = self._kept.get(key)
        if found is None:
            found = self._make(*key)
            texts = (part for part in key if isinstance(part, str))
            if len(found) + sum(map(len, texts)) <= _KEPT_BYTES:
                if len(self._kept) >= _KEPT_MAX:
                    self._kept.clear()
                self._kept[key] = found
        return found


def _joined(attributes: Mapping[str, str | int | None]) -> bytes:
    return b"".join(
        attribute(_ATTRIBUTES, name, value)
        for name, value in attributes.items()
        if value is not None
    )


def _number(name: str) -> Callable[[int], bytes]:
    """Return an encoder for an attribute with a number, which differs between spans."""
    key = string(1, name)
    before = [
        b"\x4a" + bytes((len(key) + 3 + size, *key, 0x12, 1 + size, 0x18)) for size in range(11)
    ]

    def encode(value: int) -> bytes:
        encoded = varint(value)
        return before[len(encoded)] + encoded

    return encode


_request_size = _number("http.request.size")
_response_size = _number("http.response.size")
_thread = _number("thread.id")

# Fields of Span before their values: 1, 2 and 4 are ids; 7 and 8 are times.
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_times = Struct("<cQcQ").pack
_REMOTE_PARENT = fixed32(16, _HAS_IS_REMOTE | _IS_REMOTE)
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


def _addresses(
    is_client: bool,
    is_request: bool,
    source_ip: str | None,
    source_port: int | None,
    dest_ip: str | None,
    dest_port: int | None,
    source_path: str | None,
    dest_path: str | None,
    proxied_ip: str | None,
    proxied_port: int | None,
) -> bytes:
    ends = ((source_ip, source_port, source_path), (dest_ip, dest_port, dest_path))
    near, far = ends if is_request == is_client else ends[::-1]
    attributes: dict[str, str | int | None] = {}
    address, port, path = far
    if address is not None:
        attributes = {
            "network.transport": "tcp",
            "network.type": "ipv6" if ":" in address else "ipv4",
            "network.peer.address": address,
            "network.peer.port": port,
        }
        if not is_client:
            attributes["network.local.address"], attributes["network.local.port"], _ = near
            attributes["client.address"] = address if proxied_ip is None else proxied_ip
            attributes["client.port"] = port if proxied_ip is None else proxied_port
    elif source_path is not None or dest_path is not None:
        attributes = {"network.transport": "unix", "network.peer.address": path}
    return _joined(attributes)


def _end(side: Side, start: int) -> int:
    """Return when the last byte was seen, in nanoseconds since 1970."""
    response = side.response
    if response is None:
        return max(nanoseconds(record["timestamp"]) for record in side.records)
    if "duration_ms" in response and side.request is not None:
        return start + round(response["duration_ms"] * 1e6)
    return max(start, nanoseconds(response["timestamp"]))


def _is_plain(side: Side) -> bool:
    """Whether a side is whole and no error, as most are."""
    request, response = side.request, side.response
    return (
        request is not None
        and response is not None
        and response.get("status_code", 500) < 400
        and "incomplete" not in response
        and "incomplete" not in request
        and "trailers" not in response
        and "grpc-status" not in response.get("headers", ())
        and not side.interim
    )


def error_of(side: Side, is_client: bool, grpc: int | None) -> str | None:
    """Return ``error.type``; ``None`` if the span is not an error."""
    response = side.response
    status = response.get("status_code") if response is not None else None
    if status is not None:
        if status >= (400 if is_client else 500):
            return str(status)
        if not grpc and not any("incomplete" in record for record in side.records):
            return None
    if outcome(Exchange(side, None)) != "failed":
        return None
    if grpc:
        return str(grpc)
    return next((why for why in reasons(side) if why in _NO_RESPONSE), "_OTHER")


def authority_of(url: str) -> tuple[str | None, int | None]:
    """Return host and port of an absolute URL; the port may be that of the scheme."""
    scheme, _, rest = url.partition("://")
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0].rpartition("@")[2]
    host, colon, text = authority.rpartition(":")
    if not colon or "]" in text:
        host, text = authority, ""
    port = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
    return host.strip("[]") or None, port or {"http": 80, "https": 443}.get(scheme)


def _image(image: str | None) -> tuple[str | None, list[str] | None]:
    """Return an image's name and tags: ``registry:5000/name:tag@digest``."""
    if image is None:
        return None, None
    name = image.partition("@")[0]
    before, colon, tag = name.rpartition(":")
    return (before, [tag]) if colon and "/" not in tag else (name, None)
