# SPDX-License-Identifier: Apache-2.0
"""The record: one line of output, one HTTP message, as a typed dictionary.

This is the only list of the fields. The two dictionaries below generate the JSON Schema
(``http-profiler schema``, ``docs/reference/record.schema.json``), the SQL types of ``query`` and
Parquet, the checks of the reader, and the tables in the documents. A new field is one line here and
one place that fills it.

An unknown value is absent: never invented, never zero, never empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Optional,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

REQUIRED = ("timestamp", "type")
"""Fields that every record has."""

# One value, or the values of a repeated field in their order.
Headers = dict[str, Union[str, list[str]]]
Timestamp = str
"""RFC 3339, UTC, nine digits of a second, ``Z``."""


class RequestSummary(TypedDict, total=False):
    """What a response reports about its request."""

    method: Annotated[str, "its method"]
    url: Annotated[str, "its target as sent"]
    host: Annotated[str, "what its `:authority` or Host header names"]


class ProxiedConnection(TypedDict, total=False):
    """The connection that a proxy accepted, as its PROXY header states it."""

    source_ip: Annotated[str, "address of the real client"]
    source_port: Annotated[int, "its port"]
    dest_ip: Annotated[str, "address that it connected to"]
    dest_port: Annotated[int, "the port of that"]


class TlsSession(TypedDict, total=False):
    """What is known about the encryption of a message."""

    library: Annotated[
        str, "`openssl`, `gnutls` or `go` with `--tls`, and `keys` with `--tls-keys`"
    ]
    version: Annotated[str, "`1.0`, `1.1`, `1.2` or `1.3`"]
    sni: Annotated[str, "server name that the client sent (RFC 6066, 3)"]
    alpn: Annotated[str, "protocol that the server chose (RFC 7301), such as `h2` or `http/1.1`"]
    cipher: Annotated[
        str, "cipher suite by its name in IANA's registry, such as `TLS_AES_128_GCM_SHA256`"
    ]


class Container(TypedDict, total=False):
    """The container that a process runs in."""

    id: Annotated[str, "its id, 64 hexadecimal digits; absent with LXC and systemd-nspawn"]
    name: Annotated[str, "its name; in a pod, the name that the pod gives it"]
    image: Annotated[str, "the image that it was made from, such as `docker.io/library/nginx:1.29`"]
    runtime: Annotated[str, "`docker`, `podman`, `containerd`, `cri-o`, `lxc` or `systemd-nspawn`"]


class Pod(TypedDict, total=False):
    """The pod that a container belongs to, of Kubernetes or Podman."""

    name: Annotated[str, "its name"]
    namespace: Annotated[str, "its namespace; Podman has none"]
    uid: Annotated[str, "its UID; the id of a pod of Podman"]
    container: Annotated[str, "the name of the container in it"]


class PeerProcess(TypedDict, total=False):
    """The process at the other end of a connection."""

    pid: Annotated[int, "its `pid`"]
    comm: Annotated[str, "`comm` of the thread that moved its first message"]


class Peer(TypedDict, total=False):
    """The other end of a connection, on this machine."""

    container: Annotated[Container, "its `container`"]
    pod: Annotated[Pod, "its `pod`"]
    service: Annotated[str, "its `service`"]
    process: Annotated[PeerProcess, "the process that moved its first message"]


class Record(TypedDict, total=False):
    """One HTTP message as one process sent or received it. The keys come in this order."""

    timestamp: Annotated[
        Timestamp,
        "RFC 3339, UTC, nanoseconds: wall-clock time at which the call that moved the message's "
        "first byte returned",
    ]
    pid: Annotated[
        int,
        "process (thread group) whose system call moved the bytes, as the initial PID namespace "
        "numbers it",
    ]
    comm: Annotated[str, "name of the thread that made the call, at most 15 bytes"]
    cmdline: Annotated[
        str,
        "the process's arguments, joined by spaces, as the kernel had them when the process first "
        "moved HTTP, and again after each exec",
    ]
    direction: Annotated[
        Literal["send", "recv"], "whether that process sent or received the message"
    ]
    source_ip: Annotated[
        str,
        "address of the sender; IPv6 in canonical form (RFC 5952), an IPv4-mapped address as IPv4",
    ]
    source_port: Annotated[int, "port of the sender"]
    dest_ip: Annotated[str, "address of the receiver"]
    dest_port: Annotated[int, "port of the receiver"]
    source_path: Annotated[
        str,
        "Unix socket, instead of addresses: the path that the sender's end is bound to. `@` begins "
        "an abstract one. Absent if unnamed, as a client's end mostly is",
    ]
    dest_path: Annotated[str, "the same for the receiver's end"]
    bytes: Annotated[
        int,
        "size of the whole message on the wire: start line, headers, framed body; HTTP/2: the "
        "frames that carry it. If the message was cut off, as much as is known to belong to it",
    ]
    method: Annotated[str, "request: the method"]
    url: Annotated[
        str, "request: the target as sent; HTTP/2: `:path`, or `:authority` of a `CONNECT`"
    ]
    status_code: Annotated[int, "response: the status"]
    reason: Annotated[
        str, "response: the reason phrase; empty if sent empty, absent in HTTP/2, which has none"
    ]
    http_version: Annotated[str, "`1.0`, `1.1` or `2`"]
    headers: Annotated[
        Headers,
        "names in lower case (`raw_payload` has them as sent). A repeated header is an array of "
        "strings. Bytes that are not UTF-8 are read as ISO-8859-1. HTTP/2: with the pseudo-header "
        "fields, such as `:authority`",
    ]
    trailers: Annotated[
        Headers,
        "fields after a chunked body, or an HTTP/2 one (gRPC: `grpc-status`), like `headers`",
    ]
    upgrade: Annotated[
        str,
        "response that ends HTTP/1 on its connection: what the connection carries from then on, as "
        "the `Upgrade` field of a `101` names it, in lower case, such as `websocket`; `tunnel` "
        "after a 2xx answer to `CONNECT`",
    ]
    body: Annotated[
        str,
        "the content, with chunked framing and content codings removed: text if it is text, else "
        "base64. Empty if there is none",
    ]
    raw_payload: Annotated[
        str,
        "the exact bytes captured, from the first byte of the start line, or of the HEADERS frame; "
        "text if they are UTF-8, else base64",
    ]
    body_encoding: Annotated[Literal["base64"], "present if `body` is base64"]
    body_charset: Annotated[str, "the charset by which `body` was read, if that is not UTF-8"]
    body_codings: Annotated[
        list[str], "codings that `body` still has, in the order in which they were applied"
    ]
    raw_payload_encoding: Annotated[Literal["base64"], "present if `raw_payload` is base64"]
    type: Annotated[Literal["request", "response"], "what the message is"]
    role: Annotated[Literal["client", "server"], "what the process is in this exchange"]
    exchange: Annotated[
        str, "the same for a request and its responses as one process saw them at one socket"
    ]
    request: Annotated[
        RequestSummary,
        "response: what is known of its request, if that was seen",
    ]
    latency_ms: Annotated[
        float, "response: milliseconds from the request's first byte to the response's first"
    ]
    duration_ms: Annotated[
        float, "response: milliseconds from the request's first byte to the response's last"
    ]
    stream: Annotated[int, "HTTP/2: number of the stream"]
    syscall: Annotated[str, "system call that moved the first byte, such as `sendto`"]
    connection: Annotated[
        str,
        "the same at both ends: of TCP the "
        "[Community ID](https://github.com/corelight/community-id-spec) that network tools use, of "
        "a Unix socket the inode of the client's end. Absent at an end that does not know it",
    ]
    sequence: Annotated[
        int,
        "TCP sequence number of the message's first byte, the same at both ends and in a packet "
        "capture (`tcp.seq_raw`). With `connection` and `type` it joins what client and server saw "
        "of one message. With `tls`: the bytes of plain text since the handshake, modulo 2**32; "
        "absent if the handshake was not seen. Absent if the socket is not plain TCP, and with "
        "`--engine bpftrace`",
    ]
    tls: Annotated[
        TlsSession,
        "present if the message was encrypted, and captured with `--tls` or `--tls-keys`. Without "
        "evidence which socket carries it, addresses, `connection`, `sequence`, `socket` and "
        "`netns` are absent",
    ]
    socket: Annotated[int, "inode of the socket"]
    netns: Annotated[int, "inode of the network namespace"]
    tid: Annotated[int, "thread that made the call"]
    process_start: Annotated[
        Timestamp, "when the process started; with `pid` it identifies a process for good"
    ]
    uid: Annotated[int, "user, as the initial user namespace numbers it"]
    cgroup: Annotated[str, "path in the cgroup2 hierarchy, such as `/system.slice/nginx.service`"]
    container: Annotated[
        Container,
        "present if `cgroup` belongs to a container. `name` and `image` come from the files of its "
        "runtime; absent if those do not show them",
    ]
    pod: Annotated[Pod, "present if `cgroup` belongs to a pod"]
    service: Annotated[
        str,
        "Compose's name of the container (label `com.docker.compose.service`), else the name of "
        "the pod without the parts that Kubernetes generated, else the systemd unit without "
        "`.service`. Absent if there is none of them, or if the unit starts programs of others, "
        "as `ssh` and `cron` do",
    ]
    peer: Annotated[
        Peer,
        "the other end of the connection, if it is on this machine and was seen before this line "
        "was written. So the first line of a connection has none, and the response has. "
        "Absent too if TCP's sequence numbers are unknown, as with `--engine bpftrace`, and with "
        "`run --tls-keys`",
    ]
    captured: Annotated[int, "bytes of `raw_payload`, out of the `bytes` there were"]
    incomplete: Annotated[list[str], "why the message is not whole; absent if it is"]
    redacted: Annotated[
        list[str],
        "fields that redaction removed, because secrets in them could not be found: `body` if it "
        "is not text, `raw_payload` if it is not exactly the text of the other fields",
    ]
    error_code: Annotated[
        str,
        "HTTP/2: error with which the stream was reset (`RST_STREAM`), or the connection ended "
        "(`GOAWAY`) before the message did, by its name in RFC 9113, 7, such as `CANCEL`; a number "
        "such as `0x1f` if it has none",
    ]
    proxy: Annotated[
        ProxiedConnection,
        "the connection that a proxy accepted, as its PROXY protocol header (version 1 or 2) "
        "states it",
    ]


class CutRecord(Record, total=False):
    """A record kept for display: without ``raw_payload``, and with a shortened body."""

    body_length: Annotated[int, "characters that the body had"]


class Row(TypedDict, total=False):
    """One exchange as a row: CSV, Parquet and the table ``exchanges`` of ``query``."""

    time: Annotated[Optional[Timestamp], "time of the first byte that was seen"]
    client: Annotated[Optional[str], "program of the client, if it ran on this machine"]
    client_pid: Annotated[Optional[int], "its process"]
    client_address: Annotated[Optional[str], "`IP:PORT`, or the path of a Unix socket"]
    server: Annotated[Optional[str], "program of the server, if it ran on this machine"]
    server_pid: Annotated[Optional[int], "its process"]
    server_address: Annotated[Optional[str], "`IP:PORT`, or the path of a Unix socket"]
    service: Annotated[
        Optional[str],
        "`service` of the server's records, else its program, else the host without its port",
    ]
    method: Annotated[Optional[str], "method of the request"]
    host: Annotated[Optional[str], "host that the request names, else the server's address"]
    url: Annotated[Optional[str], "request target as sent"]
    path: Annotated[Optional[str], "the target's path, without its query"]
    endpoint: Annotated[Optional[str], "method, host and path, with ids in the path as `{id}`"]
    http_version: Annotated[Optional[str], "`1.0`, `1.1` or `2`"]
    status_code: Annotated[Optional[int], "status of the final response"]
    grpc_status: Annotated[Optional[int], "`grpc-status` of the final response"]
    outcome: Annotated[
        Literal["ok", "failed", "unknown"],
        "`failed`: status 5xx, a gRPC status other than 0, reset, or the connection ended without "
        "a response; `unknown`: no response was seen, and nothing shows why",
    ]
    failed: Annotated[bool, "whether `outcome` is `failed`"]
    content_type: Annotated[Optional[str], "Content-Type of the response"]
    request_bytes: Annotated[Optional[int], "size of the request on the wire"]
    response_bytes: Annotated[Optional[int], "size of the final response on the wire"]
    latency_ms: Annotated[Optional[float], "milliseconds to the response's first byte"]
    duration_ms: Annotated[Optional[float], "milliseconds to the response's last byte"]
    server_latency_ms: Annotated[Optional[float], "`latency_ms` as the server saw it"]
    incomplete: Annotated[Optional[str], "why something is missing, separated by blanks"]
    exchange: Annotated[Optional[str], "`exchange` of its records"]
    connection: Annotated[Optional[str], "`connection` of its records"]
    tls_library: Annotated[Optional[str], "`tls.library` of its records; empty without TLS"]
    tls_version: Annotated[Optional[str], "`tls.version` of its records"]
    tls_sni: Annotated[Optional[str], "`tls.sni` of its records"]
    tls_alpn: Annotated[Optional[str], "`tls.alpn` of its records"]
    tls_cipher: Annotated[Optional[str], "`tls.cipher` of its records"]
    request_headers: Annotated[Optional[Headers], "headers of the request"]
    request_body: Annotated[Optional[str], "body of the request"]
    response_headers: Annotated[Optional[Headers], "headers of the response"]
    response_body: Annotated[Optional[str], "body of the response"]


class Field(NamedTuple):
    """A field of a record or a row: its name, Python type and meaning (Markdown)."""

    name: str
    type: Any
    meaning: str


@cache
def fields(of: type) -> tuple[Field, ...]:
    """Return the fields of a dictionary of this module, in their order."""
    hints = get_type_hints(of, include_extras=True)
    return tuple(Field(name, hint.__origin__, hint.__metadata__[0]) for name, hint in hints.items())


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a record.

    Fields that it does not list are allowed: a later version may have more.
    """
    properties = _properties(Record)
    for name in ("timestamp", "process_start"):
        properties[name]["format"] = "date-time"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of http-profiler",
        "description": "One line of output: one HTTP message as one process sent or received it.",
        "type": "object",
        "required": list(REQUIRED),
        "properties": properties,
    }


def _properties(of: type) -> dict[str, Any]:
    return {
        field.name: {**_json_type(field.type), "description": field.meaning} for field in fields(of)
    }


def _is_typed_dict(hint: Any) -> bool:
    # typing.is_typeddict() came with Python 3.10.
    return hasattr(hint, "__total__")


_JSON_TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _json_type(hint: Any) -> dict[str, Any]:
    if hint in _JSON_TYPES:
        return {"type": _JSON_TYPES[hint]}
    if _is_typed_dict(hint):
        return {"type": "object", "properties": _properties(hint)}
    arguments = get_args(hint)
    origin = get_origin(hint)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _json_type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _json_type(arguments[1])}
    assert origin is Union, hint
    return {"anyOf": [_json_type(one) for one in arguments]}


_SQL_TYPES: dict[Any, str] = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_TIMES = ("timestamp", "process_start", "time")


def sql_types(of: type) -> dict[str, str]:
    """Return the column types of DuckDB for :class:`Record` or :class:`Row`, by name."""
    # Timestamps keep their nanoseconds.
    return {
        field.name: "TIMESTAMP_NS" if field.name in _TIMES else _sql_type(field.type)
        for field in fields(of)
    }


def _sql_type(hint: Any) -> str:
    if hint in _SQL_TYPES:
        return _SQL_TYPES[hint]
    if _is_typed_dict(hint):
        inner = (f"{field.name} {_sql_type(field.type)}" for field in fields(hint))
        return f"STRUCT({', '.join(inner)})"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Union:  # Optional
        return _sql_type(arguments[0])
    if origin is list:
        return f"{_sql_type(arguments[0])}[]"
    # Header names are data: a column of JSON accepts any.
    return "JSON" if origin is dict else "VARCHAR"


def markdown(of: type) -> Iterator[str]:
    """Yield the lines of a Markdown table of the fields; those in an object follow it."""
    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    for field in fields(of):
        yield f"| `{field.name}` | {_name(field.type)} | {field.meaning} |"
        for one in fields(field.type) if _is_typed_dict(field.type) else ():
            yield f"| `{field.name}.{one.name}` | {_name(one.type)} | {one.meaning} |"


def _name(hint: Any) -> str:
    if get_origin(hint) is Union:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    return str(_json_type(hint)["type"])


Check = Callable[[Any], bool]


@cache
def checks() -> dict[str, Check]:
    """Return a check for each field of a record: whether a value from JSON has the field's type."""
    return {field.name: _check(field.type) for field in fields(Record)}


def _check(hint: Any) -> Check:
    if hint is str:
        return lambda value: isinstance(value, str)
    if hint in (int, float):
        numbers = (int, float) if hint is float else (int,)
        # To Python, true is an integer; SQL's BIGINT has 64 bits.
        return lambda value: (
            isinstance(value, numbers) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        )
    if _is_typed_dict(hint):
        inner = {field.name: _check(field.type) for field in fields(hint)}
        return lambda value: (
            isinstance(value, dict)
            and all(inner[name](one) for name, one in value.items() if name in inner)
        )
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: value in arguments
    if origin is list:
        item = _check(arguments[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    if origin is dict:
        entry = _check(arguments[1])
        return lambda value: isinstance(value, dict) and all(map(entry, value.values()))
    alternatives = [_check(one) for one in arguments]
    return lambda value: any(check(value) for check in alternatives)
