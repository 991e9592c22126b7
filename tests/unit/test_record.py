# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import gzip
import re
import zlib
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest import syscalls
from profiler.ingest.containers import Workload
from profiler.ingest.http import Message
from profiler.ingest.peers import Peers
from profiler.ingest.process import Identity
from profiler.ingest.record import (
    _CONSTANTS_MAX,
    _constants,
    address,
    comm,
    community_id,
    connection_of,
    record_of,
    timestamp,
)
from profiler.ingest.wire import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    FLAG_JOINED,
    FLAG_LIMIT,
    RECV,
    SEND,
    TLS_STREAM,
    Names,
    Session,
)
from tests.unit.h2talk import Talk, answering, asking
from tests.unit.messages import read, request, response
from tests.unit.turns import Ask
from tests.unit.wires import SECOND, SOCKET, Wire, chunk

# 2026-11-22T16:00:00Z, when the monotonic clock was 0
SYSCALLS = syscalls.NAMES["x86_64"]
OFFSET = 1_795_363_200 * SECOND
POST = b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# The keys in the order of the table in docs/reference/record.md.
KEYS = [
    *("timestamp", "pid", "comm", "cmdline", "direction"),
    *("source_ip", "source_port", "dest_ip", "dest_port", "bytes"),
    *("method", "url", "status_code", "reason", "http_version", "headers"),
    *("trailers", "upgrade", "body", "raw_payload"),
    *("body_encoding", "body_charset", "body_codings", "raw_payload_encoding"),
    *("type", "role", "exchange", "request"),
    *("latency_ms", "duration_ms", "stream", "syscall", "connection", "sequence"),
    *("tls", "socket", "netns"),
    *("tid", "process_start", "uid", "cgroup"),
    *("container", "pod", "service", "peer", "captured", "incomplete", "error_code"),
    "proxy",
]


CURL = Identity("curl x", 1000, "/user.slice")


def record(
    message: Message,
    process: Identity | None = CURL,
    max_content: int = 1000,
    names: Names | None = None,
    peers: Peers | None = None,
) -> dict[str, Any]:
    return record_of(message, process, names, OFFSET, max_content, SYSCALLS, peers=peers)


def test_a_request() -> None:
    found = record(request(POST, time=5))
    assert found == {
        "timestamp": "2026-11-22T16:00:00.000000005Z",
        "pid": 100,
        "comm": "curl",
        "cmdline": "curl x",
        "direction": "send",
        "source_ip": "127.0.0.1",
        "source_port": 50000,
        "dest_ip": "127.0.0.2",
        "dest_port": 80,
        "bytes": len(POST),
        "method": "POST",
        "url": "/p?q=1",
        "http_version": "1.1",
        "headers": {"host": "a", "content-length": "5"},
        "body": "hello",
        "raw_payload": POST.decode(),
        "type": "request",
        "role": "client",
        "exchange": f"{SOCKET}-1",
        "connection": "1:lJeDh7tN2SvTMdA8I2FWCTWZ3Ks=",
        "socket": SOCKET,
        "netns": 4026531840,
        "tid": 101,
        "process_start": "2026-11-22T16:00:00.000000007Z",
        "uid": 1000,
        "cgroup": "/user.slice",
        "captured": len(POST),
    }


STREAM = TLS_STREAM | 77


def of_tls(message: Message, session: Session | None, **changed: Any) -> dict[str, Any]:
    origin = message.origin._replace(socket=STREAM, sequence=0, **changed)
    head = message.head
    if head.request is not None:
        head = head._replace(request=head.request._replace(origin=origin))
    message = message._replace(origin=origin, head=head)
    return record_of(message, CURL, None, OFFSET, 1000, SYSCALLS, session)


def test_plain_text_of_tls_has_the_socket_that_carries_it() -> None:
    found = of_tls(request(POST), Session(1, STREAM, SOCKET), position=9)
    assert found["tls"] == {"library": "openssl"}
    assert (found["socket"], found["sequence"]) == (SOCKET, 9)
    assert found["connection"] == record(request(POST))["connection"]
    assert found["exchange"] == f"{STREAM}-1"
    # If the handshake was not seen, the other end counts from another byte.
    joined = of_tls(request(POST), Session(1, STREAM, SOCKET), flags=FLAG_JOINED)
    assert "sequence" not in joined


def test_without_evidence_of_the_socket_nothing_names_one() -> None:
    zeros = bytes(16)
    unknown = {"family": 0, "local": zeros, "remote": zeros, "local_port": 0, "remote_port": 0}
    found = of_tls(request(POST), Session(2, STREAM, 0), netns=0, **unknown)
    assert found["tls"] == {"library": "gnutls"}
    named = {"source_ip", "source_port", "dest_ip", "dest_port", "connection", "socket", "netns"}
    assert not named & found.keys()
    assert found["pid"] == record(request(POST))["pid"]
    assert not named & of_tls(request(POST), None, netns=0, **unknown).keys()


def test_the_common_fields_of_a_connection_are_current() -> None:
    """It is cached, but only as long as it is valid."""
    wire = Wire()
    first, second = read(wire.send(POST), wire.send(POST, tid=9))
    first = first._replace(origin=first.origin._replace(position=1))
    _constants.clear()
    before = record(first)
    assert any(constant.mover.get("cmdline") == "curl x" for constant in _constants.values())
    later = Identity("wget", 7, None)
    names = ("cmdline", "uid", "cgroup", "tid", "process_start")
    assert [before[name] for name in names] == [
        *("curl x", 1000, "/user.slice", 101, "2026-11-22T16:00:00.000000007Z")
    ]
    assert [record(first, later).get(name) for name in names[:3]] == ["wget", 7, None]
    assert record(second)["tid"] == 9
    shifted = record_of(first, CURL, None, OFFSET + 1, 1000, SYSCALLS)
    assert shifted["process_start"] == "2026-11-22T16:00:00.000000008Z"
    assert record(first) == before


def test_the_cache_of_connections_is_bounded() -> None:
    (message,) = read(Wire().send(POST))
    for socket in range(2 * _CONSTANTS_MAX):
        origin = message.origin._replace(socket=socket, position=1)
        assert record(message._replace(origin=origin))["socket"] == socket
        assert len(_constants) <= _CONSTANTS_MAX


def test_a_response() -> None:
    wire = Wire()
    _, message = read(wire.send(POST, time=SECOND), wire.recv(OK, time=SECOND + 2_500_000))
    assert record(message) == {
        "timestamp": "2026-11-22T16:00:01.002500000Z",
        "pid": 100,
        "comm": "curl",
        "cmdline": "curl x",
        "direction": "recv",
        "source_ip": "127.0.0.2",
        "source_port": 80,
        "dest_ip": "127.0.0.1",
        "dest_port": 50000,
        "bytes": len(OK),
        "status_code": 200,
        "reason": "OK",
        "http_version": "1.1",
        "headers": {"content-length": "2"},
        "body": "ok",
        "raw_payload": OK.decode(),
        "type": "response",
        "role": "client",
        "exchange": f"{SOCKET}-1",
        "request": {"method": "POST", "url": "/p?q=1", "host": "a"},
        "latency_ms": 2.5,
        "duration_ms": 2.5,
        "connection": "1:lJeDh7tN2SvTMdA8I2FWCTWZ3Ks=",
        "socket": SOCKET,
        "netns": 4026531840,
        "tid": 101,
        "process_start": "2026-11-22T16:00:00.000000007Z",
        "uid": 1000,
        "cgroup": "/user.slice",
        "captured": len(OK),
    }


def test_a_response_that_never_came() -> None:
    wire = Wire()
    _, message = read(
        wire.send(POST, time=SECOND, syscall=1, sequence=9), wire.end(RECV), wire.end(SEND)
    )
    assert record(message) == {
        "timestamp": "2026-11-22T16:00:03.000000000Z",
        "pid": 100,
        "comm": "curl",
        "cmdline": "curl x",
        "direction": "recv",
        "source_ip": "127.0.0.2",
        "source_port": 80,
        "dest_ip": "127.0.0.1",
        "dest_port": 50000,
        "bytes": 0,
        "headers": {},
        "body": "",
        "raw_payload": "",
        "type": "response",
        "role": "client",
        "exchange": f"{SOCKET}-1",
        "request": {"method": "POST", "url": "/p?q=1", "host": "a"},
        "connection": "1:lJeDh7tN2SvTMdA8I2FWCTWZ3Ks=",
        "socket": SOCKET,
        "netns": 4026531840,
        "tid": 101,
        "process_start": "2026-11-22T16:00:00.000000007Z",
        "uid": 1000,
        "cgroup": "/user.slice",
        "captured": 0,
        "incomplete": ["no_response", "closed_early"],
    }


def test_the_server_receives_requests_and_sends_responses() -> None:
    wire = Wire()
    asked, answered = (record(m) for m in read(wire.recv(POST), wire.send(OK)))
    assert (asked["role"], asked["direction"], asked["source_port"]) == ("server", "recv", 80)
    assert (answered["role"], answered["direction"], answered["source_port"]) == (
        "server",
        "send",
        50000,
    )


def test_unknown_fields_are_absent() -> None:
    found = record(response(), process=None)
    for key in (
        "cmdline",
        "uid",
        "cgroup",
        "exchange",
        "request",
        "latency_ms",
        "syscall",
        "incomplete",
        "method",
    ):
        assert key not in found
    assert found["body"] == ""
    nameless = record(request(b"GET / HTTP/1.1\r\n\r\n"), process=Identity(None, 0, None))
    assert nameless["uid"] == 0
    assert "cmdline" not in nameless
    assert "cgroup" not in nameless


def test_a_unix_socket_has_paths_instead_of_addresses() -> None:
    wire = Wire()
    asked, answered = read(wire.send(POST, family=AF_UNIX), wire.recv(OK, family=AF_UNIX))
    names = Names(SOCKET, 0, b"\0client\0x", b"/run/app.sock\0")
    found = record(asked, names=names)
    assert (found["source_path"], found["dest_path"]) == ("@client@x", "/run/app.sock")
    found = record(answered, names=names)
    assert (found["source_path"], found["dest_path"]) == ("/run/app.sock", "@client@x")
    assert not {"source_ip", "source_port", "dest_ip", "dest_port"} & set(found)
    for unnamed in (None, Names(SOCKET, 0, b"", b"")):
        assert not {"source_path", "dest_path"} & set(record(asked, names=unnamed))


def test_the_keys_come_in_the_order_of_the_table() -> None:
    binary = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: x\r\n\r\n\xff\xfe\xfd\xfc"
    latin = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Type: a/b;charset=l1\r\n\r\n\xe9"
    wire = Wire()
    seen = set()
    for message in read(wire.send(POST + latin, syscall=1), wire.recv(binary, syscall=1)):
        keys = list(record(message))
        assert keys == [key for key in KEYS if key in keys]
        seen.update(keys)
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n"
    upgrade = b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n"
    reset = Talk()
    reset.client.send_headers(1, asking())
    reset.client.reset_stream(1)
    reset.turn()
    proxied = b"PROXY TCP4 192.0.2.7 198.51.100.9 51234 443\r\n" + POST
    items = Wire().send(chunked, sequence=5), Wire().recv(upgrade)
    others = map(record, [*read(*items), *read(Wire().recv(proxied))])
    encrypted = of_tls(request(POST), Session(1, STREAM, SOCKET))
    workload: Any = {"container": {"id": "a"}, "pod": {"uid": "b"}, "service": "c"}
    contained = record(request(POST), CURL._replace(workload=Workload(workload)))
    peers = Peers()
    sent = request(POST)
    sent = sent._replace(origin=sent.origin._replace(sequence=5))
    received = sent._replace(origin=sent.origin._replace(direction=RECV, socket=SOCKET + 1))
    _, met = (record(message, peers=peers) for message in (sent, received))
    for line in (*others, *said(reset), encrypted, contained, met):
        assert list(line) == [key for key in KEYS if key in line]
        seen.update(line)
    assert seen == set(KEYS)


def test_the_keys_are_those_of_the_documentation() -> None:
    document = Path(__file__).parents[2] / "docs" / "reference" / "record.md"
    if not document.exists():
        pytest.skip("docs/reference/record.md is not written yet")
    text = document.read_text()
    assert [key for key in KEYS if f"`{key}`" not in text] == []


def test_a_message_that_is_not_whole() -> None:
    found = record(request(POST[:-2]))
    assert (found["bytes"], found["captured"]) == (len(POST) - 2, len(POST) - 2)
    assert found["incomplete"] == ["closed_early"]
    assert list(found)[-2:] == ["captured", "incomplete"]


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        (b"Host: a:81\r\n", "a:81"),
        (b"Host:\r\n", ""),
        (b"", None),
        (b"host: a\r\nHost: b\r\n", "a, b"),
    ],
)
def test_a_response_names_the_host_of_its_request(fields: bytes, host: str | None) -> None:
    wire = Wire()
    _, answered = read(wire.send(b"GET / HTTP/1.1\r\n%b\r\n" % fields), wire.recv(OK))
    assert record(answered)["request"].get("host") == host


def test_an_http2_request_may_name_its_host_like_one_of_http1() -> None:
    talk = Talk()
    fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "b.example")]
    talk.client.send_headers(1, fields, end_stream=True)
    talk.turn()
    talk.server.send_headers(1, answering(), end_stream=True)
    talk.turn()
    _, answered = said(talk)
    assert answered["request"]["host"] == "b.example"


def test_a_repeated_header_is_an_array() -> None:
    found = record(request(b"GET / HTTP/1.1\r\nAccept: a\r\nX: y\r\naccept: b\r\n\r\n"))
    assert found["headers"] == {"accept": ["a", "b"], "x": "y"}


# ---- text and bytes


def body_of(body: bytes, fields: bytes = b"", **options: Any) -> dict[str, Any]:
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n%b\r\n" % (len(body), fields)
    return record(request(head + body), **options)


@given(st.text(max_size=50))
def test_utf8_is_text(text: str) -> None:
    found = body_of(text.encode())
    assert found["body"] == text
    assert found["raw_payload"].endswith(text)
    assert "body_encoding" not in found
    assert "raw_payload_encoding" not in found


@given(st.binary(max_size=50))
def test_any_bytes_come_back(body: bytes) -> None:
    found = body_of(body)
    for key, expected in (("body", body), ("raw_payload", None)):
        encoding = found.get(f"{key}_encoding")
        data = base64.b64decode(found[key]) if encoding == "base64" else found[key].encode()
        assert encoding in (None, "base64")
        if expected is None:
            assert data.endswith(body)
            assert len(data) == found["captured"]
        else:
            assert data == expected
    assert orjson.loads(orjson.dumps(found))["body"] == found["body"]


def test_bytes_that_are_not_utf8_are_base64() -> None:
    found = body_of(b"\xff\x00")
    assert (found["body"], found["body_encoding"]) == ("/wA=", "base64")
    assert found["raw_payload_encoding"] == "base64"


def test_a_body_cut_off_inside_a_character_is_text_up_to_the_cut() -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
    found = record(request(head + "ab\u20ac".encode()[:-1]))
    assert found["body"] == "ab"
    assert "body_encoding" not in found
    assert base64.b64decode(found["raw_payload"]) == head + "ab\u20ac".encode()[:-1]


def test_a_content_coding_is_removed_from_the_body_only() -> None:
    found = body_of(gzip.compress(b"plain"), b"Content-Encoding: gzip\r\n")
    assert found["body"] == "plain"
    assert found["raw_payload_encoding"] == "base64"
    assert "incomplete" not in found


def test_a_broken_content_coding_is_named() -> None:
    found = body_of(b"not gzip", b"Content-Encoding: gzip\r\n")
    assert (found["body"], found["incomplete"]) == ("not gzip", ["undecodable"])
    assert found["body_codings"] == ["gzip"]


def test_an_unknown_coding_is_named_with_those_around_it() -> None:
    body = b"caf\xe9"
    fields = b"Content-Encoding: aes128gcm\r\ncontent-encoding: GZIP, identity\r\n"
    found = body_of(body, fields + b"Content-Type: text/plain; charset=latin1\r\n")
    assert found["body_codings"] == ["aes128gcm", "gzip"]
    assert base64.b64decode(found["body"]) == body
    assert "body_charset" not in found


def test_a_transfer_coding_is_removed_as_well() -> None:
    body = gzip.compress(zlib.compress(b"plain"))
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    )
    found = record(response(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)))
    assert found["body"] == "plain"
    assert "incomplete" not in found


def test_a_charset_is_applied_and_named() -> None:
    found = body_of(b"caf\xe9", b"Content-Type: text/plain; charset=latin1\r\n")
    assert (found["body"], found["body_charset"]) == ("caf\xe9", "iso-8859-1")
    assert "body_encoding" not in found
    assert base64.b64decode(found["raw_payload"]).endswith(b"caf\xe9")
    coded = gzip.compress(b"caf\xe9")
    fields = b"Content-Encoding: gzip\r\nContent-Type: text/plain; charset=latin1\r\n"
    assert body_of(coded, fields)["body"] == "caf\xe9"


def test_a_coding_that_lacks_its_end() -> None:
    found = body_of(gzip.compress(b"plain" * 9)[:-6], b"Content-Encoding: gzip\r\n")
    assert (found["body"], found["incomplete"]) == ("plain" * 9, ["undecodable"])
    assert "body_codings" not in found


def test_content_beyond_the_limit_is_named() -> None:
    found = body_of(gzip.compress(b"x" * 99), b"Content-Encoding: gzip\r\n", max_content=10)
    assert (found["body"], found["incomplete"]) == ("x" * 10, ["decoded_limit"])


def test_a_truncated_coded_body_is_decoded_up_to_the_cut() -> None:
    body = gzip.compress(b"x" * 99)
    head = b"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    sent = (head + body)[:-4]
    message = request(sent, size=len(sent) + 4, flags=FLAG_LIMIT)
    found = record(message)
    assert (found["body"], found["incomplete"]) == ("x" * 99, ["body_limit"])
    found = record(message, max_content=10)
    assert (found["body"], found["incomplete"]) == ("x" * 10, ["body_limit", "decoded_limit"])


def test_a_reason_is_named_once() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    message = response(head + b"4\r\njunk\r\nno size\r\n")
    assert message.incomplete == ("undecodable",)
    assert record(message)["incomplete"] == ["undecodable"]


# ---- times, addresses, names


@pytest.mark.parametrize(
    ("realtime", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_795_363_199 * SECOND + 999_999_999, "2026-11-22T15:59:59.999999999Z"),
        (1_709_164_800 * SECOND + 120, "2024-02-29T00:00:00.000000120Z"),
    ],
)
def test_timestamp(realtime: int, text: str) -> None:
    assert timestamp(realtime) == text


@given(st.integers(0, 2**62))
def test_timestamps_order_like_their_times(realtime: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", timestamp(realtime))
    assert timestamp(realtime) < timestamp(realtime + 1)


@pytest.mark.parametrize(
    ("family", "packed", "text"),
    [
        (AF_INET, bytes([10, 0, 0, 1]), "10.0.0.1"),
        (AF_INET6, ip_address("::1").packed, "::1"),
        (AF_INET6, ip_address("2001:db8:0:0:1:0:0:1").packed, "2001:db8::1:0:0:1"),
        (AF_INET6, ip_address("::ffff:192.0.2.7").packed, "192.0.2.7"),
        (AF_INET6, bytes(16), "::"),
    ],
)
def test_address(family: int, packed: bytes, text: str) -> None:
    assert address(family, packed.ljust(16, b"\0")) == text


def test_comm_ends_at_its_nul() -> None:
    assert comm(b"curl\0junk\0\0\0\0\0\0\0") == "curl"
    assert comm(b"sixteen-bytes-xx") == "sixteen-bytes-xx"
    assert comm(b"\xff\0") == "\ufffd"


@pytest.mark.parametrize(
    ("machine", "number", "name"),
    [
        ("x86_64", 0, "read"),
        ("x86_64", 44, "sendto"),
        ("x86_64", 47, "recvmsg"),
        ("aarch64", 63, "read"),
        ("aarch64", 206, "sendto"),
        ("aarch64", 212, "recvmsg"),
    ],
)
def test_syscall_names(machine: str, number: int, name: str) -> None:
    assert syscalls.names(machine)[number] == name


def test_machines_have_the_same_syscalls() -> None:
    listed = {tuple(sorted(table.values())) for table in syscalls.NAMES.values()}
    assert len(listed) == 1
    assert syscalls.names("vax") == {}


def test_a_known_syscall_is_named_and_an_unknown_one_absent() -> None:
    assert record(request(syscall=44))["syscall"] == "sendto"
    assert "syscall" not in record(request(syscall=9999))
    assert "syscall" not in record(request(syscall=-1))


# ---- HTTP/2


def said(talk: Talk, **fields: object) -> list[dict[str, Any]]:
    """Return the records of a talk, seen by its client."""
    wire = Wire()
    moves = [(wire.send if isinstance(t, Ask) else wire.recv)(t.data) for t in talk.turns]  # type: ignore[union-attr]
    return [record(message) for message in read(*moves)]


def test_an_http2_exchange() -> None:
    talk = Talk()
    talk.exchange("/p", b"question", b"answer")
    asked, answered = said(talk)
    for line in (asked, answered):
        assert list(line) == [key for key in KEYS if key in line]
        assert (line["http_version"], line["stream"]) == ("2", 1)
        assert (line["exchange"], line["role"]) == (f"{SOCKET}-1", "client")
        assert line["bytes"] == line["captured"] == len(base64.b64decode(line["raw_payload"]))
        assert not {"reason", "incomplete", "error_code", "trailers", "upgrade"} & set(line)
    assert (asked["method"], asked["url"], asked["body"]) == ("POST", "/p", "question")
    assert asked["headers"][":authority"] == "a.example"
    assert answered["status_code"] == 200
    assert answered["request"] == {"method": "POST", "url": "/p", "host": "a.example"}
    assert answered["latency_ms"] > 0


def test_an_http2_request_that_is_reset() -> None:
    talk = Talk()
    talk.client.send_headers(1, asking())
    talk.client.reset_stream(1, 8)
    talk.turn()
    asked, unanswered = said(talk)
    assert (asked["incomplete"], asked["error_code"]) == (["reset"], "CANCEL")
    assert unanswered["incomplete"] == ["no_response", "reset"]
    assert (unanswered["stream"], unanswered["error_code"]) == (1, "CANCEL")
    for line in (asked, unanswered):
        assert list(line) == [key for key in KEYS if key in line]


def test_grpc_is_base64_and_has_its_status_in_the_trailers() -> None:
    talk = Talk()
    kind = ("content-type", "application/grpc+proto")
    talk.client.send_headers(1, asking("/s.S/Do", "POST", kind))
    talk.client.send_data(1, b"\0\0\0\0\2\xff\xfe", end_stream=True)
    talk.turn()
    talk.server.send_headers(1, answering(200, ("content-type", "application/grpc")))
    talk.server.send_data(1, b"\0\0\0\0\1\x08")
    talk.server.send_headers(1, [("grpc-status", "0")], end_stream=True)
    talk.turn()
    asked, answered = said(talk)
    assert asked["body_encoding"] == answered["body_encoding"] == "base64"
    assert base64.b64decode(answered["body"]) == b"\0\0\0\0\1\x08"
    assert answered["trailers"] == {"grpc-status": "0"}


def test_a_pushed_request_is_sent_by_the_server() -> None:
    talk = Talk()
    talk.client.send_headers(1, asking(), end_stream=True)
    talk.turn()
    talk.server.push_stream(1, 2, asking("/css"))
    talk.turn()
    asked, pushed = said(talk)
    assert [(m["direction"], m["role"]) for m in (asked, pushed)] == [
        ("send", "client"),
        ("recv", "client"),
    ]


def test_unknown_fields_of_an_http2_message_are_absent() -> None:
    head = b"\0\0\3\1\4\0\0\0\7\x86\xbe\x88"
    found = read(
        Wire().send(head, flags=FLAG_JOINED), Wire().recv(head[:-2] + b"\xbe", flags=FLAG_JOINED)
    )
    line = record(found[0])
    assert line["incomplete"][0] == "unknown_header_state"
    assert not {"method", "url"} & set(line)
    assert line["headers"] == {":scheme": "http", ":status": "200"}


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        # From the specification's own examples (baseline_default.json).
        (("128.232.110.120", 34855, "66.35.250.204", 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        (("66.35.250.204", 80, "128.232.110.120", 34855), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    ],
)
def test_the_community_id(ends: tuple[str, int, str, int], expected: str) -> None:
    local, local_port, remote, remote_port = ends
    here, there = ip_address(local).packed, ip_address(remote).packed
    assert community_id(here, local_port, there, remote_port) == expected
    mapped = bytes(10) + b"\xff\xff" + here
    assert community_id(mapped, local_port, there, remote_port) == expected


def test_both_ends_name_a_connection_and_a_message_alike() -> None:
    here, there = bytes([127, 0, 0, 1]).ljust(16, b"\0"), bytes([127, 0, 0, 2]).ljust(16, b"\0")
    ends = {
        SEND: {"local": here, "local_port": 5000, "remote": there, "remote_port": 80},
        RECV: {"local": there, "local_port": 80, "remote": here, "remote_port": 5000},
    }
    # The receiver was first seen later: its positions count from another byte.
    counted = {SEND: (2**32 - 3, 10), RECV: (2, 5)}
    lines = []
    for direction, addresses in ends.items():
        sequence, position = counted[direction]
        fields = {"direction": direction, "sequence": sequence, "position": position, **addresses}
        lines.append(record(request(b"GET / HTTP/1.1\r\n\r\n", **fields)))
    sent, received = lines
    assert sent["connection"] == received["connection"]
    assert sent["sequence"] == received["sequence"] == 7


def test_the_client_s_socket_identifies_a_unix_connection() -> None:
    client = chunk(family=AF_UNIX, socket=11)
    server = chunk(family=AF_UNIX, socket=12)
    assert connection_of(client, None, is_client=True) == "unix:11"
    assert connection_of(server, Names(12, 11, b"", b""), is_client=False) == "unix:11"
    assert connection_of(server, Names(12, 0, b"", b""), is_client=False) is None
    assert connection_of(server, None, is_client=False) is None
