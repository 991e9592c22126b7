"""Content codings (RFC 9110, 8.4.1): one table, one loop.

A codec takes coded bytes and a limit and returns at most that many bytes of
content, and whether the coded bytes ended where they should. To support
another coding, add a row to :data:`CODECS`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Callable

from profiler.http.message import UNDECODABLE
from profiler.stream import BODY_LIMIT

# Nobody applies more; each one more would be another pass over the content.
_CODINGS_MAX = 4

# zlib's wbits for its three formats
_ZLIB, _GZIP, _RAW = 15, 31, -15


class CodingError(Exception):
    """The bytes are not of this coding."""


def _inflate(data: bytes, limit: int, wbits: int) -> tuple[bytes, bool]:
    content = b""
    try:
        while True:
            decoder = zlib.decompressobj(wbits)
            content += decoder.decompress(data, limit - len(content))
            data = decoder.unused_data
            if not decoder.eof:
                return content, False
            # RFC 1952, 2.2: a gzip file is a sequence of members.
            if wbits != _GZIP or not data.startswith(b"\x1f\x8b") or len(content) == limit:
                return content, True
    except zlib.error:
        raise CodingError from None


def _gzip(data: bytes, limit: int) -> tuple[bytes, bool]:
    return _inflate(data, limit, _GZIP)


def _deflate(data: bytes, limit: int) -> tuple[bytes, bool]:
    # RFC 9110, 8.4.1.2: some send it without the zlib wrapper.
    try:
        return _inflate(data, limit, _ZLIB)
    except CodingError:
        return _inflate(data, limit, _RAW)


Codec = Callable[[bytes, int], "tuple[bytes, bool]"]

CODECS: dict[str, Codec] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
}


def decode(
    body: bytes, codings: Sequence[str], limit: int, whole: bool = True
) -> tuple[bytes, str | None]:
    """Return the content of ``body`` and, if that is not whole, why.

    ``codings`` are in the order in which they were applied; a body that is not
    ``whole`` is decoded as far as it goes. What is unknown or broken is
    returned as it came, as UNDECODABLE; content beyond ``limit`` bytes is cut
    off, as BODY_LIMIT.
    """
    if not body:
        return body, None
    if len(codings) > _CODINGS_MAX:
        return body, UNDECODABLE
    content, reason = body, None
    for coding in reversed(codings):
        codec = CODECS.get(coding)
        if codec is None:
            return body, UNDECODABLE
        try:
            # One byte more than the limit tells whether there was more.
            content, ended = codec(content, limit + 1)
        except CodingError:
            return body, UNDECODABLE
        if len(content) > limit:
            content, reason = content[:limit], BODY_LIMIT
        elif whole and reason is None and not ended:
            return body, UNDECODABLE
    return content, reason
