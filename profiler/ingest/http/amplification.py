# SPDX-License-Identifier: Apache-2.0
"""Bounds how much longer a line may be than what was sent for it.

Three things repeat or expand bytes: a header block that refers to a table (RFC 7541), a coded body,
and a response, whose line repeats the URL of its request. JSON adds to each: a control character
becomes six bytes. Without a bound, whoever sends them fills the disk.
"""

from __future__ import annotations

import codecs
import re

# Apache's DeflateInflateRatioLimit is the same.
RATIO_MAX = 200

# What a message may expand to, however short it is. Common servers refuse longer header lists.
_ALWAYS = 16 * 1024

ESCAPE_MAX = 6
"""The bytes that JSON may need for one byte, as in ``\\u0000``."""

_SHORT_ESCAPES = b'\b\t\n\f\r"\\'
_LONG_ESCAPES = bytes({*range(0x20), 0x7F} - {*_SHORT_ESCAPES})
_C1 = bytes(range(0x80, 0xA0))
_C1_IN_UTF8 = re.compile(rb"\xc2[\x80-\x9f]")
_HIGH = bytes(range(0xA0, 0x100))


def allowance(size: int) -> int:
    """Return the bytes of a line that a message of ``size`` bytes may expand to."""
    return _ALWAYS + RATIO_MAX * size


def json_size(data: bytes) -> int:
    """Return the bytes that ``data`` takes as text in a line, or somewhat more.

    It is exact for UTF-8. Other bytes count as controls, or as characters of three bytes.
    """
    size = len(data) + _count(data, _SHORT_ESCAPES) + 5 * _count(data, _LONG_ESCAPES)
    if data.isascii():
        return size
    try:
        # A character may be cut off at the end.
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return size + 5 * _count(data, _C1) + 2 * _count(data, _HIGH)
    return size + 4 * sum(1 for _ in _C1_IN_UTF8.finditer(data))


def fits(data: bytes, room: int) -> bool:
    """Whether ``data`` takes at most ``room`` bytes in a line."""
    return ESCAPE_MAX * len(data) <= room or json_size(data) <= room


def cut(data: bytes, room: int) -> bytes:
    """Return a beginning of ``data`` that takes at most ``room`` bytes in a line."""
    while not fits(data, room):
        data = data[: len(data) * 3 // 4]
    return data


def _count(data: bytes, characters: bytes) -> int:
    return len(data) - len(data.translate(None, characters))
