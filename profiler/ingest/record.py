# SPDX-License-Identifier: Apache-2.0
"""Turns a message into the public record, with the fields of ``docs/reference/record.md``.

An unknown value is absent, never empty and never zero. Bytes that are not text
are encoded as base64, and another field of the record names this encoding. The
keys have the order of the documented table.
"""

from __future__ import annotations

import struct
from binascii import b2a_base64
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import sha1
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from profiler.ingest.decryption import Handshake
from profiler.ingest.http import content
from profiler.ingest.http.amplification import allowance, fits
from profiler.ingest.http.charset import text_of
from profiler.ingest.http.framing import switches_to
from profiler.ingest.http.message import REQUEST, Message
from profiler.ingest.peers import End, Peers
from profiler.ingest.process import Identity
from profiler.ingest.wire import (
    AF_INET,
    AF_UNIX,
    FLAG_JOINED,
    LIBRARIES,
    SEND,
    TLS_STREAM,
    Chunk,
    Names,
    Session,
)

if TYPE_CHECKING:
    from profiler.schema import Record, RequestSummary, TlsSession

# In place of a library: the message was decrypted with a key log.
KEY_LOG = "keys"
_NO_TEXT = ("", None)
_REPEATED = 2000  # characters that any response may repeat
_TCP = 6  # IPPROTO_TCP
_COMMUNITY = struct.Struct("!BBHH")  # protocol, padding, ports
_TIME_END = 9_214_646_400_000_000_000  # the year 2262, see exchanges/model.py
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2


def record_of(
    message: Message,
    process: Identity | None,
    names: Names | None,
    clock_offset: int,
    max_content: int,
    syscalls: Mapping[int, str],
    session: Session | None = None,
    handshake: Handshake | None = None,
    peers: Peers | None = None,
) -> Record:
    """Return the record of ``message``.

    ``names`` are the paths of a Unix socket. ``clock_offset`` is CLOCK_REALTIME minus
    the kernel's clock, in nanoseconds. ``max_content`` limits the bytes that decoding
    a content coding may yield. ``syscalls`` maps the syscall numbers of the captured
    machine to names. ``session`` is the TLS session that encrypted the message, in a library;
    without one, ``handshake`` is that of a connection that was decrypted with a key log. ``peers``
    know the other ends of connections.
    """
    # Unpacked at once: accessing each field by its name costs a third of this function's time.
    origin, head, raw, body, size, incomplete, last_time, trailers, error_code, proxy = message
    type_, version, method, target, status, reason, fields, request, stream = head
    sent = origin.direction == SEND
    is_request = type_ == REQUEST
    codings: tuple[str, ...] = ()
    if fields.codings:
        body, codings, why = content.decode(body, fields.codings, max_content, not incomplete)
        if why is not None and why not in incomplete:
            incomplete = (*incomplete, why)

    if handshake is not None and version is not None:
        handshake = handshake.of_message(version)
    asks = is_request and not head.pushed
    called, is_client = syscalls.get(origin.syscall), sent == is_request
    constant = constant_of(
        origin, called, is_client, process, names, session, handshake, clock_offset, peers
    )
    record: Record = {
        "timestamp": timestamp(origin.time + clock_offset),
        **constant.mover,
        "bytes": size,
    }
    if is_request:
        _add_request(record, method, target)
    else:
        if status is not None:
            record["status_code"] = status
        if reason is not None:
            record["reason"] = reason
    if version is not None:
        record["http_version"] = version
    record["headers"] = fields.headers
    if trailers is not None and trailers.headers:
        record["trailers"] = trailers.headers
    if not is_request:
        upgrade = switches_to(head)
        if upgrade:
            record["upgrade"] = upgrade
    body_text: tuple[str, str | None] | None = _NO_TEXT
    if codings:
        # Text and charset are properties of the decoded content, not of its coded form.
        body_text = text_of(body)
    elif body:
        content_type = fields.content_type
        if content_type is not None and content_type.startswith("application/grpc"):
            # Length-prefixed messages are binary, but short ones can look like UTF-8.
            body_text = None
        else:
            body_text = text_of(body, content_type, cut=bool(incomplete))
    raw_text = text_of(raw)
    record["body"] = _base64(body) if body_text is None else body_text[0]
    record["raw_payload"] = _base64(raw) if raw_text is None else raw_text[0]
    if body_text is None:
        record["body_encoding"] = "base64"
    elif body_text[1] is not None:
        record["body_charset"] = body_text[1]
    if codings:
        record["body_codings"] = list(codings)
    if raw_text is None:
        record["raw_payload_encoding"] = "base64"
    record["type"] = type_
    record["role"] = "client" if sent == asks else "server"
    if request is not None:
        # The response carries a summary of its request, because either may complete first.
        number, method, target, host, asked_origin = request
        record["exchange"] = f"{origin.socket}-{number}"
        if not is_request:
            # A request can have any number of interim responses.
            length = len(method or "") + len(target or "") + len(host or "")
            if length < _REPEATED or _may_repeat(size, method, target, host):
                asked = record["request"] = {}
                _add_request(asked, method, target)
                if host is not None:
                    asked["host"] = host
            # A response that never arrived has no bytes, and so no latency or duration.
            if size:
                asked_time = asked_origin.time
                record["latency_ms"] = (origin.time - asked_time) / 1e6
                record["duration_ms"] = (last_time - asked_time) / 1e6
    if stream is not None:
        record["stream"] = stream
    record.update(constant.call)
    if origin.sequence:
        record["sequence"] = (origin.sequence + origin.position) & 0xFFFFFFFF
    elif (session or handshake) and size and not origin.flags & FLAG_JOINED:
        # Both ends count plain text from the handshake on.
        record["sequence"] = origin.position & 0xFFFFFFFF
    record.update(constant.socket)
    record["captured"] = len(raw)
    if incomplete:
        record["incomplete"] = list(incomplete)
    if error_code is not None:
        record["error_code"] = error_code
    if proxy is not None:
        record["proxy"] = {
            "source_ip": proxy.source_ip,
            "source_port": proxy.source_port,
            "dest_ip": proxy.dest_ip,
            "dest_port": proxy.dest_port,
        }
    return record


def _may_repeat(size: int, *texts: str | None) -> bool:
    """Whether the line of a response of ``size`` bytes may repeat ``texts`` of its request."""
    # A response that never arrived is the only one.
    return not size or fits("".join(filter(None, texts)).encode(), allowance(size))


def _add_request(record: Record | RequestSummary, method: str | None, target: str | None) -> None:
    if method is not None:
        record["method"] = method
    if target is not None:
        record["url"] = target


class Constant(NamedTuple):
    """Fields that are equal in all records of one thread and one direction of a connection.

    ``mover`` comes before ``bytes``, ``call`` after the fields of the exchange, and ``socket``
    after ``sequence``.
    """

    mover: Record
    call: Record
    socket: Record


# The fields of a chunk that determine a Constant.
_WHO = (
    "direction", "family", "pid", "tid", "start_time", "socket", "netns", "local_port",
    "remote_port", "local", "remote", "comm",
)  # fmt: skip
_who = itemgetter(*map(Chunk._fields.index, _WHO))

# A cache for connections that carry many messages. It is cleared when it is full.
_constants: dict[tuple[object, ...], Constant] = {}
_CONSTANTS_MAX = 1024


def constant_of(
    origin: Chunk,
    syscall: str | None,
    is_client: bool,
    process: Identity | None,
    names: Names | None,
    session: Session | None,
    handshake: Handshake | None,
    clock_offset: int,
    peers: Peers | None = None,
) -> Constant:
    """Return the fields that messages with this ``origin`` share, as long as the peer does."""
    peer = None if peers is None else peer_of(peers, origin, names, is_client, process)
    # Many connections carry only one exchange, so the first message is not cached.
    key = (
        (_who(origin), syscall, is_client, process, names, session, handshake, clock_offset, peer)
        if origin.position
        else None
    )
    constant = None if key is None else _constants.get(key)
    if constant is None:
        constant = Constant(
            _of_mover(origin, process, names),
            _of_call(origin, syscall, is_client, names),
            _of_socket(origin, process, session, handshake, clock_offset, peer),
        )
        if key is not None:
            if len(_constants) >= _CONSTANTS_MAX:
                _constants.clear()
            _constants[key] = constant
    return constant


def peer_of(
    peers: Peers, origin: Chunk, names: Names | None, is_client: bool, process: Identity | None
) -> End | None:
    """Return the other end of the socket that moved ``origin``, if it was seen."""
    peer = peers.other(origin.socket)
    if peer is None and not peers.has_met(origin):
        connection = connection_of(origin, names, is_client)
        peers.meet(origin, connection, is_client, comm(origin.comm), process)
        peer = peers.other(origin.socket)
    return peer


def _of_mover(origin: Chunk, process: Identity | None, names: Names | None) -> Record:
    sent = origin.direction == SEND
    record: Record = {"pid": origin.pid, "comm": comm(origin.comm)}
    if process is not None and process.cmdline is not None:
        record["cmdline"] = process.cmdline
    record["direction"] = "send" if sent else "recv"
    if origin.family == AF_UNIX:
        _add_paths(record, names, sent)
    elif origin.family:
        local = address(origin.family, origin.local), origin.local_port
        remote = address(origin.family, origin.remote), origin.remote_port
        record["source_ip"], record["source_port"] = local if sent else remote
        record["dest_ip"], record["dest_port"] = remote if sent else local
    return record


def _of_call(origin: Chunk, syscall: str | None, is_client: bool, names: Names | None) -> Record:
    record: Record = {}
    if syscall is not None:
        record["syscall"] = syscall
    connection = connection_of(origin, names, is_client)
    if connection is not None:
        record["connection"] = connection
    return record


def _of_socket(
    origin: Chunk,
    process: Identity | None,
    session: Session | None,
    handshake: Handshake | None,
    clock_offset: int,
    peer: End | None,
) -> Record:
    record: Record = {}
    socket: int | None = origin.socket
    if session is not None:
        record["tls"] = encryption_of(LIBRARIES[session.library], handshake)
        socket = session.socket or None
    elif origin.socket & TLS_STREAM:
        socket = None  # What describes the session was lost.
    elif handshake is not None:
        record["tls"] = encryption_of(KEY_LOG, handshake)
    if socket is not None:
        record["socket"] = socket
        record["netns"] = origin.netns
    record["tid"] = origin.tid
    record["process_start"] = _start(origin.start_time + clock_offset)
    if process is not None:
        record["uid"] = process.uid
        if process.cgroup is not None:
            record["cgroup"] = process.cgroup
        if process.workload is not None:
            record.update(process.workload.fields)
    if peer is not None:
        record["peer"] = peer.fields
    return record


def encryption_of(library: str, handshake: Handshake | None) -> TlsSession:
    """Return the field ``tls``."""
    described: TlsSession = {"library": library}
    if handshake is not None:
        if handshake.version is not None:
            described["version"] = handshake.version
        if handshake.server_name is not None:
            described["sni"] = handshake.server_name
        if handshake.protocol is not None:
            described["alpn"] = handshake.protocol
        if handshake.cipher is not None:
            described["cipher"] = handshake.cipher
    return described


def _add_paths(record: Record, names: Names | None, sent: bool) -> None:
    if names is None:
        return
    source, dest = (names.local, names.remote) if sent else (names.remote, names.local)
    if source:
        record["source_path"] = unix_path(source)
    if dest:
        record["dest_path"] = unix_path(dest)


def connection_of(origin: Chunk, names: Names | None, is_client: bool) -> str | None:
    """Return an identifier that is equal at both ends; ``None`` if this end does not know it.

    For TCP it is the Community ID (version 1, seed 0) that network tools use. For a Unix
    socket it contains the inode of the client's end, which is unique to the connection.
    """
    if not origin.family:
        return None
    if origin.family != AF_UNIX:
        size = 4 if origin.family == AF_INET else 16
        return community_id(
            origin.local[:size], origin.local_port, origin.remote[:size], origin.remote_port
        )
    if is_client:
        return f"unix:{origin.socket}"
    return f"unix:{names.peer}" if names is not None and names.peer else None


@lru_cache(maxsize=4096)
def community_id(local: bytes, local_port: int, remote: bytes, remote_port: int) -> str:
    """Return the Community ID of a TCP connection between packed addresses.

    https://github.com/corelight/community-id-spec, version 1 with seed 0. An IPv4-mapped
    address is treated as IPv4, because the packets are IPv4.
    """
    low, high = (_as_on_wire(local), local_port), (_as_on_wire(remote), remote_port)
    if low > high:
        low, high = high, low
    document = bytes(2) + low[0] + high[0] + _COMMUNITY.pack(_TCP, 0, low[1], high[1])
    return "1:" + _base64(sha1(document, usedforsecurity=False).digest())


def _as_on_wire(address: bytes) -> bytes:
    return address[12:] if address.startswith(_MAPPED) and len(address) == 16 else address


def unix_path(path: bytes) -> str:
    """Return a ``sun_path`` as ss(8) prints it: an abstract one begins with ``@``."""
    if path.startswith(b"\0"):
        return path.replace(b"\0", b"@").decode(errors="replace")
    return path.partition(b"\0")[0].decode(errors="replace")


def timestamp(realtime: int) -> str:
    """Format ``realtime``, in ns since 1970, as RFC 3339 in UTC with nine fractional digits.

    A recording can contain any time. One that no reader accepts becomes the nearest that is.
    """
    if not 0 <= realtime < _TIME_END:
        realtime = min(max(realtime, 0), _TIME_END - 1)
    second, nanosecond = divmod(realtime, 1_000_000_000)
    return f"{_second(second)}.{nanosecond:09d}Z"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


# A process usually has many records.
_start = lru_cache(maxsize=1024)(timestamp)


@lru_cache(maxsize=4096)
def address(family: int, packed: bytes) -> str:
    """Return a packed address in canonical form (RFC 5952); IPv4-mapped ones as IPv4."""
    if family == AF_INET:
        return str(IPv4Address(packed[:4]))
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)


@lru_cache(maxsize=4096)
def comm(padded: bytes) -> str:
    """Return a thread's name: the bytes before the first NUL."""
    return padded.partition(b"\0")[0].decode(errors="replace")


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode("ascii")
