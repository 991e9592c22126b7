# SPDX-License-Identifier: Apache-2.0
"""The fields of a head, and what they state about the body that follows.

A passive observer shows what was sent: it takes what endpoints must refuse
(folded lines, a space before the colon, a bare LF), skips lines that are no
field, and has an answer for every framing, if need be that it is faulty.

The fields are decoded as UTF-8, which nearly always means as ASCII; where that
fails each line is decoded on its own, as UTF-8 or else as ISO-8859-1.

Clients repeat their fields from request to request, and servers within one
second, so the last few hundred distinct blocks are remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from sys import getsizeof
from typing import Callable, NamedTuple

# A body whose length is not stated: it lasts until the end of the stream, is
# chunked, or cannot be framed because the fields contradict themselves.
UNTIL_CLOSE, CHUNKED, FAULTY = -1, -2, -3

CHUNKED_CODING = "chunked"

# RFC 9110, 8.6: digits only. A number of more than 18 is longer than any stream.
_LENGTH = re.compile(r"0*[0-9]{1,18}\Z")

# RFC 9110, 5.6.2, as text
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

# RFC 9110, 5.6.3: OWS. Python's strip() removes more.
_BLANKS = " \t"

# Python's lower() makes "k" of U+212A, which would turn another name into an ASCII one.
_LOWER = {ord(upper): upper.lower() for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}

# RFC 9112, 5.2: obs-fold. No pattern here repeats itself around another
# repetition: a hostile head must not cost more than its length.
_FOLD = re.compile(r"\r?\n[ \t]+")

# Remembering is for small blocks of few fields: together they stay within 8 MiB.
_REMEMBERED = 512
_REMEMBERED_SIZE = 1024
_REMEMBERED_LINES = 32

# The allocator rounds each object up to a multiple of 16 bytes.
_ROUNDED = 8


class Fields(NamedTuple):
    """The fields of one message. Remembered ones are shared: nobody may change them.

    ``headers`` has their values by lower-case name (RFC 9110, 5.1), a list if a field is
    repeated. ``codings`` were applied to the content, in this order. ``length`` is the stated
    length of the body, or one of the constants above, or ``None`` if they state nothing of a body.
    ``host`` is what ``:authority`` or Host names.
    """

    headers: dict[str, str | list[str]]
    codings: tuple[str, ...]
    length: int | None
    content_type: str | None
    host: str | None

    def get(self, name: str) -> str | None:
        """Return the value of a field, a repeated one's joined with commas (RFC 9110, 5.3)."""
        return _joined(self.headers.get(name))


def size_of(fields: Fields) -> int:
    """Return the bytes of memory that ``fields`` take; shared strings count at each holder."""
    headers, codings, _, content_type, host = fields
    held = [*headers, *headers.values(), *codings, content_type, host]
    for value in headers.values():
        if type(value) is list:
            held += value
    return (
        getsizeof(headers) + getsizeof(codings) + _ROUNDED * len(held) + sum(map(getsizeof, held))
    )


def parse_fields(block: bytes) -> Fields:
    """Return the fields in ``block``: the lines of a head after its start line."""
    is_small = len(block) <= _REMEMBERED_SIZE and block.count(b"\n") <= _REMEMBERED_LINES
    return (_remembered if is_small else _parse)(block)


def _parse(block: bytes) -> Fields:
    text = decode(block)
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    return fields_of(_fields_in(text), str.lower if text.isascii() else lower)


def _fields_in(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        # RFC 9112, 2.2: a line after the start line that begins with a blank folds nothing.
        if name and colon and name[0] not in " \t":
            yield name, value.strip(" \t\r")


def lower(text: str) -> str:
    """Return ``text`` with its ASCII letters in lower case (RFC 9110, 5.1)."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def fields_of(pairs: Iterable[tuple[str, str]], fold: Callable[[str], str] = lower) -> Fields:
    """Return the fields with these names and values; ``fold`` makes names lower case."""
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(fold(name), []).append(value)
    transfer = _codings(values.get("transfer-encoding", ()))
    content = _codings(values.get("content-encoding", ()))
    length = _length(transfer, values.get("content-length"))
    # The chunked framing is removed from the body; senders that state it twice apply it once.
    while transfer and transfer[-1] == CHUNKED_CODING:
        transfer = transfer[:-1]
    # RFC 9113, 8.3.1: a request that was converted from HTTP/1 may have Host instead.
    host = values.get(":authority") or values.get("host")
    return Fields(
        {name: given if len(given) > 1 else given[0] for name, given in values.items()},
        content + transfer,
        length,
        _joined(values.get("content-type")),
        _joined(host),
    )


def _joined(value: str | list[str] | None) -> str | None:
    return ", ".join(value) if isinstance(value, list) else value


_remembered = lru_cache(maxsize=_REMEMBERED)(_parse)


def decode(data: bytes) -> str:
    """Return ``data`` as text, line by line UTF-8 or else ISO-8859-1."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "\n".join(map(_decode_line, data.split(b"\n")))


def _decode_line(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("iso-8859-1")


def _codings(values: Iterable[str]) -> tuple[str, ...]:
    if not values:
        return ()
    # RFC 9110, 5.6.1.2: elements of a list may be empty.
    elements = (part.strip(_BLANKS) for part in ",".join(values).split(","))
    names = (lower(part.partition(";")[0].rstrip(_BLANKS)) for part in elements if part)
    return tuple(name for name in names if name != "identity")


def _length(transfer: tuple[str, ...], content_lengths: list[str] | None) -> int | None:
    """RFC 9112, 6.3, as far as the fields decide."""
    # 3. Transfer-Encoding overrides Content-Length.
    # 4. Chunked is the final coding; or else the body lasts until the close.
    if transfer:
        if not all(map(_TOKEN.match, transfer)):
            return FAULTY
        return CHUNKED if transfer[-1] == CHUNKED_CODING else UNTIL_CLOSE
    if content_lengths is None:
        return None
    # 5. A list of one number repeated is that number; all else is an error.
    lengths = set()
    for part in ",".join(content_lengths).split(","):
        number = part.strip(_BLANKS)
        if not _LENGTH.match(number):
            return FAULTY
        # int() refuses thousands of digits, even if they are zeros.
        lengths.add(int(number.lstrip("0") or "0"))
    return lengths.pop() if len(lengths) == 1 else FAULTY
