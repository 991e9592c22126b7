# SPDX-License-Identifier: Apache-2.0
"""What a peer sends may expand in its line, but only within bounds."""

from __future__ import annotations

import gzip

import orjson
import pytest
from hpack import Encoder
from hyperframe.frame import Frame, HeadersFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from profiler.exchanges.text import escaped
from profiler.ingest import wire
from profiler.ingest.http.amplification import allowance, cut, json_size
from profiler.ingest.http.frames import PREFACE
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.schema import Record
from tests.unit.wires import Wire

# What a line has besides what the peer chooses.
REST = 2000

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class Lines:
    """The pipeline's sink: records, and their lines."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.lines: list[bytes] = []
        self.pipeline = Pipeline(Settings(), self, Processes(None), "x86_64")

    def write(self, record: Record) -> None:
        self.records.append(record)
        self.lines.append(escaped(orjson.dumps(record)))

    def feed(self, *items: wire.Chunk | wire.End) -> None:
        for item in items:
            self.pipeline.feed(wire.encode(item))


def line_of(text: str) -> bytes:
    return escaped(orjson.dumps(text))[1:-1]


@given(TEXT)
def test_the_size_of_utf8_is_exact(text: str) -> None:
    assert json_size(text.encode()) == len(line_of(text))


@given(st.binary())
def test_the_size_of_other_bytes_is_not_too_small(data: bytes) -> None:
    assert json_size(data) >= len(line_of(data.decode("utf-8", "ignore")))
    assert json_size(b"\xff" + data) >= len(line_of(data.decode("iso-8859-1")))


@given(st.binary(), st.integers(0, 1000))
def test_what_is_cut_fits(data: bytes, room: int) -> None:
    kept = cut(data, room)
    assert data.startswith(kept)
    assert json_size(kept) <= room
    # One more byte, in six characters, would not have fit.
    assert kept == data or 6 * (len(kept) + 1) >= room // 2


def headers(stream: int, block: bytes) -> Frame:
    return HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"])


@pytest.mark.parametrize("character", ["x", "\x01", '"', "\x9b", "é"])
def test_blocks_that_refer_to_a_large_entry(character: str) -> None:
    encoder = Encoder()
    encoder.header_table_size = 65_536
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    large = ("x", character * (50_000 // len(character.encode())))
    seen = Lines()
    wire_ = Wire()
    # A literal for once, and then one byte.
    first = encoder.encode([*fields, large], huffman=False)
    frames = [SettingsFrame(0), headers(1, first)]
    frames += [headers(2 * n + 1, encoder.encode([*fields, large])) for n in range(1, 100)]
    for n, frame in enumerate(frames):
        seen.feed(wire_.send((b"" if n else PREFACE) + frame.serialize()))
    assert len(seen.lines) == 100
    assert seen.records[1]["bytes"] < 30
    for record, line in zip(seen.records, seen.lines):
        assert len(line) <= allowance(record["bytes"]) + 6 * record["bytes"] + REST
    assert seen.records[1]["incomplete"] == ["head_limit"]


def test_a_list_of_a_usual_size_is_whole() -> None:
    encoder = Encoder()
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    cookie = ("cookie", "c" * 3900)
    seen = Lines()
    wire_ = Wire()
    for n in range(3):
        frame = headers(2 * n + 1, encoder.encode([*fields, cookie]))
        begin = b"" if n else PREFACE + SettingsFrame(0).serialize()
        seen.feed(wire_.send(begin + frame.serialize()))
    assert [record["headers"]["cookie"] for record in seen.records] == [cookie[1]] * 3
    assert not any("incomplete" in record for record in seen.records)


@pytest.mark.parametrize("content", [b"\0", b"\x7f", b'"', "\x9b".encode(), b"x"])
def test_a_coded_body(content: bytes) -> None:
    body = gzip.compress(content * 1_000_000)
    head = b"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    seen = Lines()
    seen.feed(Wire().send(head + body))
    assert seen.records[0]["incomplete"] == ["decoded_limit"]
    assert len(seen.lines[0]) <= 200 * len(body) + 6 * len(head + body) + REST


@pytest.mark.parametrize("character", ["x", "\x01"])
def test_interim_responses_to_a_long_url(character: str) -> None:
    url = "/" + character * 60_000
    seen = Lines()
    client = Wire()
    seen.feed(client.send(f"GET {url} HTTP/1.1\r\nHost: a\r\n\r\n".encode()))
    interim = b"HTTP/1.1 100 \r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
    seen.feed(client.recv(interim * 50), client.recv(final))
    request, *interims, response = seen.records
    assert len(interims) == 50
    for line in seen.lines[1:-1]:
        assert len(line) <= allowance(len(interim)) + REST
    # All the rest is there, and so is the URL where its size does not matter.
    assert all("latency_ms" in record and "request" not in record for record in interims)
    assert {record["exchange"] for record in interims} == {request["exchange"]}
    assert response["request"]["url"] == url
