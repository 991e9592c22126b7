# SPDX-License-Identifier: Apache-2.0
"""Content codings (RFC 9110, 8.4.1): one table, one loop.

Whoever sends a coded body decides how much it grows, so both are bounded: the
content, and its size in a line in relation to the coded body
(``amplification.py``). Decoders yield no more than requested, and what would go
beyond is cut off.

A body is either decoded, as far as its bytes go, or left as it came: never half
of its codings are removed. To support another coding, add a row to
:data:`CODECS`.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Callable, NamedTuple, Protocol

import brotli

from profiler.ingest.http.amplification import RATIO_MAX, cut
from profiler.ingest.http.message import UNDECODABLE

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DECODED_LIMIT = "decoded_limit"

# Nobody applies more; each one more would be another pass over the content.
_CODINGS_MAX = 4

# Members of one body. Each costs a copy of what follows it.
_MEMBERS_MAX = 100


class Content(NamedTuple):
    """What decoding has yielded.

    ``codings`` are those that ``data`` still has: all or none. ``reason`` is why
    it is not the whole content: UNDECODABLE, DECODED_LIMIT or ``None``.
    """

    data: bytes
    codings: tuple[str, ...]
    reason: str | None


class Decoder(Protocol):
    """A decompressor of the standard library: reads one member, and keeps what follows it."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def unused_data(self) -> bytes:
        """What follows its end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most ``max_length`` bytes of the content of ``data``."""


class BrotliDecoder:
    """:class:`Decoder` of Brotli: whose content is one member, with nothing after it."""

    unused_data = b""

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        return bool(self._decoder.is_finished())

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most ``max_length`` bytes of the content of ``data``."""
        content = bytearray()
        # It counts in buffers, and hands out a stream that is cut off buffer by buffer.
        while len(content) < max_length:
            piece = self._decoder.process(data, output_buffer_limit=max_length - len(content))
            if not piece:
                break
            content += piece
            data = b""
        return bytes(content[:max_length])


class Codec(NamedTuple):
    """``decoder`` makes one; ``further`` is how a further member begins."""

    decoder: Callable[[], Decoder]
    error: type[Exception]
    further: tuple[bytes, ...] = ()


# RFC 1952, 2.2: a gzip file is a sequence of members.
_GZIP = Codec(partial(zlib.decompressobj, 31), zlib.error, (b"\x1f\x8b\x08",))
# RFC 9110, 8.4.1.2: "deflate" is the zlib format, but some send it without the wrapper.
_ZLIB = Codec(partial(zlib.decompressobj, 15), zlib.error)
_RAW_DEFLATE = Codec(partial(zlib.decompressobj, -15), zlib.error)
_BROTLI = Codec(BrotliDecoder, brotli.error)
# RFC 8878, 3.1: frames, and skippable ones, may follow each other.
_ZSTD = Codec(
    # RFC 9659, 3: a window of 8 MiB at most.
    partial(zstd.ZstdDecompressor, options={zstd.DecompressionParameter.window_log_max: 23}),
    zstd.ZstdError,
    (b"\x28\xb5\x2f\xfd", *(bytes([n, 0x2A, 0x4D, 0x18]) for n in range(0x50, 0x60))),
)

# What to try, in this order.
CODECS: dict[str, tuple[Codec, ...]] = {
    "gzip": (_GZIP,),
    "x-gzip": (_GZIP,),
    "deflate": (_ZLIB, _RAW_DEFLATE),
    "br": (_BROTLI,),
    "zstd": (_ZSTD,),
}


def decode(body: bytes, codings: Sequence[str], limit: int, whole: bool = True) -> Content:
    """Return the content of ``body``, at most ``limit`` bytes.

    In a line it takes at most RATIO_MAX times the bytes of the body.

    ``codings`` are in the order in which they were applied. A body that is not
    ``whole`` is decoded as far as it goes; so is a whole one whose coding lacks its
    end, but that is UNDECODABLE. Bytes that stand behind the end are skipped.
    """
    untouched = Content(body, tuple(codings), UNDECODABLE)
    if not body:
        return Content(body, (), None)
    if len(codings) > _CODINGS_MAX:
        return untouched
    limit = min(limit, len(body) * RATIO_MAX)
    content, reason = body, None
    for coding in reversed(codings):
        # One byte more than the limit tells whether there was more.
        decoded = _remove(coding, content, limit + 1)
        if decoded is None:
            return untouched
        content, ended = decoded
        if len(content) > limit:
            content, whole, reason = content[:limit], False, DECODED_LIMIT
        elif whole and not ended:
            whole, reason = False, UNDECODABLE
    kept = cut(content, len(body) * RATIO_MAX)
    return Content(kept, (), reason if len(kept) == len(content) else DECODED_LIMIT)


def _remove(coding: str, data: bytes, limit: int) -> tuple[bytes, bool] | None:
    """Return the content of ``data`` and whether its coding has ended; ``None``: not so coded."""
    for codec in CODECS.get(coding, ()):
        try:
            return _read(codec, data, limit)
        except codec.error:
            continue
    return None


def _read(codec: Codec, data: bytes, limit: int) -> tuple[bytes, bool]:
    content = bytearray()
    for _ in range(_MEMBERS_MAX):
        decoder = codec.decoder()
        content += decoder.decompress(data, limit - len(content))
        if len(content) == limit or not decoder.eof:
            return bytes(content), False
        data = decoder.unused_data
        if not data.startswith(codec.further):
            return bytes(content), True
    return bytes(content), False
