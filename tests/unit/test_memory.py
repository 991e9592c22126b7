# SPDX-License-Identifier: Apache-2.0
"""Memory limits: counted bytes match real ones, and the longest idle connection is dropped."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.ingest import peers, record, wire
from profiler.ingest.http.connection import INFLIGHT_MAX
from profiler.ingest.http.fields import parse_fields
from profiler.ingest.memory import Memory
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.wire import RECV, SEND, Chunk, End
from profiler.schema import Record
from tests import floods
from tests.floods import (
    ASKED,
    CLIENT,
    EMOJI,
    END_HEADERS,
    END_STREAM,
    FLOODS,
    PREFACE,
    SETTINGS,
    Talk,
    headers,
    literal,
)
from tests.replay.script import CASES, read, records
from tests.unit.test_http1 import BYTES
from tests.unit.wires import Wire

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def stream(number: int, flags: int = 5) -> bytes:
    """A request on an HTTP/2 stream: HEADERS with END_HEADERS, END_STREAM."""
    block = b"\x82\x86\x84\x41\7a.local\x40\1n\4%04d" % number
    return len(block).to_bytes(3, "big") + bytes([1, flags]) + number.to_bytes(4, "big") + block


HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + stream(1)


class Run:
    """A pipeline, and the records that it wrote."""

    def __init__(self, **settings: int) -> None:
        self.lines: list[Record] = []
        self.pipeline = Pipeline(Settings(**settings), self, Processes(None), "x86_64")

    def write(self, record: Record) -> None:
        self.lines.append(record)

    def feed(self, *items: Chunk | End) -> None:
        for item in items:
            self.pipeline.feed(wire.encode(item))

    @property
    def counted(self) -> int:
        return self.pipeline.memory.total


def test_the_connection_that_was_idle_for_longest_goes_first() -> None:
    memory = Memory(100, 100)
    assert [memory.use(socket, 30) for socket in (1, 2, 3, 1)] == [[], [], [], []]
    assert memory.use(4, 30) == [2]
    assert memory.use(5, 70) == [3, 1]
    assert (memory.total, len(memory)) == (100, 2)


def test_a_closed_connection_holds_nothing() -> None:
    memory = Memory(100, 100)
    memory.use(1, 60)
    assert memory.use(1, 0) == []
    assert memory.use(2, 0) == []
    assert (memory.total, len(memory)) == (0, 0)


def test_a_connection_beyond_its_own_limit_is_dropped() -> None:
    memory = Memory(50, 100)
    memory.use(1, 10)
    assert memory.use(2, 51) == [2]
    assert (memory.total, len(memory)) == (10, 1)


def test_open_messages_of_a_dropped_connection_are_written_and_counted() -> None:
    run = Run(max_memory=10_000)
    wires = [Wire(socket=n + 1) for n in range(20)]
    for n, each in enumerate(wires):
        run.feed(each.send(POST % n + b"abc"))
    given_up = run.pipeline.account.given_up
    assert given_up > 10
    assert [line["url"] for line in run.lines] == [f"/{n}" for n in range(given_up)]
    assert {*map(str, (line["incomplete"] for line in run.lines))} == {"['memory_limit']"}
    assert run.lines[0]["body"] == "abc"
    assert len(run.pipeline._streams) == len(run.pipeline._messages) == 20 - given_up
    assert run.counted <= 10_000
    # The others continue unaffected.
    run.feed(wires[-1].send(b"defghi"), wires[-1].recv(OK))
    assert [line.get("incomplete") for line in run.lines[-2:]] == [None, None]
    assert run.lines[-1]["request"]["url"] == "/19"


def test_a_dropped_connection_resumes_at_its_next_message() -> None:
    run = Run(max_memory=10_000)
    first = Wire(socket=1)
    run.feed(first.send(POST % 0))
    run.feed(*(Wire(socket=n + 10).send(POST % 1) for n in range(20)))
    run.lines.clear()
    run.feed(first.send(b"123456789"))
    run.feed(first.send(GET % 7), first.recv(OK))
    urls = [line.get("url", line.get("request")) for line in run.lines if line["socket"] == 1]
    assert urls == ["/7", {"method": "GET", "url": "/7", "host": "a"}]


def test_one_connection_may_hold_only_so_much() -> None:
    run = Run(max_connection_memory=100_000)
    one = Wire()
    for n in range(INFLIGHT_MAX):
        run.feed(one.send(b"GET /%d%b HTTP/1.1\r\n\r\n" % (n, b"x" * 1000)))
        assert run.counted <= 100_000
    assert run.pipeline.account.given_up >= 10
    assert len(run.lines) == INFLIGHT_MAX


def test_early_chunks_count() -> None:
    run = Run(max_connection_memory=100_000)
    one = Wire()
    run.feed(one.send(GET % 1))
    one.position[SEND] += 1
    counts = []
    for _ in range(8):
        run.feed(one.send(b"x" * 16000))
        counts.append(run.counted)
    assert counts[4] > 80_000
    assert max(counts) <= 100_000
    assert run.pipeline.account.given_up == 1


def test_ended_or_non_http_connections_hold_nothing() -> None:
    run = Run()
    one, other = Wire(socket=1), Wire(socket=2)
    run.feed(one.send(GET % 1), one.recv(OK), other.send(b"\x16\x03"), other.recv(b"\x16"))
    run.feed(other.send(b"under way"))
    assert run.counted > 0
    run.feed(one.end(RECV), one.end(SEND))
    assert run.counted == 0
    assert len(run.pipeline._streams) == 0


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from([SEND, RECV]),
            st.one_of(st.none(), st.integers(-9, 9), BYTES),
        ),
        max_size=60,
    )
)
def test_memory_stays_within_its_bound(moves: list[tuple[int, int, bytes | int | None]]) -> None:
    """Whatever connections send, lose and end; after all have ended, nothing is held."""
    run = Run(max_memory=6000, max_connection_memory=4000)
    wires = [Wire(socket=n + 1) for n in range(10)]
    for socket, direction, data in moves:
        each = wires[socket]
        if data is None:
            run.feed(each.end(direction))
        elif isinstance(data, int):
            each.position[direction] = max(0, each.position[direction] + data)
        elif data:
            run.feed((each.send if direction == SEND else each.recv)(data))
        assert run.counted <= 6000
    for each in wires:
        run.feed(each.end(SEND), each.end(RECV))
    assert run.counted == 0
    assert (len(run.pipeline._messages), len(run.pipeline._streams)) == (0, 0)


SHAPES = {
    "idle": [GET, OK],
    "waiting": [GET],
    "waiting, of a long chunk": [b"GET /%d HTTP/1.1\r\nCookie: " + b"x" * 4000 + b"\r\n\r\n"],
    "half an answer": [GET, OK[:-1]],
    "half a head": [b"GET /%d HTTP/1.1\r\nHost: a"],
    "half a body": [POST + b"abc"],
    "half a chunk": [b"POST /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc"],
    "a long body": [b"POST /%d HTTP/1.1\r\nContent-Length: 9999\r\n\r\n" + b"x" * 5000],
    "a long head": [
        POST[:-2] + b"".join(b"Field-%d: value %d\r\n" % (n, n) for n in range(60)) + b"\r\n"
    ],
    "idle HTTP/2": [HTTP2],
    "half a head in HTTP/2": [HTTP2[:-10]],
    "streams that wait": [HTTP2 + b"".join(stream(2 * n + 3) for n in range(30))],
    "a long body in HTTP/2": [HTTP2 + stream(3, 4) + b"\0\x40\0\0\0\0\0\0\3" + b"x" * 5000],
}


def opened(run: Run, shape: list[bytes], count: int, unmeasured: int = 0) -> int:
    """Open connections of a shape; return Python's memory for all of them but the first."""
    for n in range(count):
        if n == unmeasured:
            tracemalloc.start()
        each = Wire(socket=1_000_000 + n)
        for data in shape:
            move = each.recv if data.startswith(b"HTTP") else each.send
            run.feed(move(data % n if b"%d" in data else data))
        run.lines.clear()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_counted_bytes_are_the_real_ones(
    shape: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Excluding tables of fixed size.
    monkeypatch.setattr(record, "_CONSTANTS_MAX", 1)
    monkeypatch.setattr(peers, "KEPT", 1)
    run = Run(max_memory=1 << 40)
    taken = opened(run, shape, 2000)
    assert taken / 1.3 < run.counted < taken * 2.5


def test_a_hundred_thousand_half_open_connections_stay_within_the_bound() -> None:
    run = Run(max_memory=8_000_000)
    # Tracing is slow, and nothing remains of the first connections.
    taken = opened(run, SHAPES["half a head"], 100_000, unmeasured=80_000)
    account = run.pipeline.account
    assert run.counted <= 8_000_000
    assert taken < 10_000_000
    assert account.given_up == 100_000 - len(run.pipeline._messages) > 90_000
    assert account.incomplete["memory_limit"] == account.given_up


def last_frames(n: int) -> Talk:
    """An idle connection whose last frame was large."""
    block = ASKED + literal(b"name", b"x" * 15_000)
    yield CLIENT, PREFACE + SETTINGS + headers(1, block, END_HEADERS | END_STREAM)


def bodies(n: int) -> Talk:
    """A body that lacks its end: its message has the bytes twice, as ``raw`` and as ``body``."""
    yield CLIENT, b"POST /%d HTTP/1.1\r\nContent-Length: 90000\r\n\r\n" % n + b"x" * 15_000
    yield CLIENT, b"x" * 15_000


def byte_by_byte(n: int) -> Talk:
    """A PROXY header in calls of one byte."""
    for byte in b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 8":
        yield CLIENT, bytes([byte])


SHAPED = [last_frames, byte_by_byte, *(flood.talk for flood in FLOODS.values() if flood.holds)]
BOUND = 6_000_000


def flood(run: Run, shape: Callable[[int], Talk]) -> None:
    """Open connections of a shape until as many had to be dropped as are kept."""
    account = run.pipeline.account
    for n in range(10_000):
        each = Wire(socket=1_000_000 + n)
        for end, data in shape(n):
            run.feed((each.send if end == CLIENT else each.recv)(data))
        run.lines.clear()
        if account.given_up > max(20, len(run.pipeline.memory)):
            return
    raise AssertionError(f"nothing was dropped: {run.counted} bytes were counted")


@pytest.mark.parametrize("shape", SHAPED, ids=lambda shape: shape.__name__)
def test_a_flood_takes_no_more_than_the_bound(
    shape: Callable[[int], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_CONSTANTS_MAX", 1)
    monkeypatch.setattr(peers, "KEPT", 1)
    run = Run(max_memory=BOUND)
    tracemalloc.start()
    try:
        flood(run, shape)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert BOUND / 4 < taken <= 1.25 * BOUND


def uncollected(run: Run) -> int:
    """Return how many objects only a garbage collection frees."""
    run.lines.clear()
    return gc.collect()


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("end", ["given up", "finished", "closed"])
def test_what_a_connection_held_is_freed_at_once(end: str) -> None:
    """Objects that hold each other would stay until the next collection, uncounted."""
    run = Run()
    shapes = [*SHAPED, *(flood.talk for flood in FLOODS.values())]
    for n, talk in enumerate(shapes):
        each = Wire(socket=n + 1)
        for way, data in talk(n):
            run.feed((each.send if way == CLIENT else each.recv)(data))
        if end == "given up":
            run.pipeline._messages.give_up(n + 1)
        elif end == "closed":
            run.feed(each.end(SEND), each.end(RECV))
    if end == "finished":
        run.pipeline.finish()
    assert len(run.pipeline._messages) == 0
    assert uncollected(run) == 0


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("case", sorted(CASES.glob("*/stream.txt")), ids=lambda c: c.parent.name)
def test_a_case_leaves_nothing_to_collect(case: Path) -> None:
    run = Run()
    script = read(case)
    for each in records(script.steps, script.joined):
        run.pipeline.feed(each)
    run.pipeline.finish()
    assert uncollected(run) == 0


@pytest.mark.parametrize(
    "shape", [floods.references, floods.emojis, bodies], ids=lambda shape: shape.__name__
)
def test_the_end_of_a_capture_takes_no_more_memory(
    shape: Callable[[int], Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_CONSTANTS_MAX", 1)
    monkeypatch.setattr(Run, "write", lambda self, line: None)
    run = Run(max_memory=BOUND)
    tracemalloc.start()
    try:
        flood(run, shape)
        tracemalloc.reset_peak()
        run.pipeline.finish()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 1.25 * BOUND
    assert left < BOUND / 2


@pytest.mark.parametrize("count", [5, 30, 240])
def test_the_blocks_that_are_remembered_take_little(count: int) -> None:
    """They are not part of the bound: whatever they contain, all together take 8 MiB at most."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [a + b for a in letters for b in letters][:count]
    room = 1000 // count - 4
    tracemalloc.start()
    try:
        for n in range(600):
            value = (EMOJI + b"%d" % n + b"x" * room)[: max(0, room)] if room > 8 else b""
            fields = (b"%b:%b\n" % (name.encode(), value) for name in names)
            parse_fields(b"%d:\n" % n + b"".join(fields))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= 8 << 20
