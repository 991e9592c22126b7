# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import sys
import time
import tracemalloc
import zlib
from random import Random

import brotli
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.exchanges.text import escaped
from profiler.ingest.http.amplification import RATIO_MAX
from profiler.ingest.http.content import CODECS, BrotliDecoder, decode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b"".join(b"%d brown foxes jump over %d dogs\n" % (n, n * n) for n in range(2000))
LIMIT = 100_000
UNDECODABLE, DECODED_LIMIT = "undecodable", "decoded_limit"


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


def zstd_blocks(data: bytes) -> bytes:
    """Compress as a streaming server does: a decoder can begin before the end."""
    encoder = zstd.ZstdCompressor()
    pieces = [data[at : at + 5000] for at in range(0, len(data), 5000)]
    return b"".join(encoder.compress(p, encoder.FLUSH_BLOCK) for p in pieces) + encoder.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd_blocks,
}


def test_every_codec_is_tested() -> None:
    assert set(ENCODERS) == set(CODECS)


@pytest.mark.parametrize("coding", ENCODERS)
@given(content=st.binary(max_size=500))
def test_a_coding_is_removed(coding: str, content: bytes) -> None:
    assert decode(ENCODERS[coding](content), [coding], LIMIT) == (content, (), None)


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_long_content(coding: str) -> None:
    assert decode(ENCODERS[coding](TEXT), [coding], len(TEXT)) == (TEXT, (), None)


def test_deflate_without_its_wrapper() -> None:
    assert decode(raw_deflate(TEXT), ["deflate"], LIMIT) == (TEXT, (), None)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members(coding: str) -> None:
    encode = ENCODERS[coding]
    body = encode(b"ab") + encode(b"") + encode(b"cd")
    assert decode(body, [coding], LIMIT) == (b"abcd", (), None)
    assert decode(body, [coding], 3) == (b"abc", (), DECODED_LIMIT)


def test_skippable_zstd_frames() -> None:
    skipped = b"\x5f\x2a\x4d\x18\x03\0\0\0abc"
    body = skipped + zstd.compress(b"te") + skipped + zstd.compress(b"xt")
    assert decode(body, ["zstd"], LIMIT) == (b"text", (), None)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_bytes_after_the_end_are_ignored(coding: str) -> None:
    assert decode(ENCODERS[coding](TEXT) + b"\0\0junk", [coding], LIMIT) == (TEXT, (), None)


def test_codings_are_removed_from_the_last_to_the_first() -> None:
    body = gzip.compress(brotli.compress(zstd.compress(zlib.compress(TEXT))))
    assert decode(body, ["deflate", "zstd", "br", "gzip"], LIMIT) == (TEXT, (), None)
    wrong = ["gzip", "deflate"]
    body = gzip.compress(zlib.compress(TEXT))
    assert decode(body, wrong, LIMIT) == (body, tuple(wrong), UNDECODABLE)


def test_no_coding_and_no_body() -> None:
    assert decode(TEXT, [], LIMIT) == (TEXT, (), None)
    assert decode(b"", ["gzip"], LIMIT) == (b"", (), None)


@pytest.mark.parametrize("coding", ["compress", "br;q=1", "aes128gcm", "dcz"])
def test_an_unknown_coding_leaves_the_body_as_it_is(coding: str) -> None:
    assert decode(TEXT, [coding], LIMIT) == (TEXT, (coding,), UNDECODABLE)
    body = gzip.compress(TEXT)
    assert decode(body, [coding, "gzip"], LIMIT) == (body, (coding, "gzip"), UNDECODABLE)


@pytest.mark.parametrize("coding", ENCODERS)
def test_bytes_that_are_not_of_the_coding(coding: str) -> None:
    for whole in (True, False):
        assert decode(TEXT, [coding], LIMIT, whole) == (TEXT, (coding,), UNDECODABLE)


def test_a_wrong_checksum() -> None:
    body = bytearray(gzip.compress(TEXT))
    body[-6] ^= 1
    assert decode(bytes(body), ["gzip"], LIMIT) == (bytes(body), ("gzip",), UNDECODABLE)


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_truncated_body_is_decoded_up_to_the_cut(coding: str) -> None:
    body = ENCODERS[coding](TEXT)
    for missing in (1, 6, len(body) // 4):
        content, codings, reason = decode(body[:-missing], [coding], LIMIT, whole=False)
        assert (codings, reason) == ((), None)
        assert len(TEXT) // 2 < len(content)
        assert TEXT.startswith(content)
        # The same, but the message is complete: its coding breaks the rules.
        assert decode(body[:-missing], [coding], LIMIT) == (content, (), UNDECODABLE)


@pytest.mark.parametrize("coding", ENCODERS)
def test_content_beyond_the_limit_is_cut_off(coding: str) -> None:
    body = ENCODERS[coding](TEXT)
    assert decode(body, [coding], len(TEXT)) == (TEXT, (), None)
    assert decode(body, [coding], len(TEXT) - 1) == (TEXT[:-1], (), DECODED_LIMIT)
    assert decode(body, [coding], 10) == (TEXT[:10], (), DECODED_LIMIT)
    assert decode(body[:-6], [coding], 10, whole=False) == (TEXT[:10], (), DECODED_LIMIT)


@pytest.mark.parametrize("coding", ENCODERS)
def test_content_beyond_the_ratio_is_cut_off(coding: str) -> None:
    body = ENCODERS[coding](b"x" * 1_000_000)
    content, codings, reason = decode(body, [coding], 1_000_000)
    assert (codings, reason) == ((), DECODED_LIMIT)
    assert content == b"x" * RATIO_MAX * len(body)


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("unit", [b"\0", b"\x7f", b'"', b"\x1b[1m", "\x9b".encode(), b"\x9b"])
def test_the_ratio_counts_what_a_line_takes(coding: str, unit: bytes) -> None:
    body = ENCODERS[coding](unit * 1_000_000)
    content, codings, reason = decode(body, [coding], 10_000_000)
    assert (codings, reason) == ((), DECODED_LIMIT)
    text = content.decode("iso-8859-1" if unit == b"\x9b" else "utf-8", "ignore")
    line = escaped(orjson.dumps(text))
    assert RATIO_MAX * len(body) / 2 < len(line) <= RATIO_MAX * len(body) + 2


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_bomb_costs_no_more_than_the_limit(coding: str) -> None:
    body = ENCODERS[coding](b"x" * 20_000_000)
    body += bytes(LIMIT // RATIO_MAX)  # to be within the ratio
    tracemalloc.start()
    content, _, reason = decode(body, [coding], LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(content), reason) == (LIMIT, DECODED_LIMIT)
    assert peak < 8 * LIMIT + 8 * len(body)


def test_a_bomb_after_content_that_fills_the_limit() -> None:
    content = Random(0).randbytes(LIMIT + 1)
    body = gzip.compress(content) + gzip.compress(bytes(20_000_000))
    tracemalloc.start()
    assert decode(body, ["gzip"], LIMIT) == (content[:-1], (), DECODED_LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * LIMIT + 8 * len(body)


def test_members_share_one_limit() -> None:
    content = Random(0).randbytes(LIMIT - 1)
    body = gzip.compress(content) + b"".join(gzip.compress(bytes(LIMIT << n)) for n in range(8))
    tracemalloc.start()
    assert decode(body, ["gzip"], LIMIT) == (content + b"\0", (), DECODED_LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * LIMIT + 8 * len(body)


@pytest.mark.parametrize("size", [1, 10, 40_000])
def test_brotli_yields_no_more_than_requested(size: int) -> None:
    assert BrotliDecoder().decompress(brotli.compress(bytes(100_000)), size) == bytes(size)


def test_a_bomb_in_a_bomb_is_cut_off() -> None:
    body = gzip.compress(gzip.compress(Random(0).randbytes(5_000) + bytes(10_000_000)))
    content, codings, reason = decode(body, ["gzip", "gzip"], LIMIT)
    assert (len(content), codings, reason) == (LIMIT, (), DECODED_LIMIT)


def test_a_zstd_window_larger_than_http_allows() -> None:
    encoder = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
    body = encoder.compress(TEXT) + encoder.flush()
    assert decode(body, ["zstd"], LIMIT) == (body, ("zstd",), UNDECODABLE)


def test_content_cut_off_between_two_codings_is_not_broken() -> None:
    content = Random(0).randbytes(3000)
    body = gzip.compress(gzip.compress(content))
    found, codings, reason = decode(body, ["gzip", "gzip"], 2000)
    assert (codings, reason) == ((), DECODED_LIMIT)
    assert content.startswith(found)
    assert len(found) > 1900


def test_too_many_codings() -> None:
    body = TEXT
    for _ in range(5):
        body = gzip.compress(body)
    assert decode(body, ["gzip"] * 5, LIMIT) == (body, ("gzip",) * 5, UNDECODABLE)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_without_content_cost_no_more_than_their_length(coding: str) -> None:
    body = ENCODERS[coding](b"") * 50_000
    started = time.process_time()
    assert decode(body, [coding], 1_000_000) == (b"", (), UNDECODABLE)
    assert time.process_time() - started < 1


CODED = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda coding, content, cut, more: ENCODERS[coding](content)[:cut] + more,
        st.sampled_from([*CODECS]),
        st.binary(max_size=200),
        st.integers(1, 200),
        st.binary(max_size=20),
    ),
)


@given(CODED, st.lists(st.sampled_from([*CODECS, "aes128gcm"]), max_size=3), st.booleans())
def test_nothing_raises_and_the_limit_holds(body: bytes, codings: list[str], whole: bool) -> None:
    content, left, reason = decode(body, codings, 50, whole)
    assert reason in (None, UNDECODABLE, DECODED_LIMIT)
    if left:
        assert (content, left, reason) == (body, tuple(codings), UNDECODABLE)
    else:
        assert len(content) <= 50 or not codings
