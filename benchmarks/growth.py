# SPDX-License-Identifier: Apache-2.0
"""Does twice the input cost twice the work? Counts the pipeline's instructions.

    python -m benchmarks.growth              # a table
    tox -e growth                            # the same, as a test

Each shape is a conversation of adjustable size. It runs at 1, 2 and 4 times its base size
through a pipeline that writes to ``/dev/null``. valgrind counts the instructions of user
space (``instructions.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Callable

from benchmarks.instructions import section, sections
from profiler.exchanges.redact import Redactor
from profiler.ingest import wire
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.wire import Chunk, End
from profiler.outputs.jsonl import JsonLines
from tests.unit.h2talk import Talk
from tests.unit.turns import Ask, Say
from tests.unit.wires import Wire

FACTORS = (1, 2, 4)

_GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_CALL = 16_000  # bytes that one record carries

Items = Iterator["Chunk | End"]


def connections(size: int) -> Items:
    """This many connections, open at once, with one exchange each."""
    wires = [Wire(socket=n + 1) for n in range(size)]
    for n, each in enumerate(wires):
        yield each.send(_GET % n)
    for each in wires:
        yield each.recv(_OK)
    for each in wires:
        yield each.end(wire.SEND)
        yield each.end(wire.RECV)


def messages(size: int) -> Items:
    """This many exchanges on one connection."""
    one = Wire()
    for n in range(size):
        yield one.send(_GET % n)
        yield one.recv(_OK)


def pipelined(size: int) -> Items:
    """This many requests before their responses."""
    one = Wire()
    yield from _in_calls(one.send, b"".join(_GET % n for n in range(size)))
    yield from _in_calls(one.recv, _OK * size)


def headers(size: int) -> Items:
    """This many header lines in one head, all different."""
    lines = b"".join(b"Field-%d: value of %d\r\n" % (n, n) for n in range(size))
    one = Wire()
    yield from _in_calls(one.send, b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
    yield one.recv(_OK)


def repeated_header(size: int) -> Items:
    """This many header lines of one name."""
    one = Wire()
    yield one.send(_GET % 1)
    lines = b"".join(b"Set-Cookie: a=%d\r\n" % n for n in range(size))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + lines + b"\r\n"
    yield from _in_calls(one.recv, head)


def body(size: int) -> Items:
    """One body of this many bytes."""
    one = Wire()
    yield one.send(_GET % 1)
    yield from _in_calls(
        one.recv, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    )


def parts(size: int) -> Items:
    """One body of this many HTTP chunks."""
    one = Wire()
    yield one.send(_GET % 1)
    yield from _in_calls(one.recv, _CHUNKED + b"5\r\nabcde\r\n" * size + b"0\r\n\r\n")


def bytewise_head(size: int) -> Items:
    """A head of this many bytes, one per call."""
    one = Wire()
    for byte in b"GET / HTTP/1.1\r\nA: " + b"a" * size + b"\r\n\r\n":
        yield one.send(bytes([byte]))


def bytewise_body(size: int) -> Items:
    """A body of this many bytes, one per call."""
    one = Wire()
    yield one.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(size):
        yield one.send(b"x")


def bytewise_parts(size: int) -> Items:
    """This many HTTP chunks of a body, one byte per call."""
    one = Wire()
    yield one.send(_GET % 1)
    for byte in _CHUNKED + b"1\r\nx\r\n" * size + b"0\r\n\r\n":
        yield one.recv(bytes([byte]))


def streams(size: int) -> Items:
    """This many HTTP/2 streams, one after the other."""
    talk, one = Talk(), Wire()
    for n in range(size):
        talk.exchange(f"/{n}")
    for turn in talk.turns:
        assert isinstance(turn, (Ask, Say))
        yield (one.send if isinstance(turn, Ask) else one.recv)(turn.data)


# The base size: large enough that four times it reveals even a loop in C over all data.
SHAPES: dict[str, tuple[Callable[[int], Items], int]] = {
    "connections": (connections, 250),
    "messages on one connection": (messages, 150),
    "pipelined requests": (pipelined, 150),
    "header lines": (headers, 600),
    "lines of one header": (repeated_header, 600),
    "bytes of a body": (body, 250_000),
    "chunked parts": (parts, 2000),
    "bytes of a head, one by one": (bytewise_head, 1000),
    "bytes of a body, one by one": (bytewise_body, 600),
    "chunked parts, byte by byte": (bytewise_parts, 150),
    "HTTP/2 streams": (streams, 50),
}

# Texts that are redacted, in repetitions: the most work for a byte, and what backtracking fears.
TEXTS: dict[str, tuple[str, int]] = {
    "members of redacted JSON": ('{"a":[1,"b=c"],"password":"x"},', 500),
    "brackets of redacted JSON": ("[", 5000),
    "quotation marks to redact": ('"', 10_000),
    "elements of redacted XML": ("<a b='c'>d</a><password>x</password>", 300),
    "tags to redact that never end": ("<a ", 5000),
    "fields of a redacted form": ("a=1&token=x%20y&", 1000),
    "names to redact without a value": ("key=", 5000),
    "digits and tokens to redact": ("4111 eyJhbGciOiJub25lIn0. ", 1000),
}


def counts() -> dict[str, list[int]]:
    """Return the instructions of each shape, at each factor."""
    columns, names = len(FACTORS), [*SHAPES, *TEXTS]
    found = sections(len(names) * columns, "benchmarks.growth", "run")
    return {name: found[n * columns : (n + 1) * columns] for n, name in enumerate(names)}


def _in_calls(move: Callable[[bytes], Chunk], data: bytes) -> Items:
    for at in range(0, len(data), _CALL):
        yield move(data[at : at + _CALL])


def _run(records: list[bytes]) -> None:
    sink = JsonLines(Path("/dev/null"))
    pipeline = Pipeline(Settings(), sink, Processes(None), "x86_64")
    for record in records:
        pipeline.feed(record)
    pipeline.finish()
    sink.close()


def main(arguments: list[str]) -> None:
    """Print the table; or, under valgrind, run what it counts."""
    if arguments == ["run"]:
        for shape, size in SHAPES.values():
            _run([*map(wire.encode, shape(10))])  # warm up everything that is made once
            for factor in FACTORS:
                records = [*map(wire.encode, shape(size * factor))]
                section(lambda records=records: _run(records))  # type: ignore[misc]
        for text, size in TEXTS.values():
            redactor = Redactor()
            redactor.text(text * 10)
            for factor in FACTORS:
                section(partial(redactor.text, text * size * factor))
        return
    print("| twice and four times as many | instructions | twice | again |")
    print("| --- | --- | --- | --- |")
    for name, (one, two, four) in counts().items():
        print(f"| {name} | {one:,} | {two / one:.2f} | {four / two:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
