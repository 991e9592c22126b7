# SPDX-License-Identifier: Apache-2.0
"""PROXY headers: what is one, what it states, and that it may come byte by byte."""

from __future__ import annotations

import pytest

from profiler.ingest.http import Message, proxy
from profiler.ingest.http.message import Proxy
from tests.unit.h2talk import Talk
from tests.unit.turns import Ask, Say, play

LINE = b"PROXY TCP4 192.0.2.7 198.51.100.9 51234 443\r\n"
STATED = Proxy("192.0.2.7", 51234, "198.51.100.9", 443)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ADDRESSES = bytes([192, 0, 2, 7, 198, 51, 100, 9]) + (51234).to_bytes(2, "big") + b"\1\xbb"
BINARY = SIGNATURE + b"\x21\x11\0\x0c" + ADDRESSES

HEADERS = {
    "version 1": (LINE, STATED),
    "version 1, IPv6": (
        b"PROXY TCP6 2001:DB8::7 ::1 1 65535\r\n",
        Proxy("2001:db8::7", 1, "::1", 65535),
    ),
    "version 1, unknown": (b"PROXY UNKNOWN\r\n", None),
    "version 1, unknown with addresses": (b"PROXY UNKNOWN ffff:f::1 ffff::2 1 2\r\n", None),
    "version 2": (BINARY, STATED),
    "version 2, an extension": (SIGNATURE + b"\x21\x11\0\x10" + ADDRESSES + b"\4\0\1\0", STATED),
    "version 2, the proxy's own": (SIGNATURE + b"\x20\0\0\0", None),
    "version 2, no addresses": (SIGNATURE + b"\x21\0\0\0", None),
    "version 2, UDP": (SIGNATURE + b"\x21\x12\0\x0c" + ADDRESSES, None),
    "version 2, Unix": (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), None),
}


@pytest.mark.parametrize(("header", "stated"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_is_whole_with_its_last_byte(header: bytes, stated: Proxy | None) -> None:
    assert proxy.parse(header + b"GET / HTTP/1.1\r\n") == (len(header), stated)
    for size in range(1, len(header)):
        assert proxy.parse(header[:size]) == (0, None)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY /x HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.9 51234\r\n",
        LINE.replace(b"192.0.2.7", b"192.0.2.777"),
        LINE.replace(b"192.0.2.7", b"::1"),
        LINE.replace(b"443", b"65536"),
        LINE.replace(b"443", b"0443"),
        LINE.replace(b" 443", b"  443"),
        LINE.replace(b"\r\n", b"\n"),
        b"PROXY UNKNOWN " + b"x" * 200,
        b"\r\nGET / HTTP/1.1\r\n\r\n",
        BINARY.replace(b"\x21\x11", b"\x31\x11"),
        BINARY.replace(b"\x21\x11", b"\x22\x11"),
        BINARY.replace(b"\0\x0c", b"\0\x0b"),
        BINARY.replace(b"\0\x0c", b"\xff\xff"),
    ],
)
def test_what_breaks_the_rules_is_no_header(data: bytes) -> None:
    assert proxy.parse(data) is None


@pytest.mark.parametrize("cut", [None, 1, 5])
@pytest.mark.parametrize(("header", "stated"), HEADERS.values(), ids=HEADERS.keys())
def test_every_message_behind_a_header_has_it(
    header: bytes, stated: Proxy | None, cut: int | None
) -> None:
    get, ok = b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n"
    out = play([Ask(header + get), Say(ok), Ask(get)], cut)
    messages = [message for message in out if isinstance(message, Message)]
    assert [message.raw for message in messages] == [get, ok, get]
    assert [message.proxy for message in messages] == [stated] * 3
    assert messages[0].origin.position == len(header)


@pytest.mark.parametrize("cut", [None, 1, 5])
def test_http2_behind_a_header(cut: int | None) -> None:
    talk = Talk()
    talk.exchange("/a")
    first, *others = talk.turns
    assert isinstance(first, Ask)
    out = play([Ask(LINE + first.data), *others], cut)
    assert [(m.head.stream, m.proxy) for m in out if isinstance(m, Message)] == [(1, STATED)] * 2
