"""A message becomes the public record: exactly the fields of ``docs/output-format.md``.

Rules: a value that is not known is absent, never empty and never zero. Text is
text where the bytes are UTF-8, and base64 where they are not, with a field
beside it that says so. The keys come in the order of the documented table.
"""

from __future__ import annotations

import codecs
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from profiler.exchange import Exchange
from profiler.http import content
from profiler.http.message import REQUEST, Message
from profiler.wire import AF_INET, SEND

Record = dict[str, Any]


def record_of(
    message: Message,
    exchange: Exchange | None,
    cmdline: str | None,
    clock_offset: int,
    max_content: int,
    syscalls: Mapping[int, str],
) -> Record:
    """Return the record of ``message``.

    ``clock_offset`` is CLOCK_REALTIME minus CLOCK_MONOTONIC in nanoseconds;
    ``max_content`` limits what decoding a content coding may yield; ``syscalls``
    names the syscalls of the captured machine by number.
    """
    origin, head = message.origin, message.head
    sent = origin.direction == SEND
    is_request = head.type == REQUEST
    local = address(origin.family, origin.local)
    remote = address(origin.family, origin.remote)
    body, incomplete = message.body, message.incomplete
    if head.fields.codings:
        body, reason = content.decode(body, head.fields.codings, max_content, not incomplete)
        if reason is not None and reason not in incomplete:
            incomplete = (*incomplete, reason)

    record: Record = {
        "timestamp": timestamp(origin.time + clock_offset),
        "pid": origin.pid,
        "comm": comm(origin.comm),
    }
    if cmdline is not None:
        record["cmdline"] = cmdline
    if sent:
        record["direction"] = "send"
        record["source_ip"] = local
        record["source_port"] = origin.local_port
        record["dest_ip"] = remote
        record["dest_port"] = origin.remote_port
    else:
        record["direction"] = "recv"
        record["source_ip"] = remote
        record["source_port"] = origin.remote_port
        record["dest_ip"] = local
        record["dest_port"] = origin.local_port
    record["bytes"] = message.bytes
    if is_request:
        record["method"] = head.method
        record["url"] = head.target
    else:
        record["status_code"] = head.status
        record["reason"] = head.reason
    record["http_version"] = head.version
    record["headers"] = head.fields.headers
    body_text = _text(body, cut=bool(incomplete))
    raw_text = _text(message.raw)
    record["body"] = _base64(body) if body_text is None else body_text
    record["raw_payload"] = _base64(message.raw) if raw_text is None else raw_text
    if body_text is None:
        record["body_encoding"] = "base64"
    if raw_text is None:
        record["raw_payload_encoding"] = "base64"
    record["type"] = head.type
    record["role"] = "client" if sent == is_request else "server"
    if exchange is not None:
        record["exchange"] = exchange.id
        if exchange.request is not None:
            request = exchange.request
            record["request"] = {"method": request.method, "url": request.target}
            record["latency_ms"] = exchange.latency_ms
            record["duration_ms"] = exchange.duration_ms
    syscall = syscalls.get(origin.syscall)
    if syscall is not None:
        record["syscall"] = syscall
    record["socket"] = origin.socket
    record["netns"] = origin.netns
    record["captured"] = len(message.raw)
    if incomplete:
        record["incomplete"] = list(incomplete)
    return record


def timestamp(realtime: int) -> str:
    """Return RFC 3339 in UTC with nine digits; ``realtime`` is nanoseconds since 1970."""
    second, nanosecond = divmod(realtime, 1_000_000_000)
    return f"{_second(second)}.{nanosecond:09d}Z"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=4096)
def address(family: int, packed: bytes) -> str:
    """Return ``packed`` in canonical form (RFC 5952); an IPv4-mapped one as IPv4."""
    if family == AF_INET:
        return str(IPv4Address(packed[:4]))
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)


@lru_cache(maxsize=4096)
def comm(padded: bytes) -> str:
    """Return the name of a thread: the bytes before the first NUL."""
    return padded.partition(b"\0")[0].decode(errors="replace")


def _text(data: bytes, cut: bool = False) -> str | None:
    """Return UTF-8 ``data`` as text, else ``None``; ``cut`` data may end inside a character."""
    try:
        return codecs.utf_8_decode(data, "strict", not cut)[0]
    except UnicodeDecodeError:
        return None


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
