# SPDX-License-Identifier: Apache-2.0
"""The native fast path writes the lines that Python writes, byte by byte.

Each input is replayed with it and without. Python is the reference. Lines of messages that are
still open at the end may come in another order of connections.

The inputs are the recordings, the cases of ``tests/cases``, exchanges on one connection, and
mutations of all these. Without the module all but one of these tests are skipped.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import re
import ssl
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmarks.replay import kept_alive
from profiler.exchanges.conditions import conditions
from profiler.exchanges.query import parse
from profiler.ingest import fastpath, peers, pipeline, wire
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.probe.recording import Recording
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from tests.fastpath.compare import Kept, replay, same_lines
from tests.replay.script import CASES, Script, read
from tests.replay.script import records as records_of
from tests.unit.talk_tls import CLIENT, SERVER, contexts, talk

RECORDED = Path(__file__).parents[1] / "replay" / "cases"
RECORDINGS = sorted(RECORDED.iterdir())
SCRIPTS = {path.parent.name: read(path) for path in sorted(CASES.glob("*/stream.txt"))}
SEEDS = range(40)

installed = pytest.mark.skipif(
    fastpath.module() is None, reason="the module http_profiler_fastpath is not installed"
)


@installed
def test_a_pipeline_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's side and the module refer to each other."""
    monkeypatch.delenv(fastpath.VARIABLE, raising=False)
    taken = Pipeline(Settings(), Kept(), Processes(None), "x86_64")
    assert taken.has_fast_path
    side = weakref.ref(taken._fast)
    del taken
    gc.collect()
    assert side() is None


@pytest.fixture
def same() -> Callable[..., int]:
    return same_lines


def recorded(case: Path) -> list[bytes]:
    return list(Recording(case / "capture").records())


def scripted(script: Script) -> list[bytes]:
    return records_of(script.steps, script.joined)


def kept(fresh: bool) -> list[bytes]:
    return kept_alive(recorded(RECORDED / "demo"), 6, fresh)


def apart() -> list[bytes]:
    """One end of a connection comes after two exchanges of the other: then that one has a peer."""
    records = kept(False)
    items = [wire.decode(record) for record in records]
    sockets = list(dict.fromkeys(item.socket for item in items if isinstance(item, wire.Chunk)))
    ends: list[list[bytes]] = [[], []]
    others = []
    for record, item in zip(records, items):
        if isinstance(item, (wire.Chunk, wire.End)):
            ends[sockets.index(item.socket)].append(record)
        else:
            others.append(record)
    first, second = ends
    return [*others, *first[:4], *second[:4], *first[4:], *second[4:]]


def over_unix() -> list[bytes]:
    """Exchanges over a Unix socket, among those of a TCP connection with the same process."""
    records = kept(False)
    items = [wire.decode(record) for record in records]
    client, server = dict.fromkeys(item.socket for item in items if isinstance(item, wire.Chunk))
    out = [
        wire.encode(wire.Names(client + 1000, server + 1000, b"", b"/run/shop.sock")),
        wire.encode(wire.Names(server + 1000, client + 1000, b"/run/shop.sock", b"")),
    ]
    for record, item in zip(records, items):
        out.append(record)
        if isinstance(item, wire.Chunk):
            more = {"socket": item.socket + 1000, "family": wire.AF_UNIX, "sequence": 0}
            out.append(wire.encode(item._replace(**more)))
    return out


HELLOS = talk(*contexts(ssl.TLSVersion.TLSv1_3, protocols=("h2", "http/1.1")))


def hellos(socket: int) -> list[bytes]:
    """The handshake of a connection, as its server moves it."""
    return [
        wire.encode(wire.Hello(wire.RECV, socket, 0, HELLOS.bytes_of(CLIENT))),
        wire.encode(wire.Hello(wire.SEND, socket, 0, HELLOS.bytes_of(SERVER))),
    ]


def over_tls() -> list[bytes]:
    """Exchanges in a TLS session; which socket carries it is known at one end only."""
    out: list[bytes] = []
    seen: set[int] = set()
    for record in kept(False):
        item = wire.decode(record)
        if isinstance(item, wire.Chunk):
            stream, is_known = item.socket | wire.TLS_STREAM, not seen or item.socket in seen
            if item.socket not in seen and is_known:
                out += hellos(item.socket)
                seen.add(item.socket)
            if item.position == 0:
                socket = item.socket if is_known else 0
                out.append(wire.encode(wire.Session(3, stream, socket)))
            item = item._replace(socket=stream, sequence=0)
            if not is_known:
                none = bytes(16)
                item = item._replace(
                    family=0, local=none, remote=none, local_port=0, remote_port=0, netns=0
                )
            record = wire.encode(item)
        out.append(record)
    return out


def in_two_namespaces() -> list[bytes]:
    """Two connections between equal addresses and ports."""
    records = kept(False)
    for record in list(records):
        item = wire.decode(record)
        if isinstance(item, wire.Chunk):
            more = {"socket": item.socket + 1000, "netns": 9, "sequence": item.sequence + 1000}
            records.append(wire.encode(item._replace(**more, pid=item.pid + 1)))
    return records


def exchanged(exchanges: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Requests with their responses, on one connection, at both ends."""
    records = kept(False)
    ends = [item for item in map(wire.decode, records) if isinstance(item, wire.Chunk)][:4]
    out = [record for record in records if not isinstance(wire.decode(record), wire.Chunk)]
    positions: dict[tuple[int, int], int] = {}
    for number, exchange in enumerate(exchanges):
        for turn, end in enumerate(ends):
            data = exchange[turn // 2]
            position = positions.get((end.socket, end.direction), 0)
            positions[end.socket, end.direction] = position + len(data)
            size = {"size": len(data), "captured": len(data), "payload": data}
            time = end.time + number * 10**7 + (turn // 2) * number * 10**6
            out.append(wire.encode(end._replace(position=position, time=time, **size)))
    return out


def varied() -> Iterator[tuple[bytes, bytes]]:
    """Exchanges that differ in what filters look at."""
    heads = itertools.cycle([b"X-Two: 1\r\nx-two: b\r\n", b"", b"Accept: a/b\r\n"])
    hosts = itertools.cycle([b"A.example", b"b.example:8080", b"[::1]:80", b"not valid"])
    targets = itertools.cycle([b"/a", b"/a/b?c=d", b"/", b"http://c/d", b"/a#e", b"*", b"/abab"])
    methods = itertools.cycle([b"GET", b"PUT", b"post", b"HEAD", b"GET"])
    answers = itertools.cycle([b"200 OK", b"404 No", b"503 No", b"204 No"])
    for number in range(40):
        request = b"%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (
            *(next(methods), next(targets), next(hosts), next(heads)),
        )
        more = b"" if number % 3 else b"Grpc-Status: %d\r\n" % (number % 2)
        answer = b"HTTP/1.1 %s\r\n%sContent-Length: 0\r\n\r\n" % (next(answers), more)
        yield request, answer


TOKEN = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2UifQ.c2lnbmF0dXJlMTIzNDU2Nzg5MA"
CARD = b"4111 1111 1111 1111"
# A target, lines of a head, and a body, for requests and responses.
SECRETS = [
    (b"/a?token=x&b=c", b"Cookie: a=b; c=d\r\n", b""),
    (b"/a", b"Authorization: Bearer abc\r\nX-Api-Key: k\r\nx-api-key:\r\n", b"plain text"),
    (b"/reset-password/0123456789abcdef", b"Set-Cookie: a=b; Path=/; Other\r\n", b'{"a": "b"}'),
    (b"http://u:p@c/d", b"Set-Cookie: a=b\r\nset-cookie: c=d\r\n", b'{"password": "x", "a": 1}'),
    (b"/a/%s" % TOKEN, b"Referer: /a?password=b%20c\r\n", b"a=b&password=c"),
    (b"/", b"X-Note: %s\r\nX-Two: 1\r\nx-two: %s\r\n" % (CARD, TOKEN), CARD),
    (b"/a;key=b?next=/c?token=d", b"Origin: http://u:p@c\r\n", b"<a password='b'>c</a>"),
    (b"/a", b'X-Json: {"secret": "a\\u0062"}\r\nEmpty: \r\n', "é password=ü".encode()),
    (b"/a", b"Content-Type: application/json; charset=utf-8\r\n", b'[{"name": "pin", "value": 1}]'),
    (b"/a", b"Content-Type: application/x-www-form-urlencoded\r\n", b"a=1&pin=2&b=%7B%7D"),
    (b"/a", b"Content-Type: multipart/form-data; boundary=x\r\n", b"no part"),
    (b"/a", b"Content-Type: text/event-stream\r\n", b"data:a\n\ndata: b\n\n"),
    (b"/a", b"Content-Type: Application/gRPC-web-text\r\n", b"AAAA"),
    (b"/a", b"Sec-WebSocket-Protocol: chat, secret\r\nForwarded-Host: a@b\r\n", b"a" * 300),
    (
        b"/a",
        b"Keys: 12\r\nCode: 0123456789abcdef0123456789abcdef\r\n",
        b"-----BEGIN PRIVATE KEY-----",
    ),
]
REASONS = [b" OK", b"", b" ", b" token=x", b"  two  blanks", b" %s" % TOKEN]


def secret() -> Iterator[tuple[bytes, bytes]]:
    """Exchanges with secrets in all parts; some bodies in HTTP chunks."""
    reasons = itertools.cycle(REASONS)
    for number in range(2 * len(SECRETS)):
        target, lines, body = SECRETS[number % len(SECRETS)]
        request = b"POST %s HTTP/1.1\r\nHost: u:p@a\r\n%sContent-Length: %d\r\n\r\n%s"
        _, others, content = SECRETS[(number * 4 + 1) % len(SECRETS)]
        length = b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        if content and number % 3 == 0:
            chunk = b"%x\r\n%s\r\n" % (len(content), content)
            length = b"Transfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % chunk
        answer = b"HTTP/1.1 200%s\r\n%s%s" % (next(reasons), others, length)
        yield request % (target, lines, len(body), body), answer


INPUTS = {
    **{f"recording {case.name}": (recorded(case), Settings()) for case in RECORDINGS},
    **{name: (scripted(script), script.settings) for name, script in SCRIPTS.items()},
    "kept alive": (kept(False), Settings()),
    "fresh": (kept(True), Settings()),
    "apart": (apart(), Settings()),
    "over a Unix socket": (over_unix(), Settings()),
    "over TLS": (over_tls(), Settings()),
    "in two namespaces": (in_two_namespaces(), Settings()),
    "varied": (exchanged(varied()), Settings()),
    "secrets": (exchanged(secret()), Settings()),
}
inputs = pytest.mark.parametrize("name", INPUTS)


@installed
@inputs
def test_the_same_lines(name: str, same) -> None:
    records, settings = INPUTS[name]
    same(records, settings)
    same(records, settings, batch=1)


@installed
@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("recording demo", 20),
        ("kept alive", 24),
        ("fresh", 24),
        ("in two namespaces", 48),
        ("over TLS", 24),
    ],
)
def test_all_usual_messages_take_it(name: str, messages: int, same) -> None:
    assert same(*INPUTS[name]) == messages


@installed
def test_a_body_in_http_chunks_takes_it(same) -> None:
    records = kept_alive(recorded(RECORDED / "demo"), 1)
    for at, record in enumerate(records):
        item = wire.decode(record)
        if isinstance(item, wire.Chunk):
            text = re.sub(_LENGTH_AND_BODY, chunked, item.payload)
            records[at] = wire.encode(
                item._replace(payload=text, captured=len(text), size=len(text))
            )
    assert any(b"chunked" in record for record in records)
    assert same(records) == 4


# Where all connections together need too much, another one may be dropped: Python does not know
# when those on the fast path were used last.
@installed
@pytest.mark.parametrize("name", [name for name in INPUTS if name != "memory-limit"])
def test_the_same_lines_of_mutations(name: str, same) -> None:
    records, settings = INPUTS[name]
    for seed in SEEDS:
        chance = random.Random(f"{name} {seed}")
        same(mutated(records, chance), settings, chance.choice([1, 3, 1000]))


@installed
@pytest.mark.parametrize("kept", [1, 2, 3, 5])
@inputs
def test_the_same_lines_when_few_peers_are_kept(
    name: str, kept: int, same, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "KEPT", kept)
    records, settings = INPUTS[name]
    same(records, settings)
    if name != "memory-limit":
        chance = random.Random(f"{name} {kept}")
        for _ in range(5):
            same(mutated(records, chance), settings, chance.choice([1, 3, 1000]))


@installed
@pytest.mark.parametrize("kept", [1, 2])
def test_the_same_lines_when_few_sessions_are_kept(
    kept: int, same, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_NAMES_KEPT", kept)
    for seed in SEEDS:
        chance = random.Random(f"{kept} {seed}")
        records = over_tls()
        for _ in range(5):
            chance.choice([session, session, to_tls, twice])(records, chance)
        same(records, batch=chance.choice([1, 3, 1000]))


@installed
def test_a_session_shows_in_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fastpath.VARIABLE, raising=False)
    lines = [json.loads(line) for line in replay(*INPUTS["over TLS"]).lines.splitlines()]
    known = {"library": "go", "version": "1.3", "sni": "example.org", "alpn": "http/1.1"}
    found = {"socket" in line: line["tls"] for line in lines}
    assert found.pop(True).items() >= known.items()
    assert found == {False: {"library": "go"}}
    assert all("sequence" in line for line in lines)


@installed
@pytest.mark.parametrize("name", ["apart", "in two namespaces", "over a Unix socket"])
def test_both_ends_name_their_peer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fastpath.VARIABLE, raising=False)
    lines = replay(*INPUTS[name]).lines.splitlines()
    without = sum(b'"peer"' not in line for line in lines)
    # Those of a client until the first of its server.
    assert (len(lines), without) == {
        "apart": (24, 4), "in two namespaces": (48, 2), "over a Unix socket": (48, 2)
    }[name]  # fmt: skip


@installed
@pytest.mark.parametrize("limit", [2000, 5000, 10_000, 50_000])
def test_the_same_lines_within_little_memory(limit: int, same) -> None:
    records, _ = INPUTS["recording threads"]
    same(records, Settings(max_connection_memory=limit))


@installed
def test_memory_of_connections_elsewhere_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fastpath.VARIABLE, raising=False)
    records, _ = INPUTS["recording threads"]
    for limit in (3000, 10_000, 100_000):
        taken = Pipeline(Settings(max_memory=limit), Kept(), Processes(None), "x86_64")
        for record in records:
            taken.feed_all([record])
            assert taken.held <= limit


@installed
def test_what_needs_each_message_goes_through_python(same) -> None:
    assert same(INPUTS["kept alive"][0], Settings(count=5)) == 0


# Filters, and how many of the 160 messages of "varied" are then written by the module.
FILTERS = {
    "method": (conditions(method=("GET",)), 64),
    "path": (conditions(path=("/a*",)), 92),
    "host": (conditions(host=("*.example",)), 80),
    "host with its port": (conditions(host=("b.example:8080", "A.example")), 40),
    "status": (conditions(status=((200, 299), (503, 503))), 120),
    "header": (conditions(header=(("x-two", "b"), ("grpc-status", "*"))), 56),
    "direction": (conditions(direction=("send",)), 80),
    "role": (conditions(role=("server",)), 80),
    "process": (conditions(cmdline=("*gunicorn*",), comm=("gunicorn",)), 80),
    "latency": (conditions(min_latency=(20.0,)), 80),
    "several": (conditions(method=("GET", "PUT"), status=((404, 404),), role=("client",)), 12),
    **{
        text: (conditions((parse(text),)), messages)
        for text, messages in (
            ("not status=200", 120),
            ("status=none or path=/a", 48),
            ("method!=PUT and not (header.accept=none or latency<30ms)", 8),
            ("(url~'*=d' and interim=none) or duration>=35ms", 40),
            ("status>=500 or (status<=204 and role=client) or method~P*", 80),
            ("direction=recv and header.x-two=1", 28),
            ("header.host=none or path~*b or host!=a.example", 40),
            ("status>200 and (cmdline=none or comm!=x)", 120),
        )
    },
}
filters = pytest.mark.parametrize("name", FILTERS)


@installed
@filters
def test_the_same_lines_through_a_filter(name: str, same) -> None:
    where, _ = FILTERS[name]
    for records, settings in INPUTS.values():
        same(records, replace(settings, where=where))
    same(INPUTS["varied"][0], Settings(where=where), batch=1)


@installed
@filters
def test_the_same_lines_of_mutations_through_a_filter(name: str, same) -> None:
    where, _ = FILTERS[name]
    inputs = {name: each for name, each in INPUTS.items() if name != "memory-limit"}
    chance = random.Random(name)
    for records, settings in [*inputs.values(), *[INPUTS["varied"]] * 40]:
        # The last request waits until the connection is taken back.
        cut = chance.choice([None, None, -1, -3])
        batch = chance.choice([1, 3, 1000])
        same(mutated(records[:cut], chance), replace(settings, where=where), batch)


@installed
@filters
def test_filtered_messages_take_it(name: str, same) -> None:
    where, messages = FILTERS[name]
    assert same(INPUTS["varied"][0], Settings(where=where)) == messages


@installed
@inputs
def test_the_same_lines_without_secrets(name: str, same) -> None:
    records, settings = INPUTS[name]
    same(records, replace(settings, redact=True))
    if name != "memory-limit":
        chance = random.Random(f"{name} redacted")
        for _ in range(200 if name == "secrets" else 5):
            batch = chance.choice([1, 3, 1000])
            same(mutated(records, chance), replace(settings, redact=True), batch)


# A list would take a line for each word.
_WORDS = """
a b token key pin name value content reset-password session s _ id code Bearer basic
abcdefgh1 4111 1111 0123456789 ghp_ eyJ AKIA SG. sk- -----BEGIN 0123456789abcdef x.y é Keys
T05 Z
"""
_PIECES = _WORDS.split()
_SIGNS = [*"=:;,/?&#@-_+. {}[]<>%'", "//", ": ", "%20", "/bot", "/services/", '"', "\\n", "\n"]


def strange(chance: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """Exchanges with texts of what redaction looks at, most of them without a secret."""

    def text(signs: Sequence[str], without: str = "") -> str:
        pieces = [chance.choice([chance.choice(_PIECES), chance.choice(signs)]) for _ in range(6)]
        return "".join(one for one in pieces if not set(one) & set(without))

    for _ in range(20):
        target = "/" + text(_SIGNS, 'é "\n')
        lines = "".join(
            f"{name}: {text(_SIGNS, 'é' + chr(10))}\r\n"
            for name in chance.sample(["A", "ETag", "Referer", "X-Key", "Code", "Origin"], 2)
        )
        members = [
            f'"{text("_.- ", chr(34))}": "{text(_SIGNS, chr(34) + chr(10))}"' for _ in range(2)
        ]
        bodies = [f"{{{', '.join(members)}}}", text(_SIGNS), f"[{text('-.+ ,')}]"]
        kind = chance.choice(["application/json", "text/plain", "text/html", "text/event-stream"])
        body = chance.choice(bodies).encode()
        head = f"{lines}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        request = f"POST {target} HTTP/1.1\r\n".encode()
        yield request + head + body, b"HTTP/1.1 200 OK\r\n" + head + body


@installed
def test_the_same_lines_of_strange_texts_without_secrets(same) -> None:
    for seed in range(150):
        same(exchanged(strange(random.Random(seed))), Settings(redact=True))


@installed
@filters
def test_the_same_lines_without_secrets_through_a_filter(name: str, same) -> None:
    where, _ = FILTERS[name]
    chance = random.Random(name)
    for records in [INPUTS["varied"][0], INPUTS["secrets"][0]] * 10:
        cut = chance.choice([None, -1, -3])
        settings = Settings(where=where, redact=True)
        same(mutated(records[:cut], chance), settings, chance.choice([1, 3, 1000]))


@installed
@pytest.mark.parametrize(
    ("name", "messages"),
    [("recording demo", 20), ("kept alive", 24), ("fresh", 24), ("over TLS", 24), ("secrets", 94)],
)
def test_redacted_messages_take_it(name: str, messages: int, same) -> None:
    assert same(INPUTS[name][0], Settings(redact=True)) == messages


@installed
@pytest.mark.parametrize("text", ["bytes>5", "path~'/[ab]'", "failed", "service=x or tls"])
def test_other_conditions_go_through_python(text: str, same) -> None:
    where = conditions((parse(text),))
    assert same(INPUTS["varied"][0], Settings(where=where)) == 0


@installed
def test_a_socket_that_a_filter_remembers_goes_through_python(same) -> None:
    """The request of an earlier connection is still kept under the number of the new one."""
    records, settings = INPUTS["varied"]
    first = [record for record in records if record[0] != wire.CHUNK]
    items = [item for item in map(wire.decode, records) if isinstance(item, wire.Chunk)]
    asked = wire.encode(
        items[0]._replace(payload=b"GET /a HTTP/1.1\r\n\r\nx", size=20, captured=20)
    )
    for text in ("path=/a", "status=200", "path=/a and status=404"):
        where = conditions((parse(text),))
        lost = wire.encode(items[0]._replace(flags=wire.FLAG_AFTER_LOSS, position=10**6))
        ended = [wire.encode(wire.End(side, items[0].time, items[0].socket, 0)) for side in (0, 1)]
        for between in (ended, [lost, *ended]):
            same([*first, asked, *between, *records], replace(settings, where=where))


@installed
def test_another_clock_and_process_show_at_once(same) -> None:
    records, settings = INPUTS["kept alive"]
    (process,) = [r for r in records if r[0] == wire.PROCESS][:1]
    other = wire.decode(process)
    assert isinstance(other, wire.Process)
    changes = [
        wire.encode(wire.Clock(0, 10**18)),
        *(
            wire.encode(item._replace(cmdline=b"another\0", cgroup=99))
            for item in map(wire.decode, records)
            if isinstance(item, wire.Process)
        ),
        wire.encode(wire.Cgroup(99, b"/another")),
        wire.encode(wire.Workload(99, b'{"service": "another"}')),
    ]
    for change in changes:
        assert same([*records[:-8], change, *records[-8:]], settings) == 24


def test_a_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fastpath.VARIABLE, "0")
    assert fastpath.module() is None


# ---- how captures are mutated


def mutated(records: list[bytes], chance: random.Random) -> list[bytes]:
    records = list(records)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        if records:
            chance.choice(MUTATIONS)(records, chance)
    return records


def delete(records: list[bytes], chance: random.Random) -> None:
    del records[chance.randrange(len(records))]


def swap(records: list[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(records))
    other = min(len(records) - 1, at + chance.randint(1, 3))
    records[at], records[other] = records[other], records[at]


def repeat(records: list[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(records))
    records.insert(at + chance.randint(0, 2), records[at])


def end(records: list[bytes], chance: random.Random) -> None:
    item = wire.decode(chance.choice(records))
    if isinstance(item, wire.Chunk):
        position = chance.choice([0, item.position, item.position + item.size])
        flags = chance.choice([0, wire.FLAG_RESET, wire.FLAG_EXIT])
        ended = wire.End(chance.randint(0, 1), item.time, item.socket, position, flags)
        records.insert(chance.randrange(len(records)), wire.encode(ended))


def split(records: list[bytes], chance: random.Random) -> None:
    at, item = chunk_of(records, chance)
    if item is None:
        return
    heads = [match.end() for match in re.finditer(rb"\r\n\r\n", item.payload)]
    places = sorted({chance.choice([*heads, chance.randrange(item.captured)]) for _ in range(2)})
    edges = [0, *(place for place in places if 0 < place < item.captured), item.captured]
    records[at : at + 1] = [
        wire.encode(
            item._replace(
                payload=item.payload[start:stop],
                position=item.position + start,
                captured=stop - start,
                size=stop - start + (item.size - item.captured if stop == item.captured else 0),
                time=min(item.time + start, 2**64 - 1),
            )
        )
        for start, stop in zip(edges, edges[1:])
    ]


def join(records: list[bytes], chance: random.Random) -> None:
    """Make one chunk of two, as if two messages came in one call."""
    at, item = chunk_of(records, chance)
    for other_at in range(at + 1, len(records)):
        other = wire.decode(records[other_at])
        if item is not None and isinstance(other, wire.Chunk) and way(other) == way(item):
            payload = item.payload + other.payload
            size = item.size + other.size
            joined = item._replace(payload=payload, captured=len(payload), size=size)
            records[at] = wire.encode(joined)
            del records[other_at]
            return


def change(records: list[bytes], chance: random.Random) -> None:
    """Change the fields of a record that are not its payload."""
    at, item = chunk_of(records, chance)
    if item is None:
        return
    changes = [
        {"flags": 1 << chance.randrange(8)},
        {"time": max(item.time + chance.choice([-(10**9), -1, 1, 10**9]), 0)},
        {"time": chance.choice([0, 2**63, 2**64 - 1])},
        {"position": max(item.position + chance.choice([-5, -1, 1, 100, 2**40]), 0)},
        {"size": item.size + chance.choice([1, 1000])},
        {"sequence": chance.choice([0, 1, 2**32 - 1])},
        {"syscall": chance.choice([-1, 0, 1, 44, 10_000])},
        {"tid": item.tid + 1},
        {"pid": item.pid + 1},
        {"comm": chance.choice([b'\xff\x1b"\\'.ljust(16, b"\0"), b"x" * 16])},
        {"family": chance.choice([0, wire.AF_UNIX, wire.AF_INET6, 99])},
        {"socket": chance.choice([0, 1, wire.TLS_STREAM | 1, 2**63 - 1])},
        {"remote_port": 0, "netns": item.netns + 1},
        {"local": chance.choice([item.remote, bytes(16), MAPPED]), "remote": item.local},
        {"family": wire.AF_INET6, "local": MAPPED, "remote": chance.randbytes(16)},
        {"family": wire.AF_INET6, "local": sparse(chance), "remote": sparse(chance)},
    ]
    records[at] = wire.encode(item._replace(**chance.choice(changes)))


MAPPED = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"


def sparse(chance: random.Random) -> bytes:
    """An IPv6 address with zeros to abbreviate."""
    return bytes(chance.choice([0, 0, 1, 255]) for _ in range(16))


def chunked(head: re.Match[bytes]) -> bytes:
    """The rest of a message whose body is in two HTTP chunks, instead of a Content-Length."""
    half = len(head[2]) // 2
    pieces = [piece for piece in (head[2][:half], head[2][half:]) if piece]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: chunked" + head[1] + chunks + b"0\r\n\r\n"


_LENGTH_AND_BODY = rb"(?is)content-length: *\d+(.*?\r\n\r\n)(.+)\Z"

_EDITS = [
    (_LENGTH_AND_BODY, chunked),
    (_LENGTH_AND_BODY, lambda head: chunked(head)[:-2] + b"Trailer: 1\r\n\r\n"),
    (_LENGTH_AND_BODY, lambda head: chunked(head).replace(b"\r\n0\r\n", b"\r\n0;a=b\r\n")),
    (_LENGTH_AND_BODY, lambda head: chunked(head) + b"x"),
    (_LENGTH_AND_BODY, lambda head: chunked(head).replace(b"chunked", b"Chunked")),
    (rb"\r\n(?=[^\r\n])", b'\r\nX-Two: 1\r\nx-two: "2"\r\n'),
    (rb"\r\n(?=[^\r\n])", b"\r\nHost: other\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nExpect: 100-continue\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nContent-Length: 3\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nTransfer-Encoding: chunked\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nContent-Encoding: gzip\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nContent-Type: text/plain; charset=latin-1\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nContent-Type: text/plain; charset=UTF-8\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\n folded\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nNo field\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nA : b\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nA:\xe9\xff\r\n"),
    (rb"\r\n(?=[^\r\n])", "\r\nA: é\u0085\r\n".encode()),
    (rb"\r\n(?=[^\r\n])", b"\r\nA: \x7f\x01\r\n"),
    (rb"\r\n(?=[^\r\n])", b"\r\nA:\t b \t\r\n"),
    (rb"\r\n", b"\n"),
    (rb"\r\n", b"\r\r\n"),
    (rb"\r\n\r\n", b"\r\n"),
    (rb"\A", b"\r\n"),
    (rb"\A[A-Z]+ ", b"HEAD "),
    (rb"\A[A-Z]+ ", b"CONNECT "),
    (rb"\A[A-Z]+ ", b"Other~1 "),
    (rb"\A[A-Z]+ ", b"POST  "),
    (rb"\A([A-Z]+ \S+) HTTP/1.1", rb"\1?" + b"x" * 2000 + b" HTTP/1.1"),
    (rb"HTTP/1.1", b"HTTP/1.0"),
    (rb"HTTP/1.1", b"HTTP/2.0"),
    (rb"\AHTTP/1.[01] \d+", b"HTTP/1.1 100"),
    (rb"\AHTTP/1.[01] \d+", b"HTTP/1.1 101"),
    (rb"\AHTTP/1.[01] \d+", b"HTTP/1.1 204"),
    (rb"\AHTTP/1.[01] \d+", b"HTTP/1.1 304"),
    (rb"\AHTTP/1.[01] \d+", b"HTTP/1.1 000"),
    (rb"\AHTTP/1.[01] (\d+) [^\r]*", rb"HTTP/1.1 \1"),
    (rb"\AHTTP/1.[01] (\d+) [^\r]*", b'HTTP/1.1 \\1   "two  words" '),
    (rb"(?i)content-length: *\d+", b"Content-Length: 0"),
    (rb"(?i)content-length: *\d+", b"Content-Length: 00002"),
    (rb"(?i)content-length: *\d+", b"Content-Length: 2, 2"),
    (rb"(?i)content-length: *\d+", b"Content-Length: -1"),
    (rb"(?i)content-length: *\d+", b"Content-Length: 99999999"),
    (rb"(?i)content-length", b"X-Length"),
    (rb"\Z", b"GET / HTTP/1.1\r\n\r\n"),
    (rb"\Z", b"x"),
    (rb".\Z", b""),
    (rb"(?s)..\Z", b"\xff\xfe"),
    (rb"(?s)..\Z", b"\xc2\x9b"),
    (rb"(?s)..\Z", b'"\x7f'),
    (rb"(?s)..\Z", b"\xc3"),
]


def edit(records: list[bytes], chance: random.Random) -> None:
    """Change a payload; later positions of that direction follow, mostly."""
    at, item = chunk_of(records, chance)
    if item is None:
        return
    pattern, text = chance.choice(_EDITS)
    payload = re.sub(pattern, text, item.payload, count=1)
    if not payload:
        return
    if pattern == rb"(?s)..\Z" or chance.random() < 0.1:
        records[at] = wire.encode(
            item._replace(payload=payload, captured=len(payload), size=len(payload))
        )
        return
    more = len(payload) - item.captured
    records[at] = wire.encode(
        item._replace(
            payload=payload, captured=len(payload), size=max(item.size + more, len(payload))
        )
    )
    for index in range(at + 1, len(records)):
        later = wire.decode(records[index])
        if isinstance(later, (wire.Chunk, wire.End)) and way(later) == way(item):
            records[index] = wire.encode(later._replace(position=max(later.position + more, 0)))


def later(records: list[bytes], chance: random.Random) -> None:
    """Move what one socket moved to the end: the other end of a connection comes late."""
    _, item = chunk_of(records, chance)
    if item is not None:
        records.sort(key=lambda record: moves(record, item.socket))


def twice(records: list[bytes], chance: random.Random) -> None:
    """Repeat all later, on other sockets with equal addresses."""
    more = chance.choice([0, 1, 1000])
    for record in list(records):
        item = wire.decode(record)
        if isinstance(item, wire.Chunk):
            sequence = item.sequence and (item.sequence + more) % 2**32
            other = item._replace(sequence=sequence, netns=item.netns + 1, pid=item.pid + 1)
            records.append(wire.encode(other._replace(socket=item.socket ^ 1 << 40)))
        elif isinstance(item, wire.End):
            records.append(wire.encode(item._replace(socket=item.socket ^ 1 << 40)))


def to_unix(records: list[bytes], chance: random.Random) -> None:
    """Make a socket a Unix socket, mostly with the inode of its peer."""
    _, item = chunk_of(records, chance)
    if item is None:
        return
    socket = item.socket
    for at, record in enumerate(records):
        moved = wire.decode(record)
        if isinstance(moved, wire.Chunk) and moved.socket == socket:
            records[at] = wire.encode(moved._replace(family=wire.AF_UNIX, sequence=0))
    _, other = chunk_of(records, chance)
    if other is not None:
        records.insert(0, wire.encode(wire.Names(socket, other.socket, b"", b"/a")))


def session(records: list[bytes], chance: random.Random) -> None:
    """Describe a TLS session, or the handshake on a socket."""
    _, item = chunk_of(records, chance)
    if item is not None:
        inode = item.socket & ~wire.TLS_STREAM
        socket = chance.choice([0, inode, inode, inode + 1])
        stream = item.socket | wire.TLS_STREAM
        more = [wire.encode(wire.Session(chance.randint(1, 3), stream, socket))]
        at = chance.randrange(len(records))
        records[at:at] = chance.choice([more, more, hellos(socket), hellos(socket)[:1]])


def to_tls(records: list[bytes], chance: random.Random) -> None:
    """Make what a socket moves the plain text of a TLS session, mostly of a known socket."""
    _, item = chunk_of(records, chance)
    if item is None:
        return
    socket, sequence = item.socket, chance.choice([0, 0, item.sequence])
    family = chance.choice([0, item.family, item.family])
    for at, record in enumerate(records):
        moved = wire.decode(record)
        if isinstance(moved, (wire.Chunk, wire.End)) and moved.socket == socket:
            moved = moved._replace(socket=socket | wire.TLS_STREAM)
            if isinstance(moved, wire.Chunk):
                moved = moved._replace(sequence=sequence, family=family)
            records[at] = wire.encode(moved)
    session(records, chance)


def moves(record: bytes, socket: int) -> bool:
    item = wire.decode(record)
    return isinstance(item, (wire.Chunk, wire.End)) and item.socket == socket


def chunk_of(
    records: list[bytes], chance: random.Random
) -> tuple[int, wire.Chunk] | tuple[int, None]:
    chunks = [at for at, record in enumerate(records) if record[0] == wire.CHUNK]
    if not chunks:
        return 0, None
    at = chance.choice(chunks)
    item = wire.decode(records[at])
    assert isinstance(item, wire.Chunk)
    return at, item if item.payload else None


def way(item: wire.Chunk | wire.End) -> tuple[int, int]:
    return item.socket, item.direction


MUTATIONS = [
    delete, swap, repeat, end, split, split, join, change, change, edit, edit, edit,
    later, twice, to_unix, to_tls, session,
]  # fmt: skip


class Exported:
    """Takes what an exporter takes."""

    def __init__(self) -> None:
        self.records: list[object] = []
        self.fast = 0

    def write(self, record: object) -> None:
        self.records.append(orjson.loads(orjson.dumps(record)))

    def add(self, lines: bytes) -> None:
        found = [orjson.loads(line) for line in lines.splitlines()]
        self.fast += len(found)
        self.records += found


@installed
def test_an_exporter_gets_every_record() -> None:
    """It does not turn the fast path off, and gets what the sink gets, in its order."""
    recording = list(Recording(RECORDED / "demo" / "capture").records())
    sink, exported = Kept(), Exported()
    pipeline = Pipeline(Settings(), sink, Processes(None), "x86_64", exporter=exported)
    pipeline.feed_all(kept_alive(recording, 50))
    pipeline.finish()
    assert exported.records == [orjson.loads(line) for line in bytes(sink.written).splitlines()]
    assert len(exported.records) == 200
    assert exported.fast == pipeline.account.fast > 100
