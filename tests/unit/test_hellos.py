# SPDX-License-Identifier: Apache-2.0
"""What the unencrypted start of a TLS connection reveals, with hellos that OpenSSL made."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.decryption.handshake import Handshake
from profiler.ingest.decryption.hellos import Hellos
from profiler.ingest.wire import RECV, SEND, Hello
from tests.unit.talk_tls import CLIENT, SERVER, Talk, contexts, talk

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
SOCKET = 77
OFFERED = ("h2", "http/1.1")


@pytest.fixture(scope="module")
def modern() -> Talk:
    return talk(*contexts(TLS13, protocols=OFFERED))


def pieces(direction: int, data: bytes, sizes: Iterator[int] | int) -> list[Hello]:
    """Cut the bytes of a direction: each piece has ``sizes`` bytes."""
    found, at = [], 0
    while at < len(data):
        size = sizes if isinstance(sizes, int) else next(sizes)
        found.append(Hello(direction, SOCKET, at, data[at : at + size]))
        at += size
    return found


def known(hellos: list[Hello]) -> list[Handshake]:
    reader = Hellos()
    return [found for found in map(reader.feed, hellos) if found]


@pytest.mark.parametrize("size", [1, 5, 100, 5000])
def test_tls13(modern: Talk, size: int) -> None:
    first, last = known(
        pieces(RECV, modern.bytes_of(CLIENT), size) + pieces(SEND, modern.bytes_of(SERVER), size)
    )
    assert first == Handshake(SOCKET, None, None, None, "example.org", OFFERED)
    assert last == first._replace(version="1.3", cipher="TLS_AES_256_GCM_SHA384")
    # The server's choice is encrypted; what was offered and is spoken, was selected.
    assert last.of_message("2").protocol == "h2"
    assert last.of_message("1.1").protocol == "http/1.1"
    assert last.of_message("1.0").protocol is None


def test_tls12() -> None:
    spoken = talk(*contexts(TLS12, "ECDHE-ECDSA-AES128-GCM-SHA256", protocols=OFFERED))
    *_, last = known(
        pieces(SEND, spoken.bytes_of(CLIENT), 4096) + pieces(RECV, spoken.bytes_of(SERVER), 4096)
    )
    cipher = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    assert last == Handshake(SOCKET, "1.2", cipher, "h2", "example.org", OFFERED)


def test_a_cipher_without_a_known_name() -> None:
    spoken = talk(*contexts(TLS12, "ECDHE-ECDSA-AES128-SHA"))
    *_, last = known(pieces(RECV, spoken.bytes_of(SERVER), 4096))
    assert last == Handshake(SOCKET, "1.2", None, None, None)


def test_after_lost_bytes_nothing_is_known(modern: Talk) -> None:
    first, _, *others = pieces(RECV, modern.bytes_of(CLIENT), 50)
    assert known([first, *others]) == []


def test_an_inode_that_is_used_again(modern: Talk) -> None:
    begun = pieces(RECV, modern.bytes_of(CLIENT), 100)[:2]
    whole = pieces(RECV, modern.bytes_of(CLIENT), 5000)
    assert [each.server_name for each in known(begun + whole)] == ["example.org"]


def test_the_number_of_open_hellos_is_bounded(modern: Talk) -> None:
    reader = Hellos()
    hello = pieces(RECV, modern.bytes_of(CLIENT), 100)
    for number in range(600):
        reader.feed(hello[0]._replace(socket=number))
    for number, is_known in ((0, False), (599, True)):
        rest = [reader.feed(each._replace(socket=number)) for each in hello[1:]]
        assert any(rest) == is_known


@given(st.data())
def test_any_bytes(modern: Talk, data: st.DataObject) -> None:
    wire = bytearray(modern.bytes_of(CLIENT)[:600])
    for _ in range(data.draw(st.integers(0, 5))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    sizes = data.draw(st.lists(st.integers(1, 600), min_size=1))
    cut = pieces(RECV, bytes(wire), iter(sizes * 600))
    for found in known(cut):
        assert found.socket == SOCKET
