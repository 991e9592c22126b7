# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.http import Message, Messages
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Event, Finish, Gap, Streams
from profiler.ingest.wire import (
    FLAG_AFTER_LOSS,
    FLAG_JOINED,
    FLAG_LIMIT,
    FLAG_PASSED_OVER,
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
        assert list(streams.feed(item)) == [item]


def test_the_first_chunk_sets_the_base() -> None:
    first = chunk(b"ab", position=1000, flags=FLAG_JOINED)
    second = chunk(b"c", position=1002)
    streams = Streams()
    assert list(streams.feed(first)) == [first]
    assert list(streams.feed(second)) == [second]


def test_the_first_chunk_after_a_loss_follows_a_gap_of_unknown_size() -> None:
    first = chunk(b"ab", position=1000, flags=FLAG_AFTER_LOSS)
    assert list(Streams().feed(first)) == [gap(None), first]


def test_a_later_chunk_after_a_loss_follows_a_gap_of_known_size_only() -> None:
    streams = Streams()
    streams.feed(chunk(b"ab"))
    later = chunk(b"c", position=7, flags=FLAG_AFTER_LOSS)
    assert list(streams.feed(later)) == [gap(5), later]


def test_a_position_ahead_without_a_loss_waits_for_what_is_missing() -> None:
    """As when two threads send on one socket at the same time."""
    streams = Streams()
    streams.feed(chunk(b"ab"))
    third, second = chunk(b"ef", position=4), chunk(b"cd", position=2)
    assert list(streams.feed(third)) == []
    assert list(streams.feed(second)) == [second, third]
    after = chunk(b"g", position=6)
    assert list(streams.feed(after)) == [after]


def test_missing_bytes_become_a_gap_at_the_end() -> None:
    for over in ("end", "finish"):
        streams, wire = Streams(), Wire()
        streams.feed(wire.send(b"ab"))
        later = chunk(b"c", position=12)
        assert list(streams.feed(later)) == []
        end = wire.end(SEND)._replace(position=13)
        events = streams.feed(end) if over == "end" else streams.finish()
        assert list(events)[:2] == [gap(10), later]
        assert list(streams.finish()) == []


def test_held_chunks_are_bounded() -> None:
    streams = Streams()
    streams.feed(chunk(b"a"))
    held = [chunk(b"x", position=2 + i) for i in range(65)]
    events = [event for item in held for event in streams.feed(item)]
    assert events == [gap(1), *held]


def test_one_direction_that_waits_does_not_stop_another() -> None:
    streams = Streams()
    streams.feed(chunk(b"ab"))
    streams.feed(chunk(b"ef", position=4))
    other = chunk(b"x", direction=RECV)
    assert list(streams.feed(other)) == [other]


def test_a_position_that_goes_back_is_a_gap_of_unknown_size() -> None:
    streams = Streams()
    streams.feed(chunk(b"abcdef"))
    again = chunk(b"g", position=0)
    assert list(streams.feed(again)) == [gap(None), again]
    after = chunk(b"h", position=1)
    assert list(streams.feed(after)) == [after]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(FLAG_LIMIT, "body_limit"), (FLAG_UNREADABLE, "lost"), (0, "lost")],
)
def test_a_chunk_that_is_not_whole_is_followed_by_a_gap(flags: int, reason: str) -> None:
    streams = Streams()
    item = chunk(b"abc", size=10, captured=3, flags=flags)
    assert list(streams.feed(item)) == [item, gap(7, reason)]
    after = chunk(b"d", position=10)
    assert list(streams.feed(after)) == [after]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(FLAG_PASSED_OVER, "body_limit"), (FLAG_PASSED_OVER | FLAG_AFTER_LOSS, "lost")],
)
def test_skipped_bytes_are_not_waited_for(flags: int, reason: str) -> None:
    streams = Streams()
    streams.feed(chunk(b"ab"))
    after = chunk(b"c", position=12, flags=flags)
    assert list(streams.feed(after)) == [gap(10, reason), after]
    end = Wire().end(SEND)._replace(position=20, flags=flags)
    events = streams.feed(end)
    assert next(iter(events)) == gap(7, reason, time=end.time)


def test_a_chunk_without_payload_is_a_gap() -> None:
    assert list(Streams().feed(chunk(b"", size=9, flags=FLAG_UNREADABLE))) == [gap(9)]


def test_an_end_finishes_the_stream() -> None:
    streams, wire = Streams(), Wire()
    streams.feed(wire.send(b"ab"))
    end = wire.end(SEND)
    assert list(streams.feed(end)) == [Finish(SOCKET, SEND, end.time)]


def test_bytes_lost_before_the_end_are_a_gap() -> None:
    streams, wire = Streams(), Wire()
    streams.feed(wire.recv(b"ab"))
    wire.lose(RECV, 5)
    end = wire.end(RECV)
    assert list(streams.feed(end)) == [
        gap(5, time=end.time, direction=RECV),
        Finish(SOCKET, RECV, end.time),
    ]


def test_the_end_of_a_direction_that_was_never_seen_is_no_gap() -> None:
    wire = Wire()
    wire.lose(SEND, 100)
    end = wire.end(SEND)
    assert list(Streams().feed(end)) == [Finish(SOCKET, SEND, end.time, unseen=True)]
    nothing = Wire().end(SEND)
    assert list(Streams().feed(nothing)) == [Finish(SOCKET, SEND, nothing.time)]


def test_the_end_of_a_direction_without_bytes_since_a_restart_is_no_gap() -> None:
    streams = Streams()
    streams.feed(chunk(b"ab"))
    (finish,) = streams.feed(Wire().end(SEND))
    assert isinstance(finish, Finish)
    assert not finish.unseen


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
        assert list(streams.feed(item)) == [item]


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
def test_every_byte_is_either_delivered_or_in_a_gap(pieces: list[tuple[bytes, bool]]) -> None:
    streams, wire = Streams(), Wire()
    events: list[Event] = list(streams.feed(wire.send(b"first")))
    lost = 0
    for payload, delivered in pieces:
        item = wire.send(payload, flags=lost)
        if delivered:
            events += streams.feed(item)
        lost = 0 if delivered else FLAG_AFTER_LOSS
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


@given(st.permutations(range(1, 8)))
def test_any_order_of_arrival_gives_the_stream(order: list[int]) -> None:
    streams = Streams()
    events = list(streams.feed(chunk(b"0")))
    for position in order:
        events += streams.feed(chunk(b"%d" % position, position=position))
    assert b"".join(e.payload for e in events if isinstance(e, Chunk)) == b"01234567"
    assert not any(isinstance(e, Gap) for e in events)


@pytest.mark.parametrize("base", [1000, 2**32 - 60])
@pytest.mark.parametrize("missed", [0, 7])
def test_positions_that_restart_continue_by_the_sequence_number(base: int, missed: int) -> None:
    """The kernel had no room to remember the connection, and counts from 0 again."""
    streams = Streams()
    assert streams.feed(chunk(b"x" * 100, sequence=base))
    continued = (base + 100 + missed) % 2**32
    later = chunk(b"y" * 10, sequence=continued, flags=FLAG_JOINED)
    assert [*streams.feed(later)] == [*([gap(missed)] if missed else []), later]
    following = chunk(b"z", position=10, sequence=continued, flags=FLAG_JOINED)
    assert [*streams.feed(following)] == [following]


@pytest.mark.parametrize("sequences", [(0, 0), (0, 5), (5, 0), (5, 5), (5, 2**31 + 200)])
def test_positions_that_restart_otherwise_leave_a_gap_of_unknown_size(
    sequences: tuple[int, int],
) -> None:
    streams = Streams()
    streams.feed(chunk(b"x" * 100, sequence=sequences[0]))
    later = chunk(b"y" * 10, sequence=sequences[1])
    assert [*streams.feed(later)] == [gap(None), later]


def test_the_answer_after_a_restart_is_paired_with_its_request() -> None:
    streams, messages = Streams(), Messages(Settings())
    request = b"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    chunks = [
        chunk(request, sequence=1),
        chunk(answer, direction=RECV, sequence=1),
        chunk(request, position=len(request), sequence=1),
        chunk(
            answer,
            direction=RECV,
            position=0,
            sequence=1 + len(answer),
            flags=FLAG_JOINED,
        ),
    ]
    out = [m for item in chunks for event in streams.feed(item) for m in messages.feed(event)]
    whole = [m for m in out if isinstance(m, Message) and not m.incomplete]
    assert len(whole) == 4
    for asking, answering in (whole[:2], whole[2:]):
        assert answering.head.request is not None
        assert answering.head.request.origin == asking.origin
