# SPDX-License-Identifier: Apache-2.0
"""The fields of a head, and what they declare about the body."""

from __future__ import annotations

import pytest

from profiler.ingest.http.fields import CHUNKED, FAULTY, UNTIL_CLOSE, parse_fields


def test_names_are_in_lower_case() -> None:
    fields = parse_fields(b"Host: a\r\nX-Empty:\r\nX-Colon: a:b\t \r\nNo Colon Here\r\n\r\n")
    assert fields.headers == {"host": "a", "x-empty": "", "x-colon": "a:b"}
    assert fields.length is None


def test_a_repeated_field_is_a_list_where_it_stands_first() -> None:
    fields = parse_fields(b"Set-Cookie: a\r\nX: 1\r\nset-cookie: b\r\nSET-COOKIE: c\r\n\r\n")
    assert fields.headers == {"set-cookie": ["a", "b", "c"], "x": "1"}
    assert list(fields.headers) == ["set-cookie", "x"]
    assert [fields.get(name) for name in ("set-cookie", "x", "y")] == ["a, b, c", "1", None]


def test_a_folded_field_is_one_value() -> None:
    assert parse_fields(b"A: one\r\n  two\r\n\tthree\r\nB: x\r\n\r\n").headers == {
        "a": "one two three",
        "b": "x",
    }


def test_a_folded_line_after_the_start_line_is_no_field() -> None:
    assert parse_fields(b" A: x\r\nB: y\r\n\r\n").headers == {"b": "y"}


def test_a_space_before_the_colon_is_not_part_of_the_name() -> None:
    assert parse_fields(b"Content-Length : 7\r\n\r\n").length == 7


def test_each_line_is_utf8_or_else_latin1() -> None:
    block = "A: \u00e4\u20ac\r\n".encode() + "B: \u00e4\x85\u00e4\r\n".encode("iso-8859-1")
    assert parse_fields(block).headers == {"a": "\u00e4\u20ac", "b": "\u00e4\x85\u00e4"}


@pytest.mark.parametrize(
    ("block", "length"),
    [
        (b"Content-Length: 12\r\n", 12),
        (b"Content-Length: 12, 12\r\n", 12),
        (b"Content-Length: 12, 13\r\n", FAULTY),
        (b"Content-Length: +1\r\n", FAULTY),
        (b"Content-Length: 1_0\r\n", FAULTY),
        (b"Content-Length:\r\n", FAULTY),
        ("Content-Length: \u0663\r\n".encode(), FAULTY),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", FAULTY),
        (b"Transfer-Encoding: Chunked\r\n", CHUNKED),
        (b"Transfer-Encoding: gzip, chunked\r\n", CHUNKED),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 12\r\n", CHUNKED),
        (b"Transfer-Encoding: gzip\r\n", UNTIL_CLOSE),
        (b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n", 3),
        (b"Host: a\r\n", None),
    ],
)
def test_length(block: bytes, length: int | None) -> None:
    assert parse_fields(block + b"\r\n").length == length


def test_codings_come_in_the_order_of_their_application() -> None:
    block = b"Content-Encoding: GZip, x\r\nTransfer-Encoding: deflate, chunked\r\n\r\n"
    assert parse_fields(block).codings == ("gzip", "x", "deflate")
