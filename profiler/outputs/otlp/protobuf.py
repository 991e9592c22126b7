# SPDX-License-Identifier: Apache-2.0
"""The wire format of protobuf (https://protobuf.dev/programming-guides/encoding).

A message is its fields in any order, and the fields of a repeated one may stand apart. So encoded
parts are kept, and joined to larger messages without decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_pack64 = Struct("<Q").pack
_pack32 = Struct("<I").pack
_pack_double = Struct("<d").pack


def varint(value: int) -> bytes:
    """Encode an integer; a negative one as its 64-bit two's complement."""
    if 0 <= value < 128:
        return _SMALL[value]
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [bytes((value,)) for value in range(128)]


def message(field: int, content: bytes) -> bytes:
    """Encode a field that is a message, a string or bytes."""
    return varint(field << 3 | _BYTES) + varint(len(content)) + content


def string(field: int, text: str) -> bytes:
    """Encode a string; what UTF-8 cannot express is replaced."""
    return message(field, text.encode("utf-8", "replace"))


def integer(field: int, value: int) -> bytes:
    """Encode an integer or an enumeration."""
    return varint(field << 3 | _VARINT) + varint(value)


def fixed64(field: int, value: int) -> bytes:
    """Encode an integer in eight bytes."""
    return varint(field << 3 | _FIXED64) + _pack64(value)


def fixed32(field: int, value: int) -> bytes:
    """Encode an integer in four bytes."""
    return varint(field << 3 | _FIXED32) + _pack32(value)


def double(field: int, value: float) -> bytes:
    """Encode a floating-point number."""
    return varint(field << 3 | _FIXED64) + _pack_double(value)


def attribute(field: int, key: str, value: str | int | list[str]) -> bytes:
    """Encode a ``KeyValue`` of OTLP (``common/v1/common.proto``)."""
    return message(field, string(1, key) + message(2, _any(value)))


@lru_cache(maxsize=4096)
def common(field: int, key: str, value: str | int) -> bytes:
    """Encode an attribute with a short value that many spans share."""
    return attribute(field, key, value)


def _any(value: str | int | list[str]) -> bytes:
    if isinstance(value, str):
        return string(1, value)
    if isinstance(value, bool):
        return integer(2, value)
    if isinstance(value, int):
        return integer(3, value)
    return message(5, b"".join(message(1, _any(one)) for one in value))


def fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield numbers and values of a message's fields. Raises ValueError if it is damaged."""
    at = 0
    while at < len(content):
        tag, at = _read_varint(content, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(content, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(content, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(content):
            raise ValueError("cut off")
        yield tag >> 3, content[at : at + size]
        at += size


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content) and shift < 64:
        byte = content[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("cut off")
