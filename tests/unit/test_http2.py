# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 from the ``h2`` library: what both sides send, and the messages that must result.

A talk is replayed whole (a turn is a chunk), byte by byte, and in any split.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.ingest.http import Message, Messages, NotHttp
from profiler.ingest.http.frames import PREFACE
from profiler.ingest.http.header_state import BlockError, HeaderState
from profiler.ingest.http.streams import STREAMS_MAX
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Streams
from profiler.ingest.wire import FLAG_CONTINUED, FLAG_JOINED, RECV, SEND, Chunk
from tests.unit.h2talk import Talk, answering, asking
from tests.unit.turns import Ask, Close, Lose, Say, Turn, play, split
from tests.unit.wires import SOCKET, Wire

BIG = Settings(max_body=100_000)


class Seen(NamedTuple):
    """A message without what depends on how the stream was cut."""

    start: str
    stream: int | None
    body: bytes = b""
    incomplete: tuple[str, ...] = ()
    number: int | None = None
    trailers: dict[str, object] | None = None
    error: str | None = None


def seen(message: Message) -> Seen:
    head = message.head
    what = (head.method, head.target) if head.type == "request" else (head.status, head.reason)
    return Seen(
        " ".join(str(part) for part in what if part is not None),
        head.stream,
        message.body,
        message.incomplete,
        head.request.number if head.request else None,
        message.trailers.headers if message.trailers else None,
        message.error_code,
    )


def unanswered(stream: int, reason: str = "closed_early", error: str | None = None) -> Seen:
    return Seen("", stream, b"", ("no_response", reason), stream, error=error)


def messages_of(
    turns: Iterable[Turn], cut: int | None = None, joined: bool = False, settings: Settings = BIG
) -> list[Message]:
    return [m for m in play(turns, cut, settings, joined) if isinstance(m, Message)]


def summary(
    turns: Iterable[Turn], cut: int | None = None, joined: bool = False, settings: Settings = BIG
) -> list[Seen]:
    return [seen(message) for message in messages_of(turns, cut, joined, settings)]


# ---- what is sent, and what must result


def frames(turns: Iterable[Turn], side: type) -> list[Frame]:
    """The frames that one side sent."""
    data = b"".join(turn.data for turn in turns if isinstance(turn, side)).replace(PREFACE, b"")
    found = []
    while data:
        frame, size = Frame.parse_frame_header(memoryview(data[:9]))
        found.append(frame)
        data = data[9 + size :]
    return found


def exchanges() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.exchange("/a")
    talk.exchange("/b", b"question", b"")
    talk.exchange("/a", answer=b"x" * 40_000)
    return talk.turns, [
        Seen("GET /a", 1, number=1),
        Seen("200", 1, b"ok", number=1),
        Seen("POST /b", 3, b"question", number=3),
        Seen("200", 3, number=3),
        Seen("GET /a", 5, number=5),
        Seen("200", 5, b"x" * 40_000, number=5),
    ]


def server_first() -> tuple[list[Turn], list[Seen]]:
    talk = Talk(greeted=False)
    talk.server.initiate_connection()
    greeting = talk.server.data_to_send()
    talk.turns.append(Say(greeting))
    talk.client.initiate_connection()
    talk.client.receive_data(greeting)
    talk.exchange("/a")
    return talk.turns, [Seen("GET /a", 1, number=1), Seen("200", 1, b"ok", number=1)]


def interleaved() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    client, server = talk.client, talk.server
    for stream in (1, 3, 5):
        client.send_headers(stream, asking(f"/{stream}", "POST"))
    for stream in (5, 1, 3, 1):
        client.send_data(stream, b"%d" % stream)
    talk.turn()
    for stream in (3, 1, 5):
        server.send_headers(stream, answering())
        server.send_data(stream, b"no %d" % stream)
    talk.turn()
    for stream in (1, 5, 3):
        client.end_stream(stream)
    for stream in (5, 3, 1):
        server.send_data(stream, b"!", end_stream=True)
    talk.turn()
    return talk.turns, [
        Seen("POST /1", 1, b"11", number=1),
        Seen("POST /5", 5, b"5", number=5),
        Seen("POST /3", 3, b"3", number=3),
        Seen("200", 5, b"no 5!", number=5),
        Seen("200", 3, b"no 3!", number=3),
        Seen("200", 1, b"no 1!", number=1),
    ]


def padded() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.client.send_headers(
        1, asking("/p", "POST"), priority_weight=9, priority_depends_on=0, priority_exclusive=True
    )
    talk.client.prioritize(3, weight=3)
    for piece, padding in ((b"ab", 0), (b"", 255), (b"cd", 7), (b"e", None)):
        talk.client.send_data(1, piece, pad_length=padding)
    talk.client.ping(b"12345678")
    talk.client.end_stream(1)
    talk.turn()
    return talk.turns, [Seen("POST /p", 1, b"abcde", number=1)]


LONG = random.Random(7).randbytes(15_000).hex()


def continued() -> tuple[list[Turn], list[Seen]]:
    talk = Talk(MAX_HEADER_LIST_SIZE=60_000)
    talk.client.send_headers(1, asking("/c", "GET", ("x-long", LONG)), end_stream=True)
    talk.turn()
    assert sum(isinstance(f, ContinuationFrame) for f in frames(talk.turns, Ask)) == 1
    talk.exchange("/d")
    return talk.turns, [
        Seen("GET /c", 1, number=1),
        Seen("GET /d", 3, number=3),
        Seen("200", 3, b"ok", number=3),
    ]


def grpc() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    question, answer = b"\0\0\0\0\x03abc", b"\0\0\0\0\x02hi"
    for stream in (1, 3):
        talk.client.send_headers(stream, asking("/s.S/Do", "POST", ("te", "trailers")))
        talk.client.send_data(stream, question, end_stream=True)
        talk.turn()
        talk.server.send_headers(stream, answering(200, ("content-type", "application/grpc")))
        talk.server.send_data(stream, answer)
        talk.server.send_headers(
            stream, [("grpc-status", "0"), ("grpc-message", "")], end_stream=True
        )
        talk.turn()
    ended: dict[str, object] = {"grpc-status": "0", "grpc-message": ""}
    return talk.turns, [
        Seen("POST /s.S/Do", 1, question, number=1),
        Seen("200", 1, answer, number=1, trailers=ended),
        Seen("POST /s.S/Do", 3, question, number=3),
        Seen("200", 3, answer, number=3, trailers=ended),
    ]


def trailers_only() -> tuple[list[Turn], list[Seen]]:
    """gRPC: an error without content is one header block."""
    talk = Talk()
    talk.client.send_headers(1, asking("/s.S/Do", "POST"))
    talk.client.send_data(1, b"\0\0\0\0\0")
    talk.client.send_headers(1, [("x-sum", "7")], end_stream=True)
    talk.turn()
    talk.server.send_headers(1, answering(200, ("grpc-status", "12")), end_stream=True)
    talk.turn()
    return talk.turns, [
        Seen("POST /s.S/Do", 1, b"\0\0\0\0\0", number=1, trailers={"x-sum": "7"}),
        Seen("200", 1, number=1),
    ]


def interim() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.client.send_headers(1, asking("/", "POST", ("expect", "100-continue")))
    talk.turn()
    talk.server.send_headers(1, [(":status", "103"), ("link", "x")])
    talk.server.send_headers(1, [(":status", "100")])
    talk.turn()
    talk.client.send_data(1, b"body", end_stream=True)
    talk.turn()
    talk.server.send_headers(1, answering(204), end_stream=True)
    talk.turn()
    return talk.turns, [
        Seen("103", 1, number=1),
        Seen("100", 1, number=1),
        Seen("POST /", 1, b"body", number=1),
        Seen("204", 1, number=1),
    ]


def head_and_connect() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.client.send_headers(1, asking("/h", "HEAD"), end_stream=True)
    talk.turn()
    talk.server.send_headers(1, answering(200, ("content-length", "99")), end_stream=True)
    talk.client.send_headers(3, [(":method", "CONNECT"), (":authority", "b:443")])
    talk.turn()
    talk.server.send_headers(3, answering(200))
    talk.turn()
    talk.client.send_data(3, b"\x16\x03", end_stream=True)
    talk.server.send_data(3, b"\x16\x04", end_stream=True)
    talk.turn()
    return talk.turns, [
        Seen("HEAD /h", 1, number=1),
        Seen("200", 1, number=1),
        Seen("CONNECT b:443", 3, b"\x16\x03", number=3),
        Seen("200", 3, b"\x16\x04", number=3),
    ]


def cancelled() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.client.send_headers(1, asking("/1"), end_stream=True)
    talk.client.send_headers(3, asking("/3", "POST"))
    talk.turn()
    talk.server.send_headers(1, answering())
    talk.server.send_data(1, b"some")
    talk.turn()
    talk.client.reset_stream(1, ErrorCodes.CANCEL)
    talk.turn()
    talk.server.send_headers(3, answering(413), end_stream=True)
    talk.server.reset_stream(3, ErrorCodes.NO_ERROR)
    talk.turn()
    talk.exchange("/5")
    return talk.turns, [
        Seen("GET /1", 1, number=1),
        Seen("200", 1, b"some", ("reset",), 1, error="CANCEL"),
        Seen("413", 3, number=3),
        Seen("POST /3", 3, b"", ("reset",), 3, error="NO_ERROR"),
        Seen("GET /5", 5, number=5),
        Seen("200", 5, b"ok", number=5),
    ]


def going_away() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.client.send_headers(1, asking("/1", "POST"))
    talk.client.send_data(1, b"half")
    talk.turn()
    talk.server.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, b"slowly")
    talk.turns.append(Say(talk.server.data_to_send()))
    return [*talk.turns, Close(SEND), Close(RECV)], [
        Seen("POST /1", 1, b"half", ("closed_early",), 1, error="ENHANCE_YOUR_CALM"),
        unanswered(1, error="ENHANCE_YOUR_CALM"),
    ]


def pushed() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.client.send_headers(1, asking("/page"), end_stream=True)
    talk.turn()
    talk.server.push_stream(1, 2, asking("/style"))
    talk.server.send_headers(1, answering())
    talk.server.send_headers(2, answering())
    talk.server.send_data(2, b"css", end_stream=True)
    talk.server.send_data(1, b"html", end_stream=True)
    talk.turn()
    return talk.turns, [
        Seen("GET /page", 1, number=1),
        Seen("GET /style", 2, number=2),
        Seen("200", 2, b"css", number=2),
        Seen("200", 1, b"html", number=1),
    ]


def closed() -> tuple[list[Turn], list[Seen]]:
    talk = Talk()
    talk.exchange("/a")
    talk.client.send_headers(3, asking("/b"), end_stream=True)
    talk.turn()
    talk.server.send_headers(3, answering())
    talk.server.send_data(3, b"half a frame")
    talk.turns.append(Say(talk.server.data_to_send()[:-6]))
    return [*talk.turns, Close(RECV), Close(SEND)], [
        Seen("GET /a", 1, number=1),
        Seen("200", 1, b"ok", number=1),
        Seen("GET /b", 3, number=3),
        Seen("200", 3, b"half a", ("closed_early",), 3),
    ]


def upgraded() -> tuple[list[Turn], list[Seen]]:
    talk = Talk(greeted=False)
    settings_header = talk.upgrade()
    asked = (
        b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: " + settings_header + b"\r\n\r\n"
    )
    said = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    before = b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n"
    # The server's SETTINGS come with its 101, followed by the client's preface.
    said_more = talk.server.data_to_send()
    talk.client.receive_data(said_more)
    talk.server.send_headers(1, answering())
    talk.server.send_data(1, b"up", end_stream=True)
    talk.turn()
    talk.exchange("/next")
    assert isinstance(talk.turns[0], Ask)
    assert talk.turns[0].data.startswith(PREFACE)
    return [
        Ask(before),
        Say(b"HTTP/1.1 204 No Content\r\n\r\n"),
        Ask(asked),
        Say(said + said_more),
        *talk.turns,
    ], [
        Seen("GET /before", None, number=1),
        Seen("204 No Content", None, number=1),
        Seen("GET /up", None, number=2),
        Seen("101 Switching Protocols", None, number=2),
        Seen("200", 1, b"up", number=2),
        Seen("GET /next", 3, number=4),
        Seen("200", 3, b"ok", number=4),
    ]


def small_table() -> tuple[list[Turn], list[Seen]]:
    return with_table_size(64)


def no_table() -> tuple[list[Turn], list[Seen]]:
    return with_table_size(0)


def large_table() -> tuple[list[Turn], list[Seen]]:
    return with_table_size(20_000)


def with_table_size(size: int) -> tuple[list[Turn], list[Seen]]:
    """The server permits a table size other than 4096, and later another one."""
    talk = Talk()
    expected = []
    for n, path in enumerate(["/" + c * 300 for c in "abcdefghijklmnopqrstabcdefghijklmnopqrst"]):
        if n == 3:
            talk.server.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
            talk.turn()
        if n == 30:
            talk.server.update_settings({SettingCodes.HEADER_TABLE_SIZE: 1000})
            talk.turn()
        stream = talk.exchange(path)
        expected += [Seen(f"GET {path}", stream, number=stream)]
        expected += [Seen("200", stream, b"ok", number=stream)]
    return talk.turns, expected


CASES = [
    *(exchanges, server_first, interleaved, padded, continued, grpc, trailers_only, interim),
    *(head_and_connect, cancelled, going_away, pushed, closed, upgraded),
    *(small_table, no_table, large_table),
]
NAMED = [pytest.param(*case(), id=case.__name__) for case in CASES]
SHORT = [
    pytest.param(*case(), id=case.__name__)
    for case in CASES
    if case not in (exchanges, continued, small_table, no_table, large_table)
]


@pytest.mark.parametrize(("turns", "expected"), NAMED)
def test_whole(turns: list[Turn], expected: list[Seen]) -> None:
    assert summary(turns) == expected


@pytest.mark.parametrize("cut", [1, 7, 1000])
@pytest.mark.parametrize(("turns", "expected"), NAMED)
def test_byte_by_byte(turns: list[Turn], expected: list[Seen], cut: int) -> None:
    assert summary(turns, cut) == expected


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize(("turns", "expected"), SHORT)
@given(data=st.data())
def test_any_split(turns: list[Turn], expected: list[Seen], data: st.DataObject) -> None:
    pieces = [piece for turn in turns for piece in split(turn, data)]
    assert summary(pieces) == expected
    whole, cut = messages_of(turns), messages_of(pieces)
    assert [(m.raw, m.bytes) for m in whole] == [(m.raw, m.bytes) for m in cut]


# ---- what is in a message


def test_fields_are_as_they_came_with_the_pseudo_header_fields() -> None:
    talk = Talk()
    talk.client.send_headers(
        1, asking("/", "GET", ("cookie", "a=1"), ("cookie", "b=2")), end_stream=True
    )
    talk.turn()
    (asked,) = messages_of(talk.turns)
    assert asked.head.version == "2"
    assert asked.head.fields.headers == {
        ":method": "GET",
        ":scheme": "http",
        ":authority": "a.example",
        ":path": "/",
        "user-agent": "t",
        "cookie": ["a=1", "b=2"],
    }


def test_a_long_field_survives_its_continuation() -> None:
    turns, _ = continued()
    assert messages_of(turns)[0].head.fields.headers["x-long"] == LONG


def test_raw_is_the_frames_of_the_stream() -> None:
    talk = Talk()
    talk.client.send_headers(1, asking("/", "POST"))
    head = talk.client.data_to_send()
    talk.client.ping(b"12345678")
    between = talk.client.data_to_send()
    talk.client.send_data(1, b"abc", pad_length=4)
    talk.client.end_stream(1)
    body = talk.client.data_to_send()
    (message,) = messages_of([*talk.turns, Ask(head + between + body)])
    assert message.raw == head + body
    assert message.bytes == len(message.raw)
    assert message.body == b"abc"


def test_the_stored_body_is_bounded() -> None:
    talk = Talk()
    talk.exchange("/", answer=b"x" * 40_000)
    asked, answered = messages_of(talk.turns, settings=Settings(max_body=1000))
    assert asked.incomplete == ()
    assert answered.incomplete == ("body_limit",)
    assert answered.bytes > 40_000
    assert len(answered.raw) <= 1000 + 100
    assert set(answered.body) == {ord("x")}
    assert answered.raw.endswith(answered.body)


def test_times_run_from_the_first_byte_to_the_last() -> None:
    turns, _ = exchanges()
    asked, answered = messages_of(turns, cut=3)[:2]
    assert asked.head.request is not None
    assert asked.head.request.origin == asked.origin
    assert asked.origin.time < asked.last_time < answered.origin.time
    assert answered.origin.time < answered.last_time
    assert asked.origin.payload == b""


def test_an_unknown_error_code_is_its_number() -> None:
    head = HeadersFrame(1, Encoder().encode(asking()), flags=["END_HEADERS"])
    reset = RstStreamFrame(1, 0x1F)
    asked, _ = messages_of([Ask(opening(head, reset))])
    assert (asked.incomplete, asked.error_code) == (("reset",), "0x1f")


# ---- requests that are never answered


def asked_for(*streams: int) -> Talk:
    talk = Talk()
    for stream in streams:
        talk.client.send_headers(stream, asking(f"/{stream}"), end_stream=True)
    talk.turn()
    return talk


@pytest.mark.parametrize("by", ["client", "server"])
def test_a_stream_that_is_reset_before_its_response_has_none(by: str) -> None:
    talk = asked_for(1, 3)
    getattr(talk, by).reset_stream(1, ErrorCodes.REFUSED_STREAM)
    talk.turn()
    assert summary(talk.turns) == [
        Seen("GET /1", 1, number=1),
        Seen("GET /3", 3, number=3),
        unanswered(1, "reset", "REFUSED_STREAM"),
    ]


def test_a_stream_that_is_reset_inside_its_response_has_one() -> None:
    talk = asked_for(1)
    talk.server.send_headers(1, answering())
    talk.turn()
    talk.client.reset_stream(1, ErrorCodes.CANCEL)
    talk.turn()
    assert summary(talk.turns) == [
        Seen("GET /1", 1, number=1),
        Seen("200", 1, b"", ("reset",), 1, error="CANCEL"),
    ]


def test_a_connection_that_ends_leaves_unanswered_requests() -> None:
    talk = asked_for(1, 3, 5)
    talk.server.send_headers(1, [(":status", "103")])
    talk.server.send_headers(3, answering(), end_stream=True)
    talk.turn()
    assert summary([*talk.turns, Close(RECV), Close(SEND)])[3:] == [
        Seen("103", 1, number=1),
        Seen("200", 3, number=3),
        unanswered(1),
        unanswered(5),
    ]


def test_a_response_that_was_lost_may_have_answered() -> None:
    talk = asked_for(1)
    ping = Say(sent(PingFrame(0, b"12345678")))
    hole = [*talk.turns, Lose(RECV, 40)]
    assert len(messages_of([*hole, Close(RECV), Close(SEND)])) == 1
    # Even if frames are parsed again before the end.
    assert len(messages_of([*hole, ping, Close(RECV), Close(SEND)])) == 1


# ---- frames built manually: what no library sends


def opening(*frames: Frame) -> bytes:
    """Return the client's first bytes, ending with ``frames``."""
    return PREFACE + sent(SettingsFrame(0), *frames)


def sent(*frames: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


def headers(stream: int, pairs: list[tuple[str, str]], *flags: str) -> HeadersFrame:
    """A HEADERS frame whose fields need no table."""
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in pairs
    )
    return HeadersFrame(stream, block, flags=["END_HEADERS", *flags])


def test_a_preface_and_then_no_frames_is_not_http() -> None:
    assert set(play([Ask(PREFACE + b"\xff" * 30), Ask(PREFACE)])) == {NotHttp(SOCKET)}


def test_settings_and_then_no_preface_is_not_http() -> None:
    turns = [Say(sent(SettingsFrame(0))), Ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")]
    assert play(turns) == [NotHttp(SOCKET)]


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("asked", [True, False])
def test_a_server_without_http2(asked: bool, cut: int | None) -> None:
    frame = headers(1, asking("/"), "END_STREAM") if asked else PingFrame(0, b"12345678")
    said = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"
    found = summary([Ask(opening(frame)), Say(said), Close(RECV), Close(SEND)], cut)
    assert found[-1] == Seen("400 Bad Request", None, b"no")
    assert [m.start for m in found[:-1]] == ["GET /"] * asked


@pytest.mark.parametrize("data", [b"\0", b"\0\0\6\4\0\0\0\0", b"PRI * HTTP/2.0\r\n\r\nSM"])
def test_a_beginning_that_ends_there_is_nothing(data: bytes) -> None:
    assert messages_of([Ask(data)]) == []
    assert messages_of([Ask(data), Close(SEND), Close(RECV)], cut=1) == []


def test_a_request_that_lacks_its_method_is_malformed() -> None:
    (message,) = messages_of([Ask(opening(headers(1, [(":path", "/")], "END_STREAM")))])
    assert seen(message) == Seen("/", 1, b"", ("undecodable",), 1)


@pytest.mark.parametrize("status", ["", "2x0", "1234", "\u0662\u0660\u0660"])
def test_an_invalid_status_is_absent(status: str) -> None:
    frame = HeadersFrame(1, Encoder().encode([(":status", status)]), flags=["END_HEADERS"])
    turns = [Ask(opening()), Say(sent(SettingsFrame(0), frame))]
    assert [(m.head.status, m.incomplete[0]) for m in messages_of(turns)] == [(None, "undecodable")]


def test_a_block_that_breaks_the_rules_leaves_the_others_readable() -> None:
    broken = HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS", "END_STREAM"])
    data = opening(broken, headers(3, asking("/3"), "END_STREAM"))
    assert summary([Ask(data)]) == [
        Seen("", 1, b"", ("undecodable",), 1),
        Seen("GET /3", 3, number=3),
    ]


def test_an_interrupted_block_is_dropped() -> None:
    begun = HeadersFrame(1, b"\x82", flags=[])
    data = opening(begun, headers(3, asking("/3"), "END_STREAM"), ContinuationFrame(1, b"\x84"))
    data += sent(headers(5, asking("/5"), "END_STREAM"))
    assert summary([Ask(data)])[0] == Seen("GET /3", 3, number=3)
    assert summary([Ask(data)])[1] == Seen("GET /5", 5, number=5)
    assert [m.incomplete for m in messages_of([Ask(data)])[2:]] == [("undecodable", "closed_early")]


def test_a_head_beyond_the_limit_is_counted_and_named() -> None:
    long = headers(1, asking("/1"), "END_STREAM")
    long.data += b"".join(b"\0\1x\x7f\x41" + b"y" * 192 for _ in range(40))
    data = opening(long, headers(3, asking("/3"), "END_STREAM"))
    for cut in (None, 1):
        first, second = messages_of([Ask(data)], cut, settings=Settings(max_head=1000))
        assert first.incomplete == ("head_limit",)
        assert first.bytes == len(long.serialize())
        assert len(first.raw) <= 1000
        assert second.head.target == "/3"


def test_fields_that_inflate_are_bounded() -> None:
    """HPACK: each single byte names an entry of 4000 bytes."""
    block = b"\x40\1x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 10_000
    frame = HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"])
    (message,) = messages_of([Ask(opening(frame))])
    assert message.incomplete == ("head_limit",)


def test_streams_that_are_open_are_bounded() -> None:
    data = b"".join(
        sent(headers(2 * n + 1, asking(f"/{n}", "POST"))) for n in range(STREAMS_MAX + 5)
    )
    found = summary([Ask(opening() + data)])
    assert [m.incomplete for m in found[:5]] == [("stream_limit",)] * 5
    assert [m.incomplete for m in found[5:]] == [("closed_early",)] * STREAMS_MAX
    assert found[0].start == "POST /0"


def test_data_of_an_unknown_stream_is_ignored() -> None:
    data = opening(DataFrame(9, b"x", flags=["END_STREAM"]), headers(11, asking(), "END_STREAM"))
    assert summary([Ask(data)]) == [Seen("GET /", 11, number=11)]


def test_unknown_frames_are_skipped() -> None:
    unknown = b"\0\0\3\x42\xff\0\0\0\7abc"
    data = opening() + unknown + sent(headers(1, asking(), "END_STREAM"))
    assert summary([Ask(data)], 1) == [Seen("GET /", 1, number=1)]


def test_padding_that_is_longer_than_its_frame_is_no_content() -> None:
    data = opening(headers(1, asking())) + b"\0\0\3\0\x09\0\0\0\1\xffab"
    assert summary([Ask(data)]) == [Seen("GET /", 1, number=1)]


def test_a_block_of_too_many_frames_is_counted_and_named() -> None:
    begun = headers(1, asking("/1"), "END_STREAM")
    begun.flags.discard("END_HEADERS")
    more = [ContinuationFrame(1, b"\0\1x\1y") for _ in range(100)]
    more[-1].flags.add("END_HEADERS")
    block = sent(begun, *more)
    first, second = messages_of(
        [Ask(opening() + block + sent(headers(3, asking("/3"))))], settings=Settings(max_head=500)
    )
    assert first.incomplete == ("head_limit",)
    assert (first.bytes, first.raw) == (len(block), block[:500])
    assert second.head.target == "/3"


def test_a_second_head_where_trailers_belong_is_malformed() -> None:
    twice = sent(headers(1, answering()), headers(1, answering(201), "END_STREAM"))
    turns = [Ask(opening(headers(1, asking("/"), "END_STREAM"))), Say(twice)]
    assert summary(turns)[1:] == [
        Seen("200", 1, b"", ("undecodable",), 1),
        Seen("201", 1, number=1),
    ]


def test_bytes_that_are_not_frames_are_skipped_after_a_message() -> None:
    turns = [Ask(opening(headers(1, asking("/1"), "END_STREAM"))), Ask(b"\xff" * 20)]
    turns.append(Ask(sent(headers(3, asking("/3"), "END_STREAM"))))
    assert [getattr(m, "head", None) and m.head.target for m in play(turns)] == ["/1", "/3"]


def test_a_stray_continuation_makes_the_table_unknown() -> None:
    adds, names = b"\x82\x86\x84\x40\1n\1v", b"\x82\x86\x84\xbe"
    flags = ["END_HEADERS", "END_STREAM"]
    frames = [HeadersFrame(1, adds, flags=flags), HeadersFrame(3, names, flags=flags)]
    stray = ContinuationFrame(9, b"", flags=["END_HEADERS"])
    assert [m.incomplete for m in messages_of([Ask(opening(*frames))])] == [(), ()]
    found = messages_of([Ask(opening(frames[0], stray, frames[1]))])
    assert [m.incomplete for m in found] == [(), ("unknown_header_state",)]


def test_finished_streams_take_no_memory() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(BIG)

    def held(item: Chunk) -> int:
        for event in streams.feed(item):
            stage.feed(event)
        return stage.held(SOCKET)

    data = sent(DataFrame(1, b"x" * 5000))
    before = held(wire.send(opening()))
    assert held(wire.send(sent(headers(1, asking())) + data[:1000])) > before + 1000
    # The server resets the stream in the middle of a frame.
    assert held(wire.recv(sent(SettingsFrame(0), RstStreamFrame(1, 8)))) == before
    assert held(wire.send(data[1000:])) == before
    assert held(wire.send(sent(headers(3, asking(), "END_STREAM")))) > before
    assert held(wire.recv(sent(headers(3, answering(), "END_STREAM")))) == before


# ---- HPACK


@pytest.mark.parametrize("block", [b"\xbe", b"\xff" * 9000 + b"\1"], ids=["index", "digits"])
def test_an_absurd_integer_is_an_error(block: bytes) -> None:
    with pytest.raises(BlockError, match="undecodable"):
        HeaderState(1000, joined=False).decode(block)


def test_a_value_whose_name_is_unknown_is_unknown() -> None:
    state = HeaderState(1000, joined=True)
    assert state.decode(b"\x82") == ([(b":method", b"GET")], False)
    assert state.decode(b"\x7e\1v") == ([], True)
    # Now it is named again; only its value was known before.
    assert state.decode(b"\xbe\x86") == ([(b":scheme", b"http")], True)
    assert state.decode(b"\x40\1n\1v\xbe\xbf\xc0") == ([(b"n", b"v"), (b"n", b"v")], True)


# ---- first seen mid-stream


def test_fields_since_the_start_of_the_capture_are_known() -> None:
    """Literal fields, those of the static table, and those added since then."""
    talk = Talk()
    for n in range(3):
        talk.exchange(f"/{n}")
    known = len(talk.turns)
    for n in (7, 1, 7):
        talk.exchange(f"/{n}", answer=b"a%d" % n)
    found = messages_of(talk.turns[known:], joined=True)
    assert [seen(m)[:4] for m in found] == [
        # /7 is a literal; /1 names an entry from before the capture.
        ("GET /7", 7, b"", ("unknown_header_state",)),
        ("200", 7, b"a7", ("unknown_header_state",)),
        ("GET", 9, b"", ("unknown_header_state",)),
        ("200", 9, b"a1", ("unknown_header_state",)),
        ("GET /7", 11, b"", ("unknown_header_state",)),
        ("200", 11, b"a7", ("unknown_header_state",)),
    ]
    assert found[0].head.fields.headers == {":method": "GET", ":scheme": "http", ":path": "/7"}
    assert [m.head.request.number for m in found if m.head.request] == [7, 7, 9, 9, 11, 11]


def test_unknown_fields_are_never_guessed() -> None:
    """Starting anywhere in a talk, each field in the result is one that was sent."""
    talk = Talk()
    sent_by: dict[tuple[int, str], dict[str, object]] = {}
    for n in range(12):
        talk.exchange(f"/{n % 4}", b"q" * (n % 3), b"a%d" % n, 200 + n % 5)
    for message in messages_of(talk.turns):
        head = message.head
        sent_by[head.stream or 0, head.type] = dict(head.fields.headers)
    for skipped in range(2, len(talk.turns)):
        found = messages_of(talk.turns[skipped:], joined=True)
        assert found or skipped > len(talk.turns) - 3
        for message in found:
            head = message.head
            true = sent_by[head.stream or 0, head.type]
            assert head.fields.headers.items() <= true.items()
            if head.fields.headers != true:
                assert message.incomplete == ("unknown_header_state",)


def test_a_capture_that_begins_inside_a_frame() -> None:
    talk = Talk()
    talk.client.send_headers(1, asking("/1", "POST"))
    talk.turn()
    talk.client.send_data(1, b"x" * 5000, end_stream=True)
    talk.turn()
    last = talk.turns.pop(-2) if isinstance(talk.turns[-1], Say) else talk.turns.pop()
    assert isinstance(last, Ask)
    talk.turns.clear()
    talk.exchange("/2")
    found = summary([Ask(last.data[2000:]), *talk.turns], joined=True)
    assert [m[:2] for m in found] == [("GET /2", 3), ("200", 3)]


def test_trailers_with_unknown_names_are_no_message() -> None:
    flags = ["END_HEADERS", "END_STREAM"]
    known = sent(HeadersFrame(3, b"\x88", flags=flags))
    trailers = sent(HeadersFrame(5, b"\xbe\xbf", flags=flags))
    assert [m[:2] for m in summary([Say(known), Say(trailers)], joined=True)] == [("200", 3)]
    assert summary([Say(trailers)], joined=True) == []
    # A block that does not end its stream cannot be trailers.
    begun = sent(HeadersFrame(7, b"\xbe\xbf", flags=["END_HEADERS"]))
    assert [m[:2] for m in summary([Say(known), Say(begun)], joined=True)][1:] == [("", 7)]


def test_settings_seen_mid_stream_do_not_identify_the_server() -> None:
    turns = [Ask(sent(SettingsFrame(0, {3: 9}))), Ask(sent(headers(7, asking("/7"))))]
    assert [m.head.type for m in messages_of(turns, joined=True)] == ["request"]


def test_another_protocol_seen_mid_stream_makes_no_message() -> None:
    turns: list[Turn] = [Ask(b"\0\0\0\0\x05hello"), Say(b"\0" * 100), Ask(b"\x16\x03\x01\0\5")]
    assert play(turns, joined=True) == []


def test_a_look_alike_seen_mid_stream_is_not_http() -> None:
    turns = [Ask(sent(PingFrame(0, b"12345678"))), Ask(b"\xff" * 20), Ask(b"\xff" * 20)]
    assert set(play(turns, joined=True)) == {NotHttp(SOCKET)}


def test_a_segment_in_the_middle_of_a_call_is_no_sure_start() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(BIG)
    data = sent(headers(1, asking("/1"), "END_STREAM"))
    chunks = [
        wire.send(data, flags=FLAG_JOINED | FLAG_CONTINUED),
        wire.send(data.replace(b"/1", b"/2"), flags=FLAG_JOINED),
    ]
    out = [m for c in chunks for e in streams.feed(c) for m in stage.feed(e)]
    assert [m.head.target for m in out if isinstance(m, Message)] == ["/2"]


def test_frames_read_in_two_calls_are_recognised_mid_stream() -> None:
    data = sent(headers(1, asking("/1"), "END_STREAM"))
    assert [m.start for m in summary([Ask(data[:9]), Ask(data[9:])], joined=True)] == ["GET /1"]


def test_a_preface_mid_stream_starts_a_new_connection() -> None:
    talk = Talk()
    talk.exchange("/a")
    assert summary(talk.turns, joined=True) == [
        Seen("GET /a", 1, number=1),
        Seen("200", 1, b"ok", number=1),
    ]


# ---- holes


def test_parsing_stays_in_sync_after_a_hole_inside_data() -> None:
    talk = Talk()
    talk.client.send_headers(1, asking("/1", "POST"))
    talk.client.send_data(1, b"0123456789" * 10)
    talk.client.send_data(1, b"end", end_stream=True)
    data = talk.client.data_to_send()
    at = data.index(b"0123456789") + 15
    turns = [*talk.turns, Ask(data[:at]), Lose(SEND, 40), Ask(data[at + 40 :])]
    (message,) = messages_of(turns)
    assert seen(message) == Seen("POST /1", 1, b"012345678901234", ("lost",), 1)
    assert message.bytes == len(data)
    assert message.raw == data[:at]


def test_a_hole_inside_a_head_leaves_the_other_streams_alone() -> None:
    talk = Talk()
    talk.client.send_headers(1, asking("/1", "POST"))
    first = talk.client.data_to_send()
    talk.client.send_headers(3, asking("/3-has-a-path", "POST"))
    hurt = talk.client.data_to_send()
    talk.client.send_data(3, b"three", end_stream=True)
    talk.client.send_data(1, b"one", end_stream=True)
    data = talk.client.data_to_send()
    turns = [*talk.turns, Ask(first + hurt[:15]), Lose(SEND, 3), Ask(hurt[18:] + data)]
    third, one = messages_of(turns)
    assert seen(third) == Seen("", 3, b"", ("lost",), 3)
    assert third.raw == hurt[:15]
    assert third.bytes == len(hurt) + 9 + 5
    assert seen(one) == Seen("POST /1", 1, b"one", number=1)


def test_a_hole_between_frames_drops_open_streams() -> None:
    talk = Talk()
    for stream in (1, 3):
        talk.client.send_headers(stream, asking(f"/{stream}", "POST"))
        talk.client.send_data(stream, b"begun")
    talk.turn()
    begun = len(talk.turns)
    talk.client.send_data(1, b"lost", end_stream=True)
    talk.turn()
    hole = talk.turns[begun]
    assert isinstance(hole, Ask)
    rest = talk.turns[begun + 1 :]
    talk.turns.clear()
    talk.exchange("/5")
    turns = [*talk.turns[:0], *first_turns(begun), Lose(SEND, len(hole.data)), *rest, *talk.turns]
    found = summary(turns)
    assert found[:2] == [
        Seen("POST /1", 1, b"begun", ("lost",), 1),
        Seen("POST /3", 3, b"begun", ("lost",), 3),
    ]
    # Whether the hole contained a block is unknown, so the table's content is too.
    assert found[2][:4] == ("GET /5", 5, b"", ("unknown_header_state",))
    assert found[3][:4] == ("200", 5, b"ok", ())


def first_turns(count: int) -> list[Turn]:
    talk = Talk()
    for stream in (1, 3):
        talk.client.send_headers(stream, asking(f"/{stream}", "POST"))
        talk.client.send_data(stream, b"begun")
    talk.turn()
    return talk.turns[:count]


def test_a_response_that_crosses_a_reset_has_its_request() -> None:
    reset = opening(headers(1, asking("/1"), "END_STREAM"), RstStreamFrame(1, 8))
    answer = headers(1, answering()), DataFrame(1, b"late", flags=["END_STREAM"])
    assert summary([Ask(reset), Say(sent(SettingsFrame(0), *answer))]) == [
        Seen("GET /1", 1, number=1),
        unanswered(1, "reset", "CANCEL"),
        Seen("200", 1, b"late", number=1),
    ]


def test_requests_of_reset_streams_take_bounded_memory() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(BIG)
    held = []
    for n in range(300):
        stream = 2 * n + 1
        frames = headers(stream, asking("/"), "END_STREAM"), RstStreamFrame(stream, 8)
        data = sent(*frames) if n else opening(*frames)
        for event in streams.feed(wire.send(data)):
            stage.feed(event)
        held.append(stage.held(SOCKET))
    assert held[50] < held[100] == held[299]


def test_a_hole_in_a_reset_is_a_reset() -> None:
    data = opening(headers(1, asking("/1")), RstStreamFrame(1, 8))
    turns = [Ask(data[:-2]), Lose(SEND, 2), Ask(sent(WindowUpdateFrame(0, 1)))]
    assert summary(turns) == [Seen("GET /1", 1, b"", ("reset",), 1), unanswered(1, "reset")]


def test_parsing_resumes_after_a_hole_beyond_a_data_frame() -> None:
    data = opening(headers(1, asking("/1")), DataFrame(1, b"0123456789"))
    turns = [Ask(data[:-5]), Lose(SEND, 30), Ask(b"tail"), Ask(sent(headers(5, asking("/5"))))]
    first, second = messages_of(turns)
    assert seen(first) == Seen("GET /1", 1, b"01234", ("lost",), 1)
    assert first.bytes == len(data) - len(opening())
    assert second.head.target == "/5"


def numbered(talk: Talk, n: int) -> None:
    """Exchange ``n``, with its number in every part."""
    body = b"%d " % n * 9
    stream = talk.client.get_next_available_stream_id()
    talk.client.send_headers(stream, [*asking(f"/{n}", "POST"), ("n", str(n))])
    talk.client.send_data(stream, body, end_stream=True)
    talk.turn()
    talk.server.send_headers(stream, [*answering(200 + n), ("n", str(n))])
    talk.server.send_data(stream, body)
    talk.turn()
    talk.server.send_data(stream, body)
    if n % 2:
        talk.server.send_headers(stream, [("n", str(n))], end_stream=True)
    else:
        talk.server.end_stream(stream)
    talk.turn()


def numbers() -> list[Turn]:
    talk = Talk()
    for n in range(1, 7):
        numbered(talk, n % 4)
    return talk.turns


NUMBERS = numbers()


@settings(max_examples=300, deadline=None)
@given(data=st.data(), joined=st.booleans(), ended=st.booleans())
def test_holes_never_mix_messages(data: st.DataObject, joined: bool, ended: bool) -> None:
    pieces = [piece for turn in NUMBERS for piece in split(turn, data)]
    holes = data.draw(st.sets(st.integers(0, len(pieces) - 1), max_size=4))
    skipped = data.draw(st.integers(0, len(pieces) // 2)) if joined else 0
    turns: list[Turn] = [
        Lose(SEND if isinstance(piece, Ask) else RECV, len(piece.data))
        if index in holes and isinstance(piece, (Ask, Say))
        else piece
        for index, piece in enumerate(pieces)
    ]
    ends = [Close(RECV), Close(SEND)] if ended else []
    for message in messages_of([*turns[skipped:], *ends], joined=joined):
        # Each one was answered, whether that was seen or not.
        assert "no_response" not in message.incomplete
        head = message.head
        number = str(((head.stream or 0) // 2 + 1) % 4)
        assert set(message.body.decode().split()) <= {number}
        assert head.fields.headers.get("n", number) == number
        assert (head.target or "/" + number) == "/" + number
        assert (head.status or 200 + int(number)) == 200 + int(number)
        if message.trailers is not None:
            assert message.trailers.headers.get("n", number) == number
        if head.request is not None:
            assert (head.request.target or "/" + number) == "/" + number
        if not message.incomplete:
            assert message.bytes == len(message.raw)
            assert head.fields.headers["n"] == number
            assert message.body.decode().split() in ([number] * 9, [number] * 18)
        assert len(message.raw) <= message.bytes


FRAGMENTS = st.sampled_from(
    [
        PREFACE,
        sent(SettingsFrame(0, {1: 0})),
        sent(headers(1, asking("/1"))),
        sent(headers(1, asking("/1"), "END_STREAM")),
        sent(headers(1, answering())),
        sent(headers(1, [("n", "1")], "END_STREAM")),
        sent(HeadersFrame(3, b"\xbe\xbf\x82", flags=["END_HEADERS"])),
        sent(HeadersFrame(3, b"\x40\1a\1b", flags=[])),
        sent(ContinuationFrame(3, b"\x3f\xff\xff\x03", flags=["END_HEADERS"])),
        sent(PushPromiseFrame(1, 2, b"\x82\x84", flags=["END_HEADERS"])),
        sent(DataFrame(1, b"abc", flags=["END_STREAM"])),
        sent(DataFrame(1, b"abc", pad_length=5, flags=["PADDED"])),
        sent(RstStreamFrame(1, 8), GoAwayFrame(0, 1, 2, b"x"), PingFrame(0, b"12345678")),
        b"\0\0\0\1\x0c\0\0\0\1",
        b"\0\0\2\5\4\0\0\0\1ab",
        b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
    ]
)
BYTES = st.one_of(st.binary(max_size=40), FRAGMENTS, st.lists(FRAGMENTS).map(b"".join))
ANYTHING = st.lists(
    st.one_of(
        st.builds(Ask, BYTES),
        st.builds(Say, BYTES),
        st.builds(Lose, st.sampled_from([SEND, RECV]), st.integers(0, 50)),
        st.builds(Close, st.sampled_from([SEND, RECV])),
    ),
    max_size=30,
)


@settings(max_examples=1000, deadline=None)
@given(ANYTHING, st.booleans(), st.sampled_from([None, 1, 5]))
def test_nothing_raises_and_every_message_is_sound(
    turns: list[Turn], joined: bool, cut: int | None
) -> None:
    for message in messages_of(
        [Ask(PREFACE), *turns], cut, joined, settings=Settings(max_head=100, max_body=20)
    ):
        assert len(message.raw) <= min(message.bytes, 120)
        assert message.incomplete or message.bytes == len(message.raw)
        assert message.last_time >= message.origin.time
