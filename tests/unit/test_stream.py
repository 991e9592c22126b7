from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.stream import Event, Finish, Gap, Streams
from profiler.wire import (
    FLAG_AFTER_LOSS,
    FLAG_JOINED,
    FLAG_LIMIT,
    FLAG_UNREADABLE,
    RECV,
    SEND,
    Chunk,
)
from tests.unit.wires import SECOND, SOCKET, Wire, chunk


def gap(size: int | None, reason: str = "lost", time: int = SECOND, direction: int = SEND) -> Gap:
    return Gap(SOCKET, direction, time, size, reason)


def test_chunks_in_order_pass_unchanged() -> None:
    streams, wire = Streams(), Wire()
    for item in (wire.send(b"ab"), wire.recv(b"x"), wire.send(b"c"), wire.recv(b"yz")):
        assert streams.feed(item) == (item,)


def test_the_first_chunk_sets_the_base() -> None:
    first = chunk(b"ab", position=1000, flags=FLAG_JOINED)
    second = chunk(b"c", position=1002)
    streams = Streams()
    assert streams.feed(first) == (first,)
    assert streams.feed(second) == (second,)


def test_the_first_chunk_after_a_loss_follows_a_gap_of_unknown_size() -> None:
    first = chunk(b"ab", position=1000, flags=FLAG_AFTER_LOSS)
    assert Streams().feed(first) == (gap(None), first)


def test_a_later_chunk_after_a_loss_follows_a_gap_of_known_size_only() -> None:
    streams = Streams()
    streams.feed(chunk(b"ab"))
    later = chunk(b"c", position=7, flags=FLAG_AFTER_LOSS)
    assert streams.feed(later) == (gap(5), later)


def test_a_position_ahead_is_a_gap() -> None:
    streams = Streams()
    streams.feed(chunk(b"ab"))
    later = chunk(b"c", position=12)
    assert streams.feed(later) == (gap(10), later)
    after = chunk(b"d", position=13)
    assert streams.feed(after) == (after,)


def test_a_position_that_goes_back_is_a_gap_of_unknown_size() -> None:
    streams = Streams()
    streams.feed(chunk(b"abcdef"))
    again = chunk(b"g", position=0)
    assert streams.feed(again) == (gap(None), again)
    after = chunk(b"h", position=1)
    assert streams.feed(after) == (after,)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(FLAG_LIMIT, "body_limit"), (FLAG_UNREADABLE, "lost"), (0, "lost")],
)
def test_a_chunk_that_is_not_whole_is_followed_by_a_gap(flags: int, reason: str) -> None:
    streams = Streams()
    item = chunk(b"abc", size=10, captured=3, flags=flags)
    assert streams.feed(item) == (item, gap(7, reason))
    after = chunk(b"d", position=10)
    assert streams.feed(after) == (after,)


def test_a_chunk_without_payload_is_a_gap() -> None:
    assert Streams().feed(chunk(b"", size=9, flags=FLAG_UNREADABLE)) == (gap(9),)


def test_an_end_finishes_the_stream() -> None:
    streams, wire = Streams(), Wire()
    streams.feed(wire.send(b"ab"))
    end = wire.end(SEND)
    assert streams.feed(end) == (Finish(SOCKET, SEND, end.time),)


def test_bytes_lost_before_the_end_are_a_gap() -> None:
    streams, wire = Streams(), Wire()
    streams.feed(wire.recv(b"ab"))
    wire.lose(RECV, 5)
    end = wire.end(RECV)
    assert streams.feed(end) == (
        gap(5, time=end.time, direction=RECV),
        Finish(SOCKET, RECV, end.time),
    )


def test_the_end_of_a_direction_that_was_never_seen_is_no_gap() -> None:
    wire = Wire()
    wire.lose(SEND, 100)
    end = wire.end(SEND)
    assert Streams().feed(end) == (Finish(SOCKET, SEND, end.time),)


def test_sockets_and_directions_do_not_mix() -> None:
    streams = Streams()
    for item in (
        chunk(b"ab", socket=1),
        chunk(b"abc", socket=2),
        chunk(b"abcd", socket=1, direction=RECV),
        chunk(b"c", socket=1, position=2),
        chunk(b"d", socket=2, position=3),
        chunk(b"e", socket=1, position=4, direction=RECV),
    ):
        assert streams.feed(item) == (item,)


def test_ended_and_forgotten_sockets_take_no_memory() -> None:
    streams, wire, other = Streams(), Wire(), Wire(socket=5)
    for item in (wire.send(b"a"), wire.recv(b"b"), other.send(b"c"), other.recv(b"d")):
        streams.feed(item)
    assert len(streams) == 4
    streams.feed(wire.end(SEND))
    streams.feed(wire.end(RECV))
    assert len(streams) == 2
    streams.forget(5)
    assert len(streams) == 0


@given(st.lists(st.tuples(st.binary(max_size=9), st.booleans()), max_size=30))
def test_every_byte_is_either_handed_on_or_in_a_gap(pieces: list[tuple[bytes, bool]]) -> None:
    streams, wire = Streams(), Wire()
    events: list[Event] = list(streams.feed(wire.send(b"first")))
    for payload, delivered in pieces:
        item = wire.send(payload)
        if delivered:
            events += streams.feed(item)
    events += streams.feed(wire.end(SEND))
    at = 0
    for event in events[:-1]:
        if isinstance(event, Chunk):
            assert event.position == at
            at += len(event.payload)
        else:
            assert isinstance(event, Gap)
            assert event.size is not None
            assert event.size > 0
            at += event.size
    assert at == wire.position[SEND]
    assert isinstance(events[-1], Finish)
