# SPDX-License-Identifier: Apache-2.0
"""Hostile traffic, each kind made to take memory, disk or processor time of whoever observes it.

The same conversations run over the loopback of a guest (``python3 floods.py NAME [CONNECTIONS]``,
with the standard library only; tests/e2e/test_floods.py), from a recording
(tests/replay/test_floods.py) and with mutations (tests/fuzz/fuzz_memory.py).
"""

from __future__ import annotations

import gzip
import json
import resource
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

CLIENT, SERVER = 0, 1

Talk = Iterator["tuple[int, bytes]"]
"""What the ends of a connection send, in order: the end, and the bytes of one call."""


class Flood(NamedTuple):
    """``talk(n)`` is the conversation of connection ``n``.

    All connections stay open until the flood ends. With ``connections`` the flood takes a multiple
    of 32 MiB if nothing bounds it and ``holds`` is set. Without ``holds``, it takes time or disk.
    """

    talk: Callable[[int], Talk]
    connections: int
    holds: bool = True


# HTTP/2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = struct.pack(">I5x", 4)
END_STREAM, END_HEADERS = 1, 4
_DATA, _HEADERS, _RESET, _CONTINUATION = 0, 1, 3, 9
_INDEXED, _INCREMENTAL = 0x80, 0x40
_FIRST_DYNAMIC = 62
# :method POST, :scheme http, :path /, :authority a.local, which stays out of the table
ASKED = b"\x83\x86\x84\x01\7a.local"
# Python's text takes 4 bytes a character if one of its characters is outside the first plane.
EMOJI = "\N{GRINNING FACE}".encode()
WIDE = EMOJI + b"x" * 3900


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """RFC 7541, 5.1: an integer after the high bits of ``first``."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    value -= most
    rest = b""
    while value >= 128:
        rest += bytes([value % 128 | 128])
        value //= 128
    return bytes([first | most]) + rest + bytes([value])


def literal(name: bytes, value: bytes, first: int = 0) -> bytes:
    """RFC 7541, 6.2: a field with a new name; ``first`` decides whether it enters the table."""
    return bytes([first]) + integer(len(name), 7) + name + integer(len(value), 7) + value


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113, 4.1."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def headers(stream: int, block: bytes, flags: int = END_HEADERS) -> bytes:
    """A frame that begins a stream."""
    return frame(_HEADERS, flags, stream, block)


ENTRY = ASKED + literal(b"name", WIDE, _INCREMENTAL)  # nearly as large as the table


def references(n: int) -> Talk:
    """HTTP/2 headers that refer to one entry of the table: a byte each, 16 kB in memory.

    More than four would have ``head_limit``, because their line would be too long.
    """
    yield CLIENT, PREFACE + SETTINGS + headers(1, ENTRY, END_HEADERS | END_STREAM)
    block = ASKED + bytes([_INDEXED | _FIRST_DYNAMIC]) * 4
    for stream in range(3, 83, 2):
        yield CLIENT, headers(stream, block)


def tables(n: int) -> Talk:
    """An HTTP/2 connection whose table is full, and which then idles."""
    yield CLIENT, PREFACE + SETTINGS + headers(1, ENTRY, END_HEADERS | END_STREAM)


def continuations(n: int) -> Talk:
    """An HTTP/2 header block that never ends."""
    yield CLIENT, PREFACE + SETTINGS + headers(1, ASKED, 0)
    for _ in range(20):
        yield CLIENT, frame(_CONTINUATION, 0, 1, literal(b"name", b"x" * 15_000))


def resets(n: int) -> Talk:
    """Requests that are cancelled at once (CVE-2023-44487)."""
    yield CLIENT, PREFACE + SETTINGS
    for first in range(1, 2001, 100):
        yield (
            CLIENT,
            b"".join(
                headers(stream, ASKED, END_HEADERS | END_STREAM)
                + frame(_RESET, 0, stream, struct.pack(">I", 8))
                for stream in range(first, first + 100, 2)
            ),
        )


# HTTP/1


def emojis(n: int) -> Talk:
    """A head of 60 kB with one wide character in each field, and a body that does not end."""
    lines = b"".join(b"%d: %b\r\n" % (k, WIDE) for k in range(15))
    head = b"POST /%d HTTP/1.1\r\nContent-Length: 99999\r\n%b\r\n" % (n, lines)
    for at in range(0, len(head), 16_000):
        yield CLIENT, head[at : at + 16_000]


def endless(n: int) -> Talk:
    """A head that never ends."""
    yield CLIENT, b"GET /%d HTTP/1.1\r\n" % n
    for at in range(4):
        yield (
            CLIENT,
            b"".join(b"%d: %b\r\n" % (k, b"x" * 100) for k in range(at * 99, at * 99 + 99)),
        )


def unanswered(n: int) -> Talk:
    """Pipelined requests with long targets, without an answer."""
    for k in range(4):
        yield CLIENT, b"GET /%d/%d/%b HTTP/1.1\r\nHost: a\r\n\r\n" % (n, k, WIDE * 3)


def bodies(n: int) -> Talk:
    """A chunked body that does not end, in large pieces."""
    yield CLIENT, b"POST /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % n
    for _ in range(8):
        yield CLIENT, b"3e80\r\n" + b"x" * 16_000 + b"\r\n"


def bytewise(n: int) -> Talk:
    """Exchanges in calls of one byte."""
    for byte in b"POST /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" % n:
        yield CLIENT, bytes([byte])
    for byte in b"HTTP/1.1 204 No Content\r\n\r\n":
        yield SERVER, bytes([byte])


_NULS = gzip.compress(bytes(1 << 20), mtime=0)


def nuls(n: int) -> Talk:
    """Bodies that decompress to a thousand times their size, and escape to six times that."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    for k in range(10):
        yield CLIENT, b"GET /%d/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (n, k)
        yield SERVER, answer % (len(_NULS), _NULS)


FLOODS = {
    "references": Flood(references, 40),
    "tables": Flood(tables, 3000),
    "continuations": Flood(continuations, 300),
    "resets": Flood(resets, 10, holds=False),
    "emojis": Flood(emojis, 400),
    "endless": Flood(endless, 1200),
    "unanswered": Flood(unanswered, 400),
    "bodies": Flood(bodies, 500),
    "bytewise": Flood(bytewise, 60, holds=False),
    "nuls": Flood(nuls, 20, holds=False),
}


def play(name: str, connections: int) -> int:
    """Play a flood over this machine's loopback; return the bytes that were sent."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sent = 0
    ends = []
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        for n in range(connections):
            client = socket.create_connection(server.getsockname())
            pair = client, server.accept()[0]
            ends.append(pair)
            for end, data in FLOODS[name].talk(n):
                pair[end].sendall(data)
                _receive(pair[1 - end], len(data))
                sent += len(data)
    for pair in ends:
        for end in pair:
            end.close()
    return sent


def _receive(end: socket.socket, size: int) -> None:
    while size:
        size -= len(end.recv(size))


def main(name: str, connections: str = "") -> None:
    """Play a flood; print how many bytes it sent."""
    sent = play(name, int(connections or FLOODS[name].connections))
    print(json.dumps({"sent": sent}))


if __name__ == "__main__":
    main(*sys.argv[1:])
