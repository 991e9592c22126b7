# SPDX-License-Identifier: Apache-2.0
"""ELF files, also those that hostile processes write."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.tls import elf
from profiler.ingest.tls.elf import ElfError, Image
from profiler.ingest.tls.returns import Bounds, Exits, locate
from tests.unit.elf_files import BASE, DYNAMIC, I386, STRTAB, SYMTAB, Elf, Part, opened

RETURN = b"\x31\xc0\xc3"
# Offsets of members of the header (elf(5)).
E_PHOFF, E_SHOFF, E_PHNUM, E_SHENTSIZE, E_SHNUM, E_SHSTRNDX = 32, 40, 56, 58, 60, 62
SH_SIZE, SH_LINK = 32, 40


def patched(content: bytes, offset: int, form: str, value: int) -> bytes:
    return content[:offset] + struct.pack(form, value) + content[offset + struct.calcsize(form) :]


def section(content: bytes, number: int) -> int:
    """Return the offset of a section's header."""
    (start,) = struct.unpack_from("<Q", content, E_SHOFF)
    return int(start) + 64 * number


@pytest.mark.parametrize("table", [".dynsym", ".symtab"])
def test_functions_are_found_by_name(table: str) -> None:
    file = Elf({"other": b"\xc3", "SSL_read": RETURN}, table=table, soname="libssl-6a9b.so.3")
    with opened(file.build()) as descriptor:
        image = Image(descriptor)
        assert image.machine == "x86_64"
        assert image.soname == "libssl-6a9b.so.3"
        start = file.addresses["SSL_read"]
        assert image.functions({"SSL_read", "SSL_write"}) == {
            "SSL_read": {Bounds(start, start + 3)}
        }
        assert image.read(start, 3) == RETURN
        assert image.code_offset(start) == start - BASE
        assert image.code_offset(BASE - 1) is None
        assert image.read(BASE - 1, 3) == b""


def test_code_is_in_an_executable_segment() -> None:
    file = Elf({"SSL_read": RETURN})
    content = file.build()
    # p_flags of the first segment: read and write.
    with opened(patched(content, 64 + 4, "<I", 6)) as descriptor:
        image = Image(descriptor)
        assert image.code_offset(file.addresses["SSL_read"]) is None
        assert image.offset_of(file.addresses["SSL_read"]) is not None


def test_a_name_may_be_the_end_of_another_one() -> None:
    """Linkers store ``read`` in the last bytes of ``SSL_read``."""
    file = Elf({"SSL_read": RETURN})
    content = file.build()
    shared = content.index(b"\0SSL_read\0") + 1
    symbols = content.index(struct.pack("<QQ", file.addresses["SSL_read"], 3)) - 8
    content = patched(content, symbols, "<I", struct.unpack_from("<I", content, symbols)[0] + 4)
    with opened(content) as descriptor:
        assert content[shared + 4 : shared + 9] == b"read\0"
        assert list(Image(descriptor).functions({"SSL_read", "read"})) == ["read"]


def test_other_symbols_are_no_functions() -> None:
    file = Elf({"SSL_read": RETURN})
    content = file.build()
    symbols = content.index(struct.pack("<QQ", file.addresses["SSL_read"], 3)) - 8
    for offset, value in ((4, 1 << 4 | 1), (4, 1 << 4 | 10)):
        # A variable, and a function that the loader chooses.
        with opened(patched(content, symbols + offset, "<B", value)) as descriptor:
            assert Image(descriptor).functions({"SSL_read"}) == {}
    # Imported: the section is 0.
    with opened(patched(content, symbols + 6, "<H", 0)) as descriptor:
        assert Image(descriptor).functions({"SSL_read"}) == {}


def test_unwinding_gives_the_bounds_of_functions_without_a_symbol() -> None:
    file = Elf({"a": b"\xc3", "b": RETURN}, locals={"c": RETURN, "d": b"\xc3"})
    with opened(file.build()) as descriptor:
        image = Image(descriptor)
        for name, size in (("a", 1), ("b", 3), ("c", 3), ("d", 1)):
            start = file.addresses[name]
            assert image.bounds_of(start) == Bounds(start, start + size)
        assert image.bounds_of(file.addresses["b"] + 2) is not None
        # Between two functions, before the first one, and after the last one.
        assert image.bounds_of(file.addresses["b"] + 3) is None
        assert image.bounds_of(file.addresses["a"] - 1) is None
        assert image.bounds_of(1 << 40) is None


def test_a_tail_jump_to_a_function_without_a_symbol_is_followed() -> None:
    # The second function is 16 bytes after the first one, and the jump has 5 bytes.
    file = Elf({"gnutls_record_recv": b"\xe9\x0b\0\0\0"}, locals={"receive": RETURN})
    with opened(file.build()) as descriptor:
        image = Image(descriptor)
        (bounds,) = image.functions({"gnutls_record_recv"})["gnutls_record_recv"]
        there = file.addresses["receive"]
        exits = locate(bounds, "x86_64", image.read, image.bounds_of)
        assert exits == Exits((there + 2,), there)


def test_texts_of_constants() -> None:
    with opened(Elf(constants=b"a\0OpenSSL 3.0.1\0xOpenSSL 3.0.2").build()) as descriptor:
        image = Image(descriptor)
        (constants,) = (one for one in image.sections if one.name == ".rodata")
        assert list(image.texts(constants, (b"LibreSSL ", b"OpenSSL "))) == [b"OpenSSL 3.0.1"]


GOOD = Elf({"SSL_read": RETURN}, extra=[Part(".symtab", bytes(48), SYMTAB, ".dynstr")]).build()
BROKEN = {
    "cut in the header": (GOOD[:40], "its header"),
    "no section table": (GOOD[:-64], "cannot be parsed"),
    "far sections": (patched(GOOD, E_SHOFF, "<Q", 1 << 63), "its sections"),
    "far segments": (patched(GOOD, E_PHOFF, "<Q", (1 << 64) - 8), "its segments"),
    "too many sections": (patched(GOOD, E_SHNUM, "<H", 65535), "too many sections"),
    "sections of no size": (patched(GOOD, E_SHENTSIZE, "<H", 0), "its "),
    "sections counted in the first": (
        patched(patched(GOOD, E_SHNUM, "<H", 0), section(GOOD, 0) + SH_SIZE, "<Q", 1 << 60),
        "too many sections",
    ),
    "names in no section": (patched(GOOD, E_SHSTRNDX, "<H", 4000), "its "),
    "too many segments": (patched(GOOD, E_PHNUM, "<H", 60000), "too many segments"),
    "symbols without strings": (
        patched(GOOD, section(GOOD, 2) + SH_LINK, "<I", 999),
        "a symbol table has no strings",
    ),
    "tags that are their own strings": (
        patched(GOOD, section(GOOD, 4) + SH_LINK, "<I", 4),
        "its sections",
    ),
    "too many symbols": (
        patched(GOOD, section(GOOD, 2) + SH_SIZE, "<Q", 1 << 40),
        "too many symbols",
    ),
    "32 bits": (Elf(machine=I386).build(), "another machine: 64 bits, EM_386"),
    "big endian": (patched(GOOD, 5, "<B", 2), "another machine: 64 bits"),
    "one name in all strings": (
        Elf(
            extra=[
                Part(".symtab", bytes(48), SYMTAB, ".strtab"),
                Part(".strtab", b"SSL_read\0" * 2000, STRTAB),
            ]
        ).build(),
        "SSL_read is too often among its strings",
    ),
    "tags without an end": (
        Elf(extra=[Part(".tags", b"\1" * 16 * 100_000, DYNAMIC, ".dynstr")]).build(),
        "takes too long",
    ),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_malformed_file_gives_one_line(content: bytes, reason: str) -> None:
    with opened(content) as descriptor, pytest.raises(ElfError) as raised:
        Image(descriptor).functions({"SSL_read"})
    assert reason in str(raised.value)
    assert re.fullmatch(r"[ -~]{10,100}", str(raised.value))


def test_a_name_that_is_defined_too_often() -> None:
    file = Elf({f"f{number}": RETURN for number in range(3)})
    content = file.build()
    for address in file.addresses.values():
        # All get the name of the first one, which is the first text.
        symbol = content.index(struct.pack("<QQ", address, 3)) - 8
        content = patched(content, symbol, "<I", 1)
    with opened(content) as descriptor, pytest.raises(ElfError, match="defines f0 too often"):
        Image(descriptor).functions({"f0"})


def test_sizes_that_a_file_pretends_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        block = pread(descriptor, size, offset)
        read.append(len(block))
        return block

    monkeypatch.setattr(elf, "MAX_BYTES", 20_000_000)
    monkeypatch.setattr(os, "pread", counted)
    content = patched(GOOD, section(GOOD, 3) + SH_SIZE, "<Q", 1 << 50)
    with opened(content) as descriptor:
        os.ftruncate(descriptor, 1 << 40)
        tracemalloc.start()
        with pytest.raises(ElfError, match="takes too long"):
            Image(descriptor).functions({"SSL_read"})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 5_000_000
    assert sum(read) <= 20_000_000


def test_places_that_look_like_what_is_searched_are_counted() -> None:
    with opened(Elf(constants=b"\0OpenSSL x" * elf.MAX_STEPS).build()) as descriptor:
        image = Image(descriptor)
        (constants,) = (one for one in image.sections if one.name == ".rodata")
        with pytest.raises(ElfError, match="takes too long"):
            list(image.texts(constants, (b"OpenSSL ",)))


def test_a_file_that_cannot_be_read() -> None:
    descriptor = os.open("/", os.O_RDONLY)
    with pytest.raises(ElfError, match="cannot be read: Is a directory"):
        Image(descriptor)
    os.close(descriptor)


@given(st.data())
def test_changed_bytes_give_no_other_error(data: st.DataObject) -> None:
    """Every member of every header is in the first and last bytes; symbols are between them."""
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 8))
        content[place : place + 8] = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from((bytes(8), b"\xff" * 8, b"\0\0\0\0\0\0\0\x80", b"\1")),
            )
        )
    with opened(bytes(content[: data.draw(st.integers(0, 2 * len(content)))])) as descriptor:
        try:
            image = Image(descriptor)
            for bounds in image.functions({"SSL_read"}).get("SSL_read", ()):
                locate(bounds, image.machine, image.read, image.bounds_of)
        except ElfError as error:
            assert re.fullmatch(r"[ -~]{10,400}", str(error))
