# SPDX-License-Identifier: Apache-2.0
"""The HTTP stage, as scripts: what the two sides send, and the messages that must result.

A script is a list of turns. Each is replayed whole (a turn is a chunk), byte by byte, and,
with hypothesis, in any split: the messages must be the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.ingest.http import Message, Messages, NotHttp
from profiler.ingest.http.connection import INFLIGHT_MAX, Connection
from profiler.ingest.http.fields import CHUNKED, FAULTY, UNTIL_CLOSE, parse_fields
from profiler.ingest.http.framing import switches_to
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Streams
from profiler.ingest.wire import (
    FLAG_AFTER_LOSS,
    FLAG_CONTINUED,
    FLAG_JOINED,
    FLAG_LIMIT,
    RECV,
    SEND,
    Chunk,
    End,
)
from tests.unit.turns import Ask, Close, Lose, Say, Turn, play, split
from tests.unit.wires import SOCKET, Wire, chunk

SETTINGS = Settings(max_head=1024, max_body=256)


class Seen(NamedTuple):
    """A message without what depends on how the stream was cut."""

    start: str
    body: bytes = b""
    incomplete: tuple[str, ...] = ()
    number: int | None = None
    bytes: int | None = None
    raw: bytes | None = None


def seen(message: Message) -> Seen:
    head = message.head
    what = (head.method, head.target) if head.type == "request" else (head.status, head.reason)
    start = " ".join(str(part) for part in what if part)
    number = head.request.number if head.request else None
    return Seen(start, message.body, message.incomplete, number, message.bytes, message.raw)


def messages_of(
    turns: Iterable[Turn], cut: int | None = None, settings: Settings = SETTINGS
) -> list[Seen]:
    played = play(turns, cut, settings)
    return [seen(message) for message in played if isinstance(message, Message)]


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# The client reads the end of the stream, and closes; it closes before that end.
ENDS = [Close(RECV), Close(SEND)]
CLOSES = [Close(SEND), Close(RECV)]


def whole(start: str, raw: bytes, body: bytes = b"", number: int | None = 1) -> Seen:
    return Seen(start, body, (), number, len(raw), raw)


def unanswered(number: int, reason: str = "closed_early") -> Seen:
    return Seen("", b"", ("no_response", reason), number, 0, b"")


CONNECT = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"
HEAD = b"HEAD /h HTTP/1.1\r\n\r\n"
OPTIONS = b"OPTIONS * HTTP/1.1\r\n\r\n"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
BAD = OK.replace(b"200 OK", b"400 Bad")


def faulty(start: str, raw: bytes, *reasons: str, number: int | None = 1) -> Seen:
    return Seen(start, b"", reasons or ("undecodable",), number, len(raw), raw)


CASES: dict[str, tuple[list[Turn], list[Seen]]] = {
    **{
        f"{name}: a first request that its answer shows": (
            [Ask(data), Say(BAD), *ENDS],
            [faulty(start, data), whole("400 Bad", BAD, b"ok")],
        )
        for name, start, data in [
            ("no minor version", "GET /", b"GET / HTTP/1.\r\nHost: a\r\n\r\n"),
            ("no version", "GET /", b"GET /\r\n\r\n"),
            ("no target", "GET", b"GET \r\n\r\n"),
            ("a method that is no token", "", b"G(T / HTTP/1.1\r\n\r\n"),
            ("HTTP/2.0", "GET /", b"GET / HTTP/2.0\r\n\r\n"),
            ("TLS", "", TLS),
            ("a PROXY line that breaks the rules", "PROXY TCP4", b"PROXY TCP4 x\r\n"),
        ]
    },
    "a first request that breaks the rules, its end, and then the answer": (
        [Ask(b"GET /\r\n\r\n"), Close(SEND), Say(BAD), Close(RECV)],
        [faulty("GET /", b"GET /\r\n\r\n"), whole("400 Bad", BAD, b"ok")],
    ),
    "a banner before the first request": (
        [Say(b"220 ready\r\n"), Ask(GET), *ENDS],
        [whole("GET /", GET)],
    ),
    "HTTP/2's preface inside a line": (
        [Ask(b"GET /a"), Ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Say(BAD), *ENDS],
        [
            faulty("GET /aPRI", b"GET /aPRI * HTTP/2.0\r\n\r\n"),
            whole("400 Bad", BAD, b"ok"),
        ],
    ),
    "a later request line that breaks the rules": (
        [Ask(GET), Say(OK), Ask(b"GET /b\r\nA: b\r\n\r\n"), Say(BAD)],
        [
            whole("GET /", GET),
            whole("200 OK", OK, b"ok"),
            faulty("GET /b", b"GET /b\r\nA: b\r\n\r\n", number=2),
            whole("400 Bad", BAD, b"ok", 2),
        ],
    ),
    "a later one that is cut off": (
        [Ask(GET), Say(OK), Ask(b"GET /b\r\nA:"), *ENDS],
        [
            whole("GET /", GET),
            whole("200 OK", OK, b"ok"),
            faulty("GET /b", b"GET /b\r\nA:", "undecodable", "closed_early", number=2),
            unanswered(2),
        ],
    ),
    **{
        f"a status line that is read leniently: {line!r}": (
            [Ask(GET), Say(line + OK[15:]), Ask(GET), Say(EMPTY)],
            [
                whole("GET /", GET),
                whole(start, line + OK[15:], b"ok"),
                whole("GET /", GET, b"", 2),
                whole("204 No Content", EMPTY, b"", 2),
            ],
        )
        for line, start in [
            (b"HTTP/1.1 200ok", "200 ok"),
            (b"http/1.1 200 OK", "200 OK"),
            (b"HTTP/1.1\t200 OK", "200 OK"),
            (b"HTTP/1.1 200 O\rK", "200 O K"),
            (b"HTTP/1.1 000 ok", "ok"),
        ]
    },
    **{
        f"a status line that breaks the rules: {line!r}": (
            [Ask(GET), Say(line + b"\r\nA: b\r\n\r\n"), *ENDS],
            [whole("GET /", GET), faulty(start, line + b"\r\nA: b\r\n\r\n")],
        )
        for line, start in [
            (b"HTTP/1.10 200 OK", "200 OK"),
            (b"HTTP/2.0 200 OK", "200 OK"),
            (b"HTTP/1.1 2000 OK", ""),
            (b"HTTP/1.1 20 OK", ""),
            (b"HTTP/1.1 2x0 OK", ""),
            (b"HTTP/1.1", ""),
            (b"HTTP/", ""),
        ]
    },
    "request and response": (
        [Ask(GET), Say(OK)],
        [whole("GET /", GET), whole("200 OK", OK, b"ok")],
    ),
    "keep-alive": (
        [Ask(GET), Say(OK), Ask(POST), Say(EMPTY)],
        [
            whole("GET /", GET),
            whole("200 OK", OK, b"ok"),
            whole("POST /p", POST, b"hello", 2),
            whole("204 No Content", EMPTY, b"", 2),
        ],
    ),
    "pipelining": (
        [Ask(GET + POST + GET), Say(OK + EMPTY + OK)],
        [
            whole("GET /", GET, b"", 1),
            whole("POST /p", POST, b"hello", 2),
            whole("GET /", GET, b"", 3),
            whole("200 OK", OK, b"ok", 1),
            whole("204 No Content", EMPTY, b"", 2),
            whole("200 OK", OK, b"ok", 3),
        ],
    ),
    "a response before its request is complete": (
        [Ask(POST[:-2]), Say(OK), Ask(POST[-2:])],
        [whole("200 OK", OK, b"ok"), whole("POST /p", POST, b"hello")],
    ),
    "an answer to HEAD has no body": (
        [Ask(HEAD), Say(OK[:-2]), Ask(GET), Say(OK)],
        [
            whole("HEAD /h", HEAD),
            whole("200 OK", OK[:-2]),
            whole("GET /", GET, b"", 2),
            whole("200 OK", OK, b"ok", 2),
        ],
    ),
    "304 has no body, whatever its length says": (
        [Ask(GET), Say(OK[:-2].replace(b"200 OK", b"304 X")), Ask(GET), Say(OK)],
        [
            whole("GET /", GET),
            whole("304 X", OK[:-2].replace(b"200 OK", b"304 X")),
            whole("GET /", GET, b"", 2),
            whole("200 OK", OK, b"ok", 2),
        ],
    ),
    "interim responses belong to the exchange and do not end it": (
        [
            Ask(GET),
            Say(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
            Say(b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
        ],
        [
            whole("GET /", GET),
            whole("103 Early Hints", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
            whole("100 Continue", b"HTTP/1.1 100 Continue\r\n\r\n"),
            whole("200 OK", OK, b"ok"),
        ],
    ),
    "chunked, with extensions and trailers": (
        [
            Ask(GET),
            Say(CHUNKED_OK + b'3;a="b"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\nZ: z\r\n\r\n'),
            Ask(GET),
            Say(OK),
        ],
        [
            whole("GET /", GET),
            whole(
                "200 OK",
                CHUNKED_OK + b'3;a="b"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\nZ: z\r\n\r\n',
                b"abc0123456789",
            ),
            whole("GET /", GET, b"", 2),
            whole("200 OK", OK, b"ok", 2),
        ],
    ),
    "Transfer-Encoding wins over Content-Length": (
        [
            Ask(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Ask(b"1\r\nx\r\n0\r\n\r\n" + GET),
        ],
        [
            whole(
                "POST /",
                b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\nx\r\n0\r\n\r\n",
                b"x",
            ),
            whole("GET /", GET, b"", 2),
        ],
    ),
    "until the close": (
        [Ask(GET), Say(b"HTTP/1.0 200 OK\r\n\r\nall"), Say(b" of it"), *ENDS],
        [
            whole("GET /", GET),
            whole("200 OK", b"HTTP/1.0 200 OK\r\n\r\nall of it", b"all of it"),
        ],
    ),
    "the same Content-Length twice": (
        [Ask(POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\ncontent-length: 5, 5"))],
        [
            whole(
                "POST /p",
                POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\ncontent-length: 5, 5"),
                b"hello",
            )
        ],
    ),
    "blanks behind the version": (
        [Ask(b"GET /x HTTP/1.1 \t\r\n\r\n")],
        [whole("GET /x", b"GET /x HTTP/1.1 \t\r\n\r\n")],
    ),
    "a request that would last until the close": (
        [Ask(b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nx"), *ENDS],
        [
            Seen(
                "POST /",
                b"",
                ("undecodable",),
                1,
                44,
                b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            ),
            unanswered(1),
        ],
    ),
    "contradicting lengths": (
        [Ask(POST.replace(b": 5", b": 5\r\nContent-Length: 6"))],
        [
            Seen(
                "POST /p",
                b"",
                ("undecodable",),
                1,
                len(POST) + 14,
                POST[:-5].replace(b": 5", b": 5\r\nContent-Length: 6"),
            )
        ],
    ),
    "a broken chunk size": (
        [Ask(GET), Say(CHUNKED_OK + b"2\r\nab\r\nxyz\r\n")],
        [
            whole("GET /", GET),
            Seen(
                "200 OK",
                b"ab",
                ("undecodable",),
                1,
                len(CHUNKED_OK) + 8,
                CHUNKED_OK + b"2\r\nab\r\nx",
            ),
        ],
    ),
    "chunk data that is too long": (
        [Ask(GET), Say(CHUNKED_OK + b"2\r\nabc\r\n0\r\n\r\n")],
        [
            whole("GET /", GET),
            Seen(
                "200 OK", b"ab", ("undecodable",), 1, len(CHUNKED_OK) + 6, CHUNKED_OK + b"2\r\nabc"
            ),
        ],
    ),
    "empty lines before a start line": (
        [Ask(b"\r\n\n" + GET + b"\r\n\r\n" + GET)],
        [whole("GET /", GET), whole("GET /", GET, b"", 2)],
    ),
    "bare LF": (
        [Ask(b"GET /x HTTP/1.1\nHost: a\n\n"), Say(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")],
        [
            whole("GET /x", b"GET /x HTTP/1.1\nHost: a\n\n"),
            whole("200 OK", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"ok"),
        ],
    ),
    "no reason, no fields": (
        [Ask(b"GET /x HTTP/1.0\r\n\r\n"), Say(b"HTTP/1.1 404\r\nContent-Length:0\r\n\r\n")],
        [
            whole("GET /x", b"GET /x HTTP/1.0\r\n\r\n"),
            whole("404", b"HTTP/1.1 404\r\nContent-Length:0\r\n\r\n"),
        ],
    ),
    "any method and form of target": (
        [
            Ask(OPTIONS),
            Ask(b"X-!pur_ge http://h/p?q HTTP/1.1\r\n\r\n"),
            Ask("GET /a b/\u00e4 HTTP/1.1\r\n\r\n".encode()),
        ],
        [
            whole("OPTIONS *", OPTIONS),
            whole("X-!pur_ge http://h/p?q", b"X-!pur_ge http://h/p?q HTTP/1.1\r\n\r\n", b"", 2),
            whole("GET /a b/\u00e4", "GET /a b/\u00e4 HTTP/1.1\r\n\r\n".encode(), b"", 3),
        ],
    ),
    "CONNECT ends HTTP when it is granted": (
        [Ask(CONNECT), Say(b"HTTP/1.1 200 Yes\r\n\r\n"), Ask(GET), Say(OK)],
        [whole("CONNECT a:443", CONNECT), whole("200 Yes", b"HTTP/1.1 200 Yes\r\n\r\n")],
    ),
    "CONNECT that is refused does not": (
        [Ask(CONNECT), Say(OK.replace(b"200 OK", b"407 No")), Ask(GET), Say(OK)],
        [
            whole("CONNECT a:443", CONNECT),
            whole("407 No", OK.replace(b"200 OK", b"407 No"), b"ok"),
            whole("GET /", GET, b"", 2),
            whole("200 OK", OK, b"ok", 2),
        ],
    ),
    "101 ends HTTP": (
        [Ask(GET), Say(b"HTTP/1.1 101 Switching\r\n\r\n" + OK), Ask(GET), Say(OK)],
        [whole("GET /", GET), whole("101 Switching", b"HTTP/1.1 101 Switching\r\n\r\n")],
    ),
    "a body beyond max_body is counted, and the next message is right": (
        [
            Ask(b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000 + GET),
        ],
        [
            Seen(
                "PUT /",
                b"x" * 256,
                ("body_limit",),
                1,
                1040,
                b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + b"x" * 256,
            ),
            whole("GET /", GET, b"", 2),
        ],
    ),
    "a chunked body beyond max_body": (
        [Ask(GET), Say(CHUNKED_OK + b"12c\r\n" + b"y" * 300 + b"\r\n0\r\n\r\n"), Ask(GET), Say(OK)],
        [
            whole("GET /", GET),
            Seen(
                "200 OK",
                b"y" * 251,
                ("body_limit",),
                1,
                len(CHUNKED_OK) + 312,
                CHUNKED_OK + b"12c\r\n" + b"y" * 251,
            ),
            whole("GET /", GET, b"", 2),
            whole("200 OK", OK, b"ok", 2),
        ],
    ),
    "until the close, which the process does not wait for": (
        [Ask(GET), Say(b"HTTP/1.0 200 OK\r\n\r\nsome"), *CLOSES],
        [
            whole("GET /", GET),
            Seen("200 OK", b"some", ("closed_early",), 1, 23, b"HTTP/1.0 200 OK\r\n\r\nsome"),
        ],
    ),
    "a request that is never answered": (
        [Ask(GET), *ENDS],
        [whole("GET /", GET), unanswered(1)],
    ),
    "the end of the capture is no end of the connection": ([Ask(GET)], [whole("GET /", GET)]),
    "responses end, requests go on": (
        [Ask(GET), Close(RECV), Ask(HEAD), Close(SEND)],
        [whole("GET /", GET), unanswered(1), whole("HEAD /h", HEAD, b"", 2), unanswered(2)],
    ),
    "only a final response answers": (
        [Ask(GET), Say(b"HTTP/1.1 100 Continue\r\n\r\n"), *ENDS],
        [
            whole("GET /", GET),
            whole("100 Continue", b"HTTP/1.1 100 Continue\r\n\r\n"),
            unanswered(1),
        ],
    ),
    "the last two of three pipelined requests are never answered": (
        [Ask(GET + POST + GET), Say(OK[:-1]), *ENDS],
        [
            whole("GET /", GET),
            whole("POST /p", POST, b"hello", 2),
            whole("GET /", GET, b"", 3),
            Seen("200 OK", b"o", ("closed_early",), 1, len(OK) - 1, OK[:-1]),
            unanswered(2),
            unanswered(3),
        ],
    ),
    "the beginning of a status line is no response": (
        [Ask(GET), Say(OK[:9]), *ENDS],
        [whole("GET /", GET), unanswered(1)],
    ),
    "the beginning of a head is one": (
        [Ask(GET), Say(OK[:19]), *ENDS],
        [whole("GET /", GET), Seen("200 OK", b"", ("closed_early",), 1, 19, OK[:19])],
    ),
    "a response that was lost may have answered": (
        [Ask(GET), Lose(RECV, 50), *ENDS],
        [whole("GET /", GET)],
    ),
    "nor is what cannot be read an answer that did not come": (
        [Ask(GET), Say(b"\0\1\2"), *ENDS],
        [whole("GET /", GET)],
    ),
    "a body cut off by the close": (
        [Ask(POST[:-2]), *ENDS],
        [unanswered(1), Seen("POST /p", b"hel", ("closed_early",), 1, len(POST) - 2, POST[:-2])],
    ),
    "a chunked body cut off inside a size line": (
        [Ask(GET), Say(CHUNKED_OK + b"2\r\nab\r\n1"), *ENDS],
        [
            whole("GET /", GET),
            Seen(
                "200 OK",
                b"ab",
                ("closed_early",),
                1,
                len(CHUNKED_OK) + 8,
                CHUNKED_OK + b"2\r\nab\r\n1",
            ),
        ],
    ),
    "a head cut off by the close": (
        [Ask(b"GET /cut HTTP/1.1\r\nHost: a\r\nAcc"), *ENDS],
        [
            Seen("GET /cut", b"", ("closed_early",), 1, 31, b"GET /cut HTTP/1.1\r\nHost: a\r\nAcc"),
            unanswered(1),
        ],
    ),
    "a start line cut off is not sure to be HTTP": ([Ask(b"GET /cut HTTP/1"), *ENDS], []),
    "a response until the close, open at the end of the capture": (
        [Say(b"HTTP/1.1 200 OK\r\n\r\npart")],
        [
            Seen(
                "200 OK",
                b"part",
                ("closed_early",),
                None,
                23,
                b"HTTP/1.1 200 OK\r\n\r\npart",
            )
        ],
    ),
    "a response whose request was not seen": (
        [Say(OK), Ask(GET), Say(EMPTY)],
        [
            whole("200 OK", OK, b"ok", None),
            whole("GET /", GET),
            whole("204 No Content", EMPTY),
        ],
    ),
    "a hole inside a body of known length": (
        [Ask(POST[:-4]), Lose(SEND, 3), Ask(b"o" + GET), Say(OK + EMPTY)],
        [
            Seen("POST /p", b"h", ("lost",), 1, len(POST), POST[:-4]),
            whole("GET /", GET, b"", 2),
            whole("200 OK", OK, b"ok", 1),
            whole("204 No Content", EMPTY, b"", 2),
        ],
    ),
    "a hole up to the end of a body": (
        [Ask(POST[:-4]), Lose(SEND, 4), Ask(GET)],
        [
            Seen("POST /p", b"h", ("lost",), 1, len(POST), POST[:-4]),
            whole("GET /", GET, b"", 2),
        ],
    ),
    "a hole inside chunk data": (
        [Ask(GET), Say(CHUNKED_OK + b"5\r\nab"), Lose(RECV, 2), Say(b"e\r\n0\r\n\r\n" + OK)],
        [
            whole("GET /", GET),
            Seen("200 OK", b"ab", ("lost",), 1, len(CHUNKED_OK) + 15, CHUNKED_OK + b"5\r\nab"),
            whole("200 OK", OK, b"ok", None),
        ],
    ),
    "a hole in a body until the close": (
        [Ask(GET), Say(b"HTTP/1.0 200 OK\r\n\r\nab"), Lose(RECV, 9), Say(b"cd"), *ENDS],
        [
            whole("GET /", GET),
            Seen("200 OK", b"ab", ("lost",), 1, 32, b"HTTP/1.0 200 OK\r\n\r\nab"),
        ],
    ),
}

IN_ANY_SPLIT = [pytest.param(*case, id=name) for name, case in CASES.items()]


@pytest.mark.parametrize(("turns", "expected"), IN_ANY_SPLIT)
def test_whole(turns: list[Turn], expected: list[Seen]) -> None:
    assert messages_of(turns) == expected


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
@pytest.mark.parametrize(("turns", "expected"), IN_ANY_SPLIT)
def test_byte_by_byte(turns: list[Turn], expected: list[Seen], cut: int) -> None:
    assert messages_of(turns, cut) == expected


@settings(max_examples=25)
@pytest.mark.parametrize(("turns", "expected"), IN_ANY_SPLIT)
@given(data=st.data())
def test_any_split(turns: list[Turn], expected: list[Seen], data: st.DataObject) -> None:
    assert messages_of(piece for turn in turns for piece in split(turn, data)) == expected


# ---- holes after which the reader must start again


def test_parsing_resumes_after_a_hole_in_a_chunked_body() -> None:
    turns = [
        Ask(GET),
        Say(CHUNKED_OK + b"2\r\nab"),
        Lose(RECV, 50),
        Say(b"c\r\n0\r\n\r\n"),
        Ask(GET),
        Say(OK),
        Ask(GET),
        Say(OK),
    ]
    assert messages_of(turns) == [
        whole("GET /", GET),
        Seen("200 OK", b"ab", ("lost",), 1, len(CHUNKED_OK) + 5, CHUNKED_OK + b"2\r\nab"),
        whole("GET /", GET, b"", 2),
        # A request after the last unknown bytes was not answered in them.
        whole("200 OK", OK, b"ok", 2),
        whole("GET /", GET, b"", 3),
        whole("200 OK", OK, b"ok", 3),
    ]


def test_a_hole_in_a_head_keeps_the_known_part() -> None:
    turns = [Ask(GET[:-6]), Lose(SEND, 6), Say(EMPTY), Ask(GET), Say(OK)]
    assert messages_of(turns) == [
        # The hole only shows with the next request: the response came before it.
        whole("204 No Content", EMPTY, b"", None),
        Seen("GET /", b"", ("lost",), 1, len(GET) - 6, GET[:-6]),
        whole("GET /", GET, b"", 2),
        whole("200 OK", OK, b"ok", 2),
    ]


def test_parsing_resumes_after_a_hole_beyond_a_body() -> None:
    turns = [Ask(POST[:-4]), Lose(SEND, 30), Ask(b"tail of another"), Ask(GET)]
    assert messages_of(turns) == [
        Seen("POST /p", b"h", ("lost",), 1, len(POST), POST[:-4]),
        whole("GET /", GET, b"", 2),
    ]


def test_a_hole_of_unknown_size_ends_the_message() -> None:
    turns = [Ask(POST[:-4]), Lose(SEND, None), Ask(b"ello"), Ask(GET)]
    assert messages_of(turns) == [
        Seen("POST /p", b"h", ("lost",), 1, len(POST) - 4, POST[:-4]),
        whole("GET /", GET, b"", 2),
    ]


def test_responses_after_a_hole_get_no_wrong_request() -> None:
    turns = [Ask(GET + POST), Lose(RECV, 0), Say(b"HTTP/1.1 200"), Lose(RECV, 9), Say(EMPTY)]
    assert [(m.start, m.number) for m in messages_of(turns)] == [
        ("GET /", 1),
        ("POST /p", 2),
        ("204 No Content", None),
    ]


def test_requests_pipelined_across_a_hole_get_no_wrong_response() -> None:
    turns = [Ask(GET), Lose(SEND, 40), Ask(POST), Say(OK + EMPTY), Ask(GET), Say(OK)]
    assert [(m.start, m.number) for m in messages_of(turns)] == [
        ("GET /", 1),
        ("POST /p", 2),
        ("200 OK", 1),
        ("204 No Content", None),
        ("GET /", 3),
        ("200 OK", None),
    ]


def test_a_hole_may_contain_pipelined_requests() -> None:
    turns = [Ask(GET + GET), Say(OK + OK), Lose(SEND, len(GET)), Ask(POST), Say(OK), Say(EMPTY)]
    assert [m.number for m in messages_of(turns) if m.start[0] in "02"][-2:] == [None, None]


def test_a_call_limit_inside_a_body_is_named() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    first = wire.send(POST[:-4], size=len(POST), flags=FLAG_LIMIT)
    out = [m for item in (first, wire.send(GET)) for e in streams.feed(item) for m in stage.feed(e)]
    assert [seen(m) for m in out if isinstance(m, Message)] == [
        Seen("POST /p", b"h", ("body_limit",), 1, len(POST), POST[:-4]),
        whole("GET /", GET, b"", 2),
    ]


def test_a_direction_that_begins_in_a_body_is_skipped_until_a_start_line() -> None:
    turns = [Ask(GET), Say(b"rest of a body"), Say(b" and more"), Say(OK)]
    assert messages_of(turns) == [whole("GET /", GET), whole("200 OK", OK, b"ok", None)]


def test_a_stream_that_begins_with_a_loss_is_not_taken_for_something_else() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    items = [wire.send(b"\x00\x01 tail", flags=FLAG_AFTER_LOSS), wire.send(GET)]
    out = [m for item in items for event in streams.feed(item) for m in stage.feed(event)]
    assert [seen(m) for m in out if isinstance(m, Message)] == [whole("GET /", GET)]
    assert len(out) == 1


@pytest.mark.parametrize("cut", [None, 1, 5])
@pytest.mark.parametrize("separate", [True, False])
def test_an_unseen_request_may_have_been_head(separate: bool, cut: int | None) -> None:
    bodiless = OK[:-2]
    turns = [Say(bodiless), Say(EMPTY)] if separate else [Say(bodiless + EMPTY)]
    assert messages_of(turns, cut) == [
        whole("200 OK", bodiless, b"", None),
        whole("204 No Content", EMPTY, b"", None),
    ]


def test_a_client_that_expects_100_may_not_send_its_body() -> None:
    expect = POST[:-5].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    refused = b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"
    granted = b"HTTP/1.1 100 Continue\r\n\r\n"
    for cut in (None, 1, 5):
        assert messages_of([Ask(expect), Say(refused), Ask(GET), Say(OK)], cut) == [
            whole("417 No", refused),
            whole("POST /p", expect),
            whole("GET /", GET, b"", 2),
            whole("200 OK", OK, b"ok", 2),
        ]
        # It may also send the body.
        assert messages_of([Ask(expect), Say(refused), Ask(b"hello"), Ask(GET)], cut) == [
            whole("417 No", refused),
            whole("POST /p", expect + b"hello", b"hello"),
            whole("GET /", GET, b"", 2),
        ]
        assert messages_of([Ask(expect), Say(granted), Ask(b"hello"), Say(OK)], cut) == [
            whole("100 Continue", granted),
            whole("POST /p", expect + b"hello", b"hello"),
            whole("200 OK", OK, b"ok"),
        ]


@pytest.mark.parametrize("end", ["finish", "gap"])
def test_a_body_that_begins_like_a_start_line_is_a_body_if_no_more_comes(end: str) -> None:
    raw = OK[:-2] + b"HT"
    more: list[Turn] = [] if end == "finish" else [Lose(RECV, 9), Say(EMPTY)]
    assert messages_of([Say(raw), *more])[0] == whole("200 OK", raw, b"HT", None)


# ---- what is not HTTP

LOOK_ALIKES = {
    "no version": b"GET /\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"RTSP/1.0 200 OK\r\n\r\n",
    "a request of another protocol": b"DESCRIBE /x RTSP/1.0\r\n\r\n",
    "memcached": b"get /key\r\n",
    "FTP": b"CWD /pub\r\n",
    "a long line without version": b"GET /" + b"x" * 100 + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a method that is no token": b"G(T / HTTP/1.1\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "a start line without end": b"GET /" + b"x" * 2000,
    "a start line beyond the limit": b"GET /" + b"x" * 1024 + b" HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("cut", [None, 1, 5])
@pytest.mark.parametrize("data", LOOK_ALIKES.values(), ids=LOOK_ALIKES.keys())
def test_non_http_is_reported_without_a_message(data: bytes, cut: int | None) -> None:
    turns = [Ask(data), Ask(data), Say(data), Ask(GET), Say(OK)]
    assert set(play(turns, cut, SETTINGS)) == {NotHttp(SOCKET)}


def test_a_binary_protocol_is_recognised_by_its_first_bytes() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    items = [wire.send(b"\x16\x03"), wire.recv(b"\x16")]
    out = [m for item in items for e in streams.feed(item) for m in stage.feed(e)]
    assert out == [NotHttp(SOCKET)]


def test_a_direction_that_is_no_http_is_not_followed_for_long() -> None:
    """Nothing comes in the other direction, which could show that it is HTTP."""
    assert play([Ask(b"\x16" * 1000)] * 1040, settings=SETTINGS) == []
    assert set(play([Ask(b"\x16" * 1000)] * 1060, settings=SETTINGS)) == {NotHttp(SOCKET)}


def test_a_connection_seen_mid_stream_may_begin_inside_a_body() -> None:
    """It is ignored until a message begins."""
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    pieces = [b"list /of things", b"\x00\x01", GET, GET]
    chunks = [wire.send(piece, flags=FLAG_JOINED) for piece in pieces]
    out = [m for c in chunks for e in streams.feed(c) for m in stage.feed(e)]
    assert [m.origin for m in out] == chunks[2:]


def test_a_line_that_no_field_follows_is_no_sure_start() -> None:
    """For example in an upload of a log."""
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    pieces = [b"GET / HTTP/1.1\r\n200 12 -\r\n", b"GET / HTTP/1.1\r\nHost", b": a\r\n\r\n"]
    chunks = [wire.send(piece, flags=FLAG_JOINED) for piece in pieces]
    out = [m for c in chunks for e in streams.feed(c) for m in stage.feed(e)]
    assert [m.origin.time for m in out] == [chunks[1].time]


@pytest.mark.parametrize(
    ("method", "is_sure"),
    [(b"GET", 1), (b"PURGE", 1), (b"PROPPATCH", 1), (b"89GET", 0), (b"ab.DELETE", 0)],
)
def test_the_end_of_a_body_before_a_method_is_no_sure_start(method: bytes, is_sure: int) -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    item = wire.send(method + b" / HTTP/1.1\r\n\r\n", flags=FLAG_JOINED)
    assert len([m for e in streams.feed(item) for m in stage.feed(e)]) == is_sure
    # If the beginning is known, any token is a method.
    assert len(play([Ask(method + b" / HTTP/1.1\r\n\r\n")])) == 1


def test_a_dropped_connection_resumes_like_one_seen_mid_stream() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)

    def feed(item: Chunk) -> list[Message | NotHttp]:
        return [m for event in streams.feed(item) for m in stage.feed(event)]

    assert feed(wire.send(POST[:-2])) == []
    (given_up,) = stage.give_up(SOCKET)
    streams.forget(SOCKET)
    assert isinstance(given_up, Message)
    raw = POST[:-2]
    assert seen(given_up) == Seen("POST /p", b"hel", ("memory_limit",), 1, len(raw), raw)
    assert (len(stage), stage.held(SOCKET)) == (0, 0)
    assert feed(wire.send(b"lo")) == []
    (following,) = feed(wire.send(GET))
    assert isinstance(following, Message)
    # Another id: the first one belongs to another exchange.
    assert seen(following) == whole("GET /", GET, b"", 2)


def test_a_segment_in_the_middle_of_a_call_is_no_sure_start() -> None:
    """A call sent "PO" and "ST / ...", and the first segment was lost."""
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    chunks = [
        wire.send(b"ST / HTTP/1.1\r\n\r\n", flags=FLAG_AFTER_LOSS | FLAG_CONTINUED),
        wire.send(GET),
    ]
    out = [m for c in chunks for e in streams.feed(c) for m in stage.feed(e)]
    assert [m.origin for m in out] == chunks[1:]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 101 S\r\n\r\n", b"HTTP/1.1 299 T\r\n\r\n"])
def test_a_protocol_switch_is_reported_after_its_message(answer: bytes) -> None:
    out = play([Ask(CONNECT), Say(answer + b"\x16\x03")])
    assert [type(item) for item in out] == [Message, Message, NotHttp]


@pytest.mark.parametrize(
    ("request_", "answer", "protocol"),
    [
        (GET, b"HTTP/1.1 101 S\r\nUpgrade: WebSocket\r\n\r\n", "websocket"),
        (GET, b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "h2c"),
        (GET, b"HTTP/1.1 101 S\r\n\r\n", ""),
        (CONNECT, b"HTTP/1.1 200 S\r\nContent-Length: 2\r\n\r\n", "tunnel"),
        (CONNECT, b"HTTP/1.1 404 S\r\nContent-Length: 0\r\n\r\n", None),
        (GET, b"HTTP/1.1 200 S\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", None),
    ],
)
def test_what_a_connection_switches_to(request_: bytes, answer: bytes, protocol: str) -> None:
    (_, response) = (m for m in play([Ask(request_), Say(answer)]) if isinstance(m, Message))
    assert switches_to(response.head) == protocol


def test_only_ascii_letters_of_a_name_have_a_case() -> None:
    block = "X-\u212aEY: a\r\n\u0130D: b\r\nX-KEY: c\r\n".encode()
    assert parse_fields(block).headers == {"x-\u212aey": "a", "\u0130d": "b", "x-key": "c"}


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("chunked", CHUNKED),
        ("gzip, Chunked", CHUNKED),
        ("chunked, chunked", CHUNKED),
        ("gzip", UNTIL_CLOSE),
        ("chunked, gzip", UNTIL_CLOSE),
        ("", None),
        (",", None),
        (";chunked", FAULTY),
        ("chun ked", FAULTY),
        ("\u212a, chunked", FAULTY),
    ],
)
def test_transfer_codings(value: str, length: int | None) -> None:
    fields = parse_fields(f"Transfer-Encoding: {value}\r\n".encode())
    assert fields.length == length


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("5", 5),
        ("0" * 5000 + "5", 5),
        ("0", 0),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, FAULTY),
        ("05, 5", 5),
        ("5, 6", FAULTY),
        ("+5", FAULTY),
        ("5.0", FAULTY),
        ("\u0665", FAULTY),
        ("", FAULTY),
    ],
)
def test_lengths(value: str, length: int) -> None:
    assert parse_fields(f"Content-Length: {value}\r\n".encode()).length == length


def test_trailers() -> None:
    raw = CHUNKED_OK + b"2\r\nab\r\n0\r\nX: y\r\n z\r\nx: 2\r\n\r\n"
    for cut in (None, 1):
        (message,) = (m for m in play([Say(raw)], cut) if isinstance(m, Message))
        assert message.trailers is not None
        assert message.trailers.headers == {"x": ["y z", "2"]}
        assert (message.raw, message.body) == (raw, b"ab")
    (message,) = play([Say(CHUNKED_OK + b"0\r\n\r\n")])
    assert isinstance(message, Message)
    assert message.trailers is None


def test_trailers_after_a_hole() -> None:
    turns = [Say(CHUNKED_OK + b"2\r\na"), Lose(RECV, 1), Say(b"\r\n0\r\nX: y\r\n\r\n")]
    (message,) = play(turns)
    assert isinstance(message, Message)
    assert message.trailers is not None
    assert message.trailers.headers == {"x": "y"}
    assert (message.body, message.incomplete) == (b"a", ("lost",))


def test_trailers_are_limited_like_a_head() -> None:
    raw = CHUNKED_OK + b"0\r\n" + b"X: 0123456789\r\n" * 1000
    for cut in (None, 1):
        (message,) = (m for m in play([Say(raw)], cut, SETTINGS) if isinstance(m, Message))
        assert message.incomplete == ("body_limit", "head_limit")


def test_other_bytes_on_a_connection_that_is_http_are_skipped() -> None:
    assert play([Ask(GET), Say(b"\x00\x01\x02"), Ask(b"\xff" * 9), Ask(GET)])[1:] == [
        play([Ask(GET), Say(b"\x00\x01\x02"), Ask(b"\xff" * 9), Ask(GET)])[-1]
    ]


def test_parsing_resumes_after_a_head_that_is_too_long() -> None:
    long = b"GET /long HTTP/1.1\r\nX: " + b"x" * 2000 + b"\r\n\r\n"
    expected = [
        whole("GET /", GET),
        Seen("GET /long", b"", ("head_limit",), 2, 1024, long[:1024]),
        whole("GET /", GET, b"", 3),
    ]
    for turns in (
        [Ask(GET), Ask(long), Ask(GET)],
        [Ask(GET), *map(Ask, (long[:900], long[900:])), Ask(GET)],
        [Ask(GET), *(Ask(long[i : i + 1]) for i in range(len(long))), Ask(GET)],
    ):
        assert messages_of(turns) == expected


def test_a_socket_that_was_not_http_is_forgotten_with_its_end() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)

    def feed(item: Chunk | End) -> list[Message | NotHttp]:
        return [m for event in streams.feed(item) for m in stage.feed(event)]

    assert feed(wire.send(b"\x16")) == []
    assert feed(wire.recv(b"\x16")) == [NotHttp(SOCKET)]
    # Reported again, as long as the kernel still forwards it.
    assert feed(wire.send(GET)) == [NotHttp(SOCKET)]
    assert feed(wire.end(SEND)) == []
    assert len(feed(wire.send(GET))) == 1


def test_a_connection_takes_no_memory_once_both_directions_have_ended() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    sizes = []
    for item in (wire.send(GET), wire.end(SEND), wire.recv(OK), wire.end(RECV)):
        for event in streams.feed(item):
            stage.feed(event)
        sizes.append(len(stage))
    assert sizes == [1, 1, 1, 0]


# ---- origin and times


def test_a_message_knows_the_chunk_of_its_first_byte_and_the_time_of_its_last() -> None:
    wire, streams, stage = Wire(), Streams(), Messages(SETTINGS)
    chunks = [wire.send(d) for d in (b"\r", b"\nPO", POST[2:20], POST[20:-1], POST[-1:] + GET)]
    out = [m for c in chunks for event in streams.feed(c) for m in stage.feed(event)]
    post, get = (m for m in out if isinstance(m, Message))
    # The payload is kept no longer than its chunk.
    assert post.origin == chunks[1]._replace(payload=b"", position=2)
    assert get.origin == chunks[4]._replace(position=2 + len(POST))
    assert post.last_time == get.last_time == chunks[4].time
    assert post.head.request is not None
    assert post.head.request.origin.time == chunks[1].time
    chunks = [wire.send(d) for d in (GET[:5], GET[5:] + GET)]
    out = [m for c in chunks for event in streams.feed(c) for m in stage.feed(event)]
    assert [m.origin.time for m in out if isinstance(m, Message)] == [c.time for c in chunks]


# ---- requests that wait


def test_requests_without_any_response_take_bounded_memory_and_no_wrong_response() -> None:
    connection = Connection()
    first = connection.ask("GET", "/", None, chunk(time=1))
    for n in range(INFLIGHT_MAX - 1):
        connection.ask("GET", "/", None, chunk(time=n + 2))
    assert connection.answer(200, 5000) is first
    for n in range(2):
        connection.ask("GET", "/", None, chunk(time=n + 6000))
    assert connection.answer(200, 7000) is None


def test_a_request_answered_before_it_was_read_is_not_pending() -> None:
    turns = [Ask(GET[:-3]), Say(EMPTY), Ask(GET[-3:]), Ask(POST), Say(OK)]
    assert [(m.start, m.number) for m in messages_of(turns)] == [
        ("204 No Content", None),
        ("GET /", 1),
        ("POST /p", 2),
        ("200 OK", 2),
    ]


def test_a_response_dropped_late_is_not_paired_with_a_later_request() -> None:
    """Its head has no end, which only shows when the next response comes."""
    turns = [Say(OK[:-4]), Ask(GET), Lose(RECV, 4), Say(EMPTY)]
    assert [(m.start, m.number) for m in messages_of(turns) if m.start != "GET /"] == [
        ("200 OK", None),
        ("204 No Content", None),
    ]


@pytest.mark.parametrize(
    "pipelined",
    [
        # shown by several requests in one chunk, although no response was seen
        [Ask(GET + GET + GET), Lose(RECV, 9)],
        # shown by a response for which several requests waited
        [Ask(GET), Ask(GET), Ask(GET), Say(CHUNKED_OK), Lose(RECV, 9)],
    ],
)
def test_pipelined_responses_after_a_hole_are_never_paired_again(pipelined: list[Turn]) -> None:
    found = messages_of([*pipelined, Say(OK), Ask(POST), Say(EMPTY)])
    assert [m.number for m in found if m.start in ("200 OK", "204 No Content")][-2:] == [None, None]


def test_words_before_a_request_line_are_no_start() -> None:
    turns = [Ask(GET[:-2]), Lose(SEND, 9), Ask(b"1 2 " + POST), Ask(GET)]
    assert [m.start for m in messages_of(turns)] == ["GET /", "GET /"]
    assert [m.number for m in messages_of(turns)] == [1, 2]


# ---- anything at all


def damage(turns: list[Turn], data: st.DataObject) -> list[Turn]:
    """Cut ``turns`` anywhere and punch holes into them."""
    pieces = [piece for turn in turns for piece in split(turn, data)]
    holes = data.draw(st.sets(st.integers(0, max(0, len(pieces) - 1)), max_size=4))
    return [
        Lose(SEND if isinstance(piece, Ask) else RECV, len(piece.data))
        if index in holes and isinstance(piece, (Ask, Say))
        else piece
        for index, piece in enumerate(pieces)
    ]


def numbered(n: int) -> list[Turn]:
    """Exchange ``n``, with its number in every part."""
    body = b"%d " % n * 9
    part = b"%x\r\n%b\r\n" % (len(body), body)
    return [
        Ask(b"POST /%d HTTP/1.1\r\nN: %d\r\nContent-Length: %d\r\n\r\n" % (n, n, len(body)) + body),
        Say(b"HTTP/1.1 200 %d\r\nN: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % (n, n))
        if n % 2
        else Say(b"HTTP/1.1 200 %d\r\nN: %d\r\nContent-Length: %d\r\n\r\n" % (n, n, len(body))),
        Say(part + part + b"0\r\n\r\n" if n % 2 else body),
    ]


@settings(max_examples=300)
@given(data=st.data(), ended=st.booleans())
def test_holes_never_mix_messages(data: st.DataObject, ended: bool) -> None:
    turns = damage([turn for n in range(1, 6) for turn in numbered(n)], data)
    for message in play([*turns, *(ENDS if ended else [])]):
        assert isinstance(message, Message)
        # Each one was answered, whether that was seen or not.
        assert "no_response" not in message.incomplete
        head = message.head
        number = (head.target or "").strip("/") or head.reason
        assert set(message.body.decode().split()) <= {number}
        assert head.fields.headers.get("n", number) == number
        if head.request is not None and head.type == "response":
            assert head.request.target == f"/{number}"
        if not message.incomplete:
            assert message.bytes == len(message.raw)
        assert len(message.raw) <= message.bytes


FRAGMENTS = st.sampled_from(
    [
        *(GET, POST, OK, EMPTY, CHUNKED_OK, HEAD, CONNECT),
        *(b"\r\n", b"\n", b"\r", b"5\r\nhello\r\n", b"0\r\n\r\n", b"A:b\r\n c\r\n"),
        *(b"POST / HTTP/1.1\r\n", b"HTTP/1.1 ", b"HTTP/1.1 100 C\r\n\r\n", b"Expect: x\r\n"),
        *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"),
    ]
)
BYTES = st.one_of(st.binary(max_size=40), FRAGMENTS, st.lists(FRAGMENTS).map(b"".join))
ANYTHING = st.lists(
    st.one_of(
        st.builds(Ask, BYTES),
        st.builds(Say, BYTES),
        st.builds(Lose, st.sampled_from([SEND, RECV]), st.one_of(st.none(), st.integers(0, 50))),
        st.builds(Close, st.sampled_from([SEND, RECV])),
    ),
    max_size=30,
)


REASONS = {"body_limit", "closed_early", "head_limit", "lost", "no_response", "undecodable"}


@settings(max_examples=500)
@given(ANYTHING)
def test_nothing_raises_and_every_message_is_sound(turns: list[Turn]) -> None:
    for message in play(turns, settings=Settings(max_head=100, max_body=20)):
        if isinstance(message, NotHttp):
            continue
        assert bool(message.raw) == ("no_response" not in message.incomplete)
        assert len(message.raw) <= min(message.bytes, 120)
        assert message.incomplete or message.bytes == len(message.raw)
        assert set(message.incomplete) <= REASONS
        assert message.last_time >= message.origin.time


@pytest.mark.parametrize(
    "data",
    [
        b"GET" + b" " * 60000,
        b"GET /" + b" x" * 30000 + b"\r\n",
        b"HTTP/1.1 200" + b" " * 60000 + b"\rx\n",
        b"GET / HTTP/1.1\r\n" + b"a" + b" " * 60000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 12000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a:b\r\n " * 10000 + b"\r\n\r\n",
        CHUNKED_OK + b"1" + b" " * 60000 + b"\rx",
    ],
)
@pytest.mark.parametrize("cut", [None, 40])
def test_a_hostile_head_costs_no_more_than_its_length(data: bytes, cut: int | None) -> None:
    started = time.process_time()
    play([Ask(data)], cut, settings=Settings())
    assert time.process_time() - started < 1
