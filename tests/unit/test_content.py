from __future__ import annotations

import gzip
import zlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.http.content import CODECS, decode

TEXT = b"The quick brown fox. " * 50
LIMIT = 10_000


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}


def test_every_codec_is_tested() -> None:
    assert set(ENCODERS) == set(CODECS)


@pytest.mark.parametrize("coding", ENCODERS)
@given(content=st.binary(max_size=500))
def test_a_coding_is_removed(coding: str, content: bytes) -> None:
    assert decode(ENCODERS[coding](content), [coding], LIMIT) == (content, None)


def test_deflate_without_its_wrapper() -> None:
    assert decode(raw_deflate(TEXT), ["deflate"], LIMIT) == (TEXT, None)


def test_several_gzip_members() -> None:
    assert decode(gzip.compress(b"ab") + gzip.compress(b"cd"), ["gzip"], LIMIT) == (b"abcd", None)


def test_codings_are_removed_from_the_last_to_the_first() -> None:
    body = gzip.compress(zlib.compress(TEXT))
    assert decode(body, ["deflate", "gzip"], LIMIT) == (TEXT, None)
    assert decode(body, ["gzip", "deflate"], LIMIT) == (body, "undecodable")


def test_no_coding_and_no_body() -> None:
    assert decode(TEXT, [], LIMIT) == (TEXT, None)
    assert decode(b"", ["gzip"], LIMIT) == (b"", None)


@pytest.mark.parametrize("coding", ["compress", "br;q=1", "aes128gcm"])
def test_an_unknown_coding_leaves_the_body_as_it_is(coding: str) -> None:
    assert decode(TEXT, [coding], LIMIT) == (TEXT, "undecodable")


@pytest.mark.parametrize("coding", ENCODERS)
def test_bytes_that_are_not_of_the_coding(coding: str) -> None:
    assert decode(TEXT, [coding], LIMIT) == (TEXT, "undecodable")


def test_a_wrong_checksum() -> None:
    body = bytearray(gzip.compress(TEXT))
    body[-6] ^= 1
    assert decode(bytes(body), ["gzip"], LIMIT) == (bytes(body), "undecodable")


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_cut_off_body_is_decoded_as_far_as_it_goes(coding: str) -> None:
    body = ENCODERS[coding](TEXT)[:-6]
    content, reason = decode(body, [coding], LIMIT, whole=False)
    assert reason is None
    assert content
    assert TEXT.startswith(content)
    assert decode(body, [coding], LIMIT) == (body, "undecodable")


@pytest.mark.parametrize("coding", ENCODERS)
def test_content_beyond_the_limit_is_cut_off(coding: str) -> None:
    body = ENCODERS[coding](TEXT)
    assert decode(body, [coding], len(TEXT)) == (TEXT, None)
    assert decode(body, [coding], len(TEXT) - 1) == (TEXT[:-1], "body_limit")
    assert decode(body, [coding], 10) == (TEXT[:10], "body_limit")


def test_a_bomb_in_a_bomb_is_cut_off() -> None:
    body = gzip.compress(gzip.compress(bytes(10_000_000)))
    content, reason = decode(body, ["gzip", "gzip"], LIMIT)
    assert (len(content), reason) == (LIMIT, "body_limit")


def test_what_is_cut_off_between_two_codings_is_not_broken() -> None:
    content = Random(0).randbytes(3000)
    body = gzip.compress(gzip.compress(content))
    found, reason = decode(body, ["gzip", "gzip"], 2000)
    assert reason == "body_limit"
    assert content.startswith(found)
    assert len(found) > 1900


def test_more_codings_than_anybody_applies() -> None:
    body = TEXT
    for _ in range(5):
        body = gzip.compress(body)
    assert decode(body, ["gzip"] * 5, LIMIT) == (body, "undecodable")


@given(
    st.binary(max_size=200), st.lists(st.sampled_from([*CODECS, "br"]), max_size=3), st.booleans()
)
def test_nothing_raises_and_the_limit_holds(body: bytes, codings: list[str], whole: bool) -> None:
    content, reason = decode(body, codings, 50, whole)
    assert reason in (None, "undecodable", "body_limit")
    assert len(content) <= 50 or content == body
