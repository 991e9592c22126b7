# SPDX-License-Identifier: Apache-2.0
"""Decryption with a key log: real TLS of OpenSSL in, plain text out."""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.decryption import Decryption, Handshake, PlainEvent, Undecryptable
from profiler.ingest.decryption import connection as causes
from profiler.ingest.decryption.handshake import (
    HandshakeError,
    Reassembly,
    client_hello,
    encrypted_extensions,
    server_hello,
)
from profiler.ingest.stream import Finish, Gap
from profiler.ingest.wire import FLAG_JOINED, RECV, SEND, Chunk
from tests.unit.talk_tls import (
    CLIENT,
    REQUEST,
    RESPONSE,
    SERVER,
    Step,
    Talk,
    contexts,
    openssl,
    talk,
)
from tests.unit.wires import SOCKET, Wire

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
# The beginning of the random bytes of a HelloRetryRequest (RFC 8446, 4.1.3).
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891")
LARGE = [(REQUEST + b"x" * 100_000, RESPONSE + b"y" * 100_000)]


def chunks_of(said: Talk, wire: Wire, viewer: int = CLIENT) -> list[Chunk]:
    return [wire.send(data) if sender == viewer else wire.recv(data) for sender, data in said.moved]


def plain(events: Iterable[PlainEvent]) -> dict[int, bytes]:
    """Return the plain text by direction; its positions must be without gaps."""
    found = {SEND: b"", RECV: b""}
    for event in events:
        if isinstance(event, Chunk):
            assert event.position == len(found[event.direction])
            assert event.size == event.captured == len(event.payload)
            found[event.direction] += event.payload
    return found


def handshakes(events: Iterable[PlainEvent]) -> list[Handshake]:
    return [event for event in events if isinstance(event, Handshake)]


def decrypted(said: Talk, viewer: int = CLIENT) -> tuple[list[PlainEvent], Decryption]:
    decryption = Decryption()
    for line in said.keys:
        decryption.learn(line)
    wire = Wire()
    events: list[PlainEvent] = []
    for chunk in chunks_of(said, wire, viewer):
        events += decryption.feed(chunk)
    return events, decryption


SUITES_12 = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ec"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ec"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ec"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "rsa"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "rsa"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "rsa"),
    ("AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256", "rsa"),
    ("AES256-GCM-SHA384", "TLS_RSA_WITH_AES_256_GCM_SHA384", "rsa"),
]


@pytest.mark.parametrize("viewer", [CLIENT, SERVER])
@pytest.mark.parametrize(("ciphers", "name", "kind"), SUITES_12)
def test_each_cipher_of_tls_1_2(ciphers: str, name: str, kind: str, viewer: int) -> None:
    said = talk(*contexts(TLS12, ciphers, kind, ("h2", "http/1.1")), LARGE)
    events, decryption = decrypted(said, viewer)
    (request, response) = LARGE[0]
    assert plain(events) == {viewer: request, 1 - viewer: response}
    assert handshakes(events) == [Handshake(SOCKET, "1.2", name, "h2", "example.org")]
    assert decryption.causes == {}


LINE = b"GET /\n"
BACK = b"/ TEG\n"
ANSWERED = Step(LINE, BACK)
UPDATES = [Step(letter, b"KEYUPDATE") for letter in (b"K\n", b"k\n")]


@pytest.mark.parametrize(
    "name", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
)
def test_each_cipher_of_tls_1_3(name: str) -> None:
    with openssl("-rev -alpn h2") as programs:
        said = programs.talk(f"-ciphersuites {name} -servername a.example -alpn h2", [ANSWERED])
    for viewer in (CLIENT, SERVER):
        events, decryption = decrypted(said, viewer)
        assert plain(events) == {viewer: LINE, 1 - viewer: BACK}
        assert handshakes(events) == [Handshake(SOCKET, "1.3", name, "h2", "a.example")]
        assert decryption.causes == {}


def test_updated_keys() -> None:
    """Of both directions, then of the client's only."""
    both, own = UPDATES
    with openssl("-rev") as programs:
        said = programs.talk("", [ANSWERED, both, ANSWERED, own, ANSWERED])
    events, decryption = decrypted(said)
    assert plain(events) == {SEND: LINE * 3, RECV: BACK * 3}
    assert decryption.causes == {}


def test_renegotiated_keys_are_not_followed() -> None:
    """The line R of openssl's client begins another handshake, inside the first one's records."""
    again = Step(b"R\n", b"RENEGOTIATING")
    with openssl("-rev -tls1_2 -client_renegotiation") as programs:
        said = programs.talk("-tls1_2", [ANSWERED, again, ANSWERED])
    events, decryption = decrypted(said)
    assert plain(events) == {SEND: LINE, RECV: BACK}
    assert decryption.causes == {causes.RENEGOTIATED: 1}


@pytest.mark.parametrize("is_retried", [False, True])
def test_a_hello_that_is_retried(is_retried: bool) -> None:
    """The server wants another group: two hellos of the client have the same random bytes."""
    with openssl("-rev -groups P-384") as programs:
        groups = "P-256:P-384" if is_retried else "P-384"
        said = programs.talk(f"-groups {groups}", [ANSWERED])
    assert (said.bytes_of(SERVER).find(RETRY) > 0) is is_retried
    assert plain(decrypted(said)[0]) == {SEND: LINE, RECV: BACK}


@pytest.mark.parametrize("has_key", [True, False])
@pytest.mark.parametrize("is_accepted", [True, False])
def test_early_data(tmp_path: Path, is_accepted: bool, has_key: bool) -> None:
    session, early = tmp_path / "session", tmp_path / "early"
    early.write_bytes(b"early\n")
    options, shown = f"-sess_in {session} -early_data {early}", [Step(LINE, LINE, SERVER)]
    with openssl("-early_data -no_anti_replay") as programs:
        programs.talk(
            f"-sess_out {session}",
            shown,
            lambda: session.exists() and session.read_bytes().endswith(b"PARAMETERS-----\n"),
        )
        if is_accepted:
            said = programs.talk(options, shown)
    if not is_accepted:
        with openssl("") as programs:
            said = programs.talk(options, shown)
    assert any(b"EARLY" in line for line in said.keys)
    if not has_key:
        said = Talk(said.moved, [line for line in said.keys if b"EARLY" not in line])
    events, decryption = decrypted(said)
    expected = b"early\n" + LINE if is_accepted and has_key else LINE
    assert plain(events)[SEND] == expected
    decryption.finish()
    missing = is_accepted and not has_key
    # Without it, the position is not that of the stream.
    sent = [event for event in events if isinstance(event, Chunk) and event.direction == SEND]
    assert {event.flags for event in sent} == {FLAG_JOINED if missing else 0}
    assert [event.size for event in events if isinstance(event, Gap)] == [None] * missing
    assert decryption.causes == ({causes.EARLY_DATA: 1} if missing else {})


def test_tls_1_3() -> None:
    for viewer in (CLIENT, SERVER):
        events, decryption = decrypted(talk(*contexts(TLS13, protocols=("h2",)), LARGE), viewer)
        request, response = LARGE[0]
        assert plain(events) == {viewer: request, 1 - viewer: response}
        assert handshakes(events) == [
            Handshake(SOCKET, "1.3", "TLS_AES_256_GCM_SHA384", "h2", "example.org")
        ]
        assert decryption.causes == {}


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_resumed_session(version: ssl.TLSVersion) -> None:
    client, server = contexts(version)
    sessions: list[ssl.SSLSession | None] = []
    talk(client, server, after=lambda end: sessions.append(end.session))
    reused: list[bool | None] = []
    said = talk(
        client, server, session=sessions[0], after=lambda end: reused.append(end.session_reused)
    )
    assert reused == [True]
    assert plain(decrypted(said)[0]) == {SEND: REQUEST, RECV: RESPONSE}


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_cut_at_every_byte(version: ssl.TLSVersion) -> None:
    said = talk(*contexts(version))
    flows = {sender: said.bytes_of(sender) for sender in (CLIENT, SERVER)}
    for cut in range(1, max(map(len, flows.values())), 7):
        decryption = Decryption()
        for line in said.keys:
            decryption.learn(line)
        wire = Wire()
        events: list[PlainEvent] = []
        for sender, move in ((CLIENT, wire.send), (SERVER, wire.recv)):
            for part in (flows[sender][:cut], flows[sender][cut:]):
                if part:
                    events += decryption.feed(move(part))
        assert plain(events) == {SEND: REQUEST, RECV: RESPONSE}
    decryption = Decryption()
    wire = Wire()
    events = []
    for line in said.keys:
        decryption.learn(line)
    for sender, data in said.moved:
        for number in range(len(data)):
            byte = data[number : number + 1]
            events += decryption.feed(wire.send(byte) if sender == CLIENT else wire.recv(byte))
    assert plain(events) == {SEND: REQUEST, RECV: RESPONSE}


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_keys_that_arrive_late(version: ssl.TLSVersion) -> None:
    """Each line may arrive at any time after the bytes that it protects."""
    said = talk(*contexts(version))
    for seed in range(40):
        order = random.Random(seed)
        wire = Wire()
        steps: list[Chunk | Finish | bytes] = [
            *chunks_of(said, wire),
            Finish(SOCKET, SEND, wire.time),
            Finish(SOCKET, RECV, wire.time),
        ]
        for line in said.keys:
            steps.insert(order.randrange(len(steps) + 1), line)
        decryption = Decryption()
        events: list[PlainEvent] = []
        for step in steps:
            if isinstance(step, bytes):
                for socket in decryption.learn(step):
                    events += decryption.resume(socket)
            else:
                events += decryption.feed(step)
        assert plain(events) == {SEND: REQUEST, RECV: RESPONSE}, seed
        assert isinstance(events[-1], Finish)
        assert len(decryption) == 0
        assert decryption.causes == {}


def test_the_used_lines_are_reported_once() -> None:
    said, other = talk(*contexts(TLS13)), talk(*contexts(TLS13))
    decryption = Decryption()
    for line in (*said.keys, *other.keys):
        decryption.learn(line)
    for chunk in chunks_of(said, Wire()):
        decryption.feed(chunk)
    used = decryption.used().splitlines()
    assert len(used) == 4
    assert set(used) < set(said.keys)
    for chunk in chunks_of(said, Wire(socket=9), SERVER):
        decryption.feed(chunk)
    assert decryption.used() == b""


def test_without_a_key_a_connection_is_counted_and_dropped() -> None:
    said = talk(*contexts(TLS13))
    decryption, wire = Decryption(), Wire()
    for chunk in chunks_of(said, wire):
        assert decryption.feed(chunk) == []
    assert decryption.held(SOCKET) > 1000
    decryption.finish()
    assert decryption.causes == {causes.NO_KEY: 1}
    assert len(decryption) == decryption.held(SOCKET) == 0


def test_ciphertext_is_held_within_a_bound() -> None:
    said = talk(*contexts(TLS13))
    decryption, wire = Decryption(), Wire()
    for chunk in chunks_of(said, wire):
        decryption.feed(chunk)
    record = b"\x17\x03\x03\x40\x00" + bytes(0x4000)
    events: list[PlainEvent] = []
    for _ in range(causes.WAITING_MAX // len(record) + 2):
        events += decryption.feed(wire.send(record))
        assert decryption.held(SOCKET) < causes.WAITING_MAX * 2
    assert set(events) == {Undecryptable(SOCKET)}
    assert decryption.causes == {causes.NO_KEY: 1}
    assert decryption.held(SOCKET) == 0


def test_closed_connections_without_keys_do_not_pile_up() -> None:
    said = talk(*contexts(TLS12))
    decryption = Decryption()
    for socket in range(1, 400):
        wire = Wire(socket)
        for chunk in chunks_of(said, wire):
            decryption.feed(chunk)
        for direction in (SEND, RECV):
            decryption.feed(Finish(socket, direction, wire.time))
    assert len(decryption) == 256
    assert decryption.causes == {causes.NO_KEY: 399 - 256}


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_lost_byte_ends_its_direction_only(version: ssl.TLSVersion) -> None:
    said = talk(*contexts(version), [(REQUEST, RESPONSE)] * 3)
    decryption, wire = Decryption(), Wire()
    for line in said.keys:
        decryption.learn(line)
    events: list[PlainEvent] = []
    chunks = chunks_of(said, wire)
    # The last two pieces of each direction close the connection, the two before are exchanges.
    requests = [n for n, (sender, _) in enumerate(said.moved) if sender == CLIENT]
    for number, chunk in enumerate(chunks):
        if number == requests[-3]:
            events += decryption.feed(Gap(SOCKET, SEND, chunk.time, len(chunk.payload), "lost"))
        else:
            events += decryption.feed(chunk)
    assert plain(events) == {SEND: REQUEST, RECV: RESPONSE * 3}
    gaps = [event for event in events if isinstance(event, Gap)]
    assert [(gap.direction, gap.size, gap.reason) for gap in gaps] == [(SEND, None, "lost")]
    decryption.finish()
    assert decryption.causes == {causes.LOST_BYTES: 1}


def test_a_loss_in_the_handshake() -> None:
    said = talk(*contexts(TLS13))
    decryption, wire = Decryption(), Wire()
    first, second, *_ = chunks_of(said, wire)
    decryption.feed(first)
    assert decryption.feed(Gap(SOCKET, RECV, second.time, 10, "lost")) == [Undecryptable(SOCKET)]
    assert decryption.causes == {causes.LOST_BYTES: 1}
    # It is not forwarded any longer, but the end may still come.
    assert decryption.feed(second) == (Undecryptable(SOCKET),)
    end = Finish(SOCKET, SEND, second.time)
    assert decryption.feed(end) == (end,)


def test_an_unsupported_cipher_is_named() -> None:
    said = talk(*contexts(TLS12, "ECDHE-ECDSA-AES128-SHA256"))
    events, decryption = decrypted(said)
    assert plain(events) == {SEND: b"", RECV: b""}
    assert decryption.causes == {"its cipher suite 0xc023 is not supported": 1}


def test_a_wrong_key() -> None:
    said = talk(*contexts(TLS13))
    wrong = [line[:-2] + (b"00" if line[-2:] != b"00" else b"11") for line in said.keys]
    _, decryption = decrypted(Talk(said.moved, wrong))
    assert decryption.causes == {causes.WRONG_KEY: 1}


def test_what_is_not_tls_passes_through() -> None:
    decryption, wire = Decryption(), Wire()
    for event in (
        wire.send(REQUEST),
        wire.recv(RESPONSE),
        Gap(SOCKET, SEND, 1, 4, "lost"),
        Finish(SOCKET, SEND, 1),
        Wire(5).send(b"\x16\x03\x01", flags=1),
    ):
        assert decryption.feed(event) == (event,)
    assert len(decryption) == 0


def test_a_second_client_hello_must_be_the_same_client() -> None:
    """A peer may send the hello of another connection."""
    said, other = talk(*contexts(TLS13)), talk(*contexts(TLS13))
    for sender in (CLIENT, SERVER):
        moved = [said.moved[0], (sender, other.moved[0][1])]
        events, decryption = decrypted(Talk(moved, said.keys))
        assert events == [Undecryptable(SOCKET)]
        assert decryption.causes == {causes.NO_RECORDS: 1}
        assert decryption.learn(b"\n".join([*said.keys, *other.keys])) == ()


def test_a_second_server_hello_is_refused() -> None:
    said = talk(*contexts(TLS12))
    moved = [said.moved[0], said.moved[1], said.moved[1]]
    events, decryption = decrypted(Talk(moved, said.keys))
    assert events == [Undecryptable(SOCKET)]
    assert decryption.causes == {causes.NO_RECORDS: 1}


@given(st.binary(max_size=200), st.integers(0, 255))
def test_any_handshake_is_parsed_or_refused(body: bytes, kind: int) -> None:
    for parse in (client_hello, server_hello, encrypted_extensions):
        with contextlib.suppress(HandshakeError):
            parse(body)
    message = bytes([kind]) + len(body).to_bytes(3, "big") + body
    whole = Reassembly()
    expected = whole.feed(message * 3)
    bytewise = Reassembly()
    found = [each for byte in message * 3 for each in bytewise.feed(bytes([byte]))]
    assert found == expected
    assert len(expected) in (0, 3)
    assert whole.held == bytewise.held == 0


def test_close_notify_ends_a_direction() -> None:
    events, _ = decrypted(talk(*contexts(TLS13)))
    ends = [event.direction for event in events if isinstance(event, Finish)]
    assert ends == [SEND, RECV]


def test_key_logs_are_parsed_strictly() -> None:
    decryption = Decryption()
    for line in (b"", b"#", b"A B C", b"CLIENT_RANDOM 00 00", b"\xff" * 100, b"x" * 9999):
        assert decryption.learn(line) == ()


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_damaged_bytes_never_raise(version: ssl.TLSVersion) -> None:
    """A peer may send anything. What is decrypted anyway is a prefix of what was sent."""
    said = talk(*contexts(version), [(REQUEST, RESPONSE)] * 2)
    for seed in range(300):
        order = random.Random(seed)
        decryption, wire = Decryption(), Wire()
        for line in said.keys:
            decryption.learn(line)
        events: list[PlainEvent] = []
        for sender, data in said.moved:
            damaged = bytearray(data)
            if order.random() < 0.3:
                # Another first byte would begin another protocol.
                damaged[order.randrange(1, len(damaged))] ^= 1 << order.randrange(8)
            if order.random() < 0.1:
                del damaged[order.randrange(1, len(damaged)) :]
            move = wire.send if sender == CLIENT else wire.recv
            events += decryption.feed(move(bytes(damaged)))
        found = plain(events)
        assert (REQUEST * 2).startswith(found[SEND])
        assert (RESPONSE * 2).startswith(found[RECV])
        decryption.finish()
        assert decryption.held(SOCKET) == 0
