# SPDX-License-Identifier: Apache-2.0
"""TLS libraries: small ones made here, and those of this machine."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import ssl
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.tls import bio
from profiler.ingest.tls.elf import ElfError, Image
from profiler.ingest.tls.libraries import KINDS, Hook, Library, examine
from tests.unit.elf_files import BASE, BUILDINFO, RELA, Elf, Part, opened, pclntab
from tests.unit.test_tls_go import READ, WRITE

RETURN = b"\x31\xc0\xc3"
POINTER = b"\xff\x60\x30"


def examined(file: Elf, content: bytes | None = None) -> list[Library]:
    with opened(content or file.build()) as descriptor:
        return examine(descriptor)


def test_openssl() -> None:
    names = ("SSL_read", "SSL_write", "SSL_free", "other")
    file = Elf(dict.fromkeys(names, RETURN), soname="libssl.so.3")
    (library,) = examined(file)
    offsets = {name: address - BASE for name, address in file.addresses.items()}
    assert library == Library(
        *("openssl", "x86_64", "libssl.so.3", ""),
        (
            Hook(("SSL_read",), offsets["SSL_read"], 3, (offsets["SSL_read"] + 2,)),
            Hook(("SSL_write",), offsets["SSL_write"], 3, (offsets["SSL_write"] + 2,)),
            Hook(("SSL_free",), offsets["SSL_free"], 3, ()),
        ),
    )


def test_a_file_can_hold_several_libraries() -> None:
    functions = ("SSL_read", "SSL_write", "BIO_read", "BIO_write")
    functions += ("gnutls_record_send", "gnutls_record_recv")
    info = BUILDINFO + b"\x08go1.24.4"
    # The code of the Go functions is at the address of the first function.
    file = Elf(dict.fromkeys(functions, RETURN.ljust(16, b"\xcc")))
    file.build()
    table = pclntab({READ: 0, WRITE: 16}, 32, text=file.addresses["SSL_read"])
    file.extra = [Part(".gopclntab", table), Part(".go.buildinfo", info)]
    libraries = examined(file)
    assert [one.kind for one in libraries] == ["openssl", "libcrypto", "gnutls", "go"]
    assert libraries[3].version == "go1.24.4"
    assert [hook.names for hook in libraries[3].hooks] == [(READ,), (WRITE,)]


def test_a_file_without_both_directions_is_no_library() -> None:
    assert examined(Elf({"SSL_read": RETURN, "gnutls_record_recv": RETURN})) == []


def test_what_is_no_elf_file_is_no_library() -> None:
    assert examined(Elf(), b"#!/bin/sh\n") == []
    assert examined(Elf(), b"\0") == []


def test_names_with_the_same_code_are_probed_once() -> None:
    names = {"SSL_read": RETURN, "SSL_write": RETURN}
    (library,) = examined(Elf(names, aliases={"SSL_read_ex": "SSL_read"}))
    assert [hook.names for hook in library.hooks] == [("SSL_read", "SSL_read_ex"), ("SSL_write",)]


FORWARDED = {
    # 16 bytes lie between the starts of two functions, and 5 of them are the jump.
    "by a jump": (b"\xe9\x0b\0\0\0", ["SSL_write_ex2"]),
    "through the linkage table": (b"\xff\x25\0\0\0\0", ["SSL_write_ex2"]),
    "not at all": (RETURN, ["SSL_write_ex", "SSL_write_ex2"]),
}


@pytest.mark.parametrize(("code", "probed"), FORWARDED.values(), ids=FORWARDED.keys())
def test_a_function_that_only_calls_another_one_is_not_probed(
    code: bytes, probed: list[str]
) -> None:
    functions = {"SSL_read": RETURN, "SSL_write": RETURN}
    functions.update({"SSL_write_ex": code, "SSL_write_ex2": RETURN})
    (library,) = examined(Elf(functions))
    assert [hook.names[0] for hook in library.hooks[2:]] == probed
    assert library.refused == ()


def test_code_beyond_the_end_of_the_file_is_refused() -> None:
    file = Elf({"SSL_read": RETURN, "SSL_write": RETURN, "SSL_free": RETURN})
    content = file.build()
    start = file.addresses["SSL_free"]
    # The segment pretends to be long: p_filesz is at byte 32 of its header.
    moved = content.replace(struct.pack("<Q", start), struct.pack("<Q", BASE + 0x8000), 1)
    moved = moved[: 64 + 32] + struct.pack("<Q", 0x9000) + moved[64 + 40 :]
    (library,) = examined(file, moved)
    assert library.refused == ("SSL_free: its code is not in the file",)


def test_refused_functions_have_a_reason() -> None:
    functions = {"SSL_read": RETURN, "SSL_write": RETURN, "SSL_sendfile": POINTER}
    # The entry of the last one is enough: it may leave as it likes.
    functions["SSL_shutdown"] = POINTER
    (library,) = examined(Elf(functions))
    assert [hook.names[0] for hook in library.hooks] == ["SSL_read", "SSL_write", "SSL_shutdown"]
    (reason,) = library.refused
    assert reason.startswith("SSL_sendfile: it leaves by a jump through a pointer at 0x")


def test_a_size_that_the_symbol_lacks_or_pretends() -> None:
    functions = {"SSL_read": RETURN, "SSL_write": RETURN}
    (library,) = examined(Elf(functions, sizes={"SSL_read": 0, "SSL_write": 2}))
    # The first comes from .eh_frame; the second ends before its return.
    assert [hook.names[0] for hook in library.hooks] == ["SSL_read"]
    assert library.refused == ("SSL_write: its end is not the end of its code",)


@pytest.mark.parametrize(
    ("constants", "version"),
    [
        (b"OpenSSL 3.0.19 27 Jan 2026", "OpenSSL 3.0.19 27 Jan 2026"),
        (b"OpenSSL 1.1.1w  11 Sep 2023", "OpenSSL 1.1.1w  11 Sep 2023"),
        (b"LibreSSL 3.8.2", "LibreSSL 3.8.2"),
        (b"OpenSSL 1.1.1 (compatible; BoringSSL)", "OpenSSL 1.1.1 (compatible; BoringSSL)"),
        (b"enable OpenSSL 3.0 legacy provider\0OpenSSL 3.0.19", "OpenSSL 3.0.19"),
        (b"OpenSSL 3.0.19\0OpenSSL 3.0.18", ""),
        (b"OpenSSL 3.0.1\x1b[m", ""),
        (b"3.7.9", ""),
    ],
)
def test_versions(constants: bytes, version: str) -> None:
    functions = {"SSL_read": RETURN, "SSL_write": RETURN}
    (library,) = examined(Elf(functions, constants=constants))
    assert library.version == version


def bio_method(*pointers: bytes) -> Part:
    """OpenSSL's table of BIO_f_ssl(): the type, then pointers."""
    return Part(".data.rel.ro", struct.pack("<Q", 0x207) + b"".join(pointers))


OPENSSL_BIO, LIBRESSL_BIO = (1, 0, 2, 0), (1, 2, 0, 0)


@pytest.mark.parametrize("order", [OPENSSL_BIO, LIBRESSL_BIO], ids=["OpenSSL", "LibreSSL"])
@pytest.mark.parametrize("relocated", [False, True])
def test_the_functions_of_a_bio(order: tuple[int, ...], relocated: bool) -> None:
    """LibreSSL's table has other members, and its functions call SSL_read() and SSL_write()."""
    file = Elf(
        {"SSL_read": RETURN, "SSL_write": RETURN},
        locals={"write": RETURN, "read": RETURN},
        constants=b"ssl",
        extra=[bio_method(bytes(40))],
        flags=7,
    )
    content = file.build()
    name = BASE + content.index(b"\0ssl\0") + 1
    values = (0, file.addresses["write"], file.addresses["read"])
    pointers = [name, *(values[number] for number in order)]
    table = BASE + content.index(struct.pack("<Q", 0x207))
    if relocated:
        rows = (struct.pack("<QQQ", table + 8 * n, 8, one) for n, one in enumerate(pointers, 1))
        file.extra = [*file.extra, Part(".rela.dyn", b"".join(rows), RELA)]
    else:
        file.extra = [bio_method(*(struct.pack("<Q", one) for one in pointers))]
    (library,) = examined(file)
    found = {hook.names[0]: hook.entry + BASE for hook in library.hooks}
    if order == LIBRESSL_BIO:
        assert not {bio.READ, bio.WRITE} & found.keys()
    else:
        assert (found[bio.READ], found[bio.WRITE]) == (values[2], values[1])


def test_the_functions_of_the_bio_of_this_process() -> None:
    """They are those in the table in memory, which the loader has filled in."""
    (path,) = (path for path in mapped() if Path(path).name.startswith("libssl"))
    library = ctypes.CDLL(path)
    library.BIO_f_ssl.restype = ctypes.POINTER(ctypes.c_uint64)
    _, _, write, _, read = library.BIO_f_ssl()[:5]
    with opened(Path(path)) as descriptor:
        image = Image(descriptor)
        ((symbol,),) = image.functions({"SSL_read"}).values()
        found = {name: one.pop().start for name, one in bio.functions(image).items()}
    address = ctypes.cast(library.SSL_read, ctypes.c_void_p).value
    assert address is not None
    base = address - symbol.start
    assert found == {bio.READ: read - base, bio.WRITE: write - base}


ENTERED = {name for kind in KINDS for name in kind.entered}

# What this process has mapped, whatever its distribution: Python's own OpenSSL, and GnuTLS,
# which QEMU needs (provisioning/setup-host.sh).
assert ssl.OPENSSL_VERSION


def mapped() -> list[str]:
    ctypes.CDLL("libgnutls.so.30")
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = {line.split(maxsplit=5)[5] for line in lines if " r-xp " in line and "/" in line}
    return sorted(file for file in files if Path(file).is_file())


def test_libraries_of_this_machine_agree_with_a_disassembler() -> None:
    if shutil.which("objdump") is None:
        pytest.fail("objdump is needed: provisioning/setup-host.sh installs it")
    kinds = set()
    for path in mapped():
        with opened(Path(path)) as descriptor:
            libraries = examine(descriptor)
            image = Image(descriptor)
            for library in libraries:
                kinds.add(library.kind)
                assert library.refused == ()
                for hook in library.hooks:
                    _compare(path, image, hook)
    assert kinds >= {"openssl", "libcrypto", "gnutls"}


def _compare(path: str, image: Image, hook: Hook) -> None:
    returns = _returns(path, image, hook.entry, hook.entry + hook.size)
    own = [one for one in hook.returns if hook.entry <= one < hook.entry + hook.size]
    assert own == (returns if hook.returns else []), (path, hook)
    assert hook.returns or hook.names[0] in ENTERED
    for other in {*hook.returns} - {*own}:
        # A tail jump leads there: the disassembler starts at that function's start.
        assert other in _returns(path, image, *_around(image, other)), (path, hook)


def _around(image: Image, offset: int) -> tuple[int, int]:
    bounds = image.bounds_of(_address(image, offset))
    assert bounds
    start, last = image.code_offset(bounds.start), image.code_offset(bounds.stop - 1)
    assert start is not None and last is not None
    return start, last + 1


def _address(image: Image, offset: int) -> int:
    return next(
        segment.address + offset - segment.offset
        for segment in image.segments
        if 0 <= offset - segment.offset < segment.size
    )


def _returns(path: str, image: Image, start: int, stop: int) -> list[int]:
    """Return the offsets in the file of the RET instructions that objdump finds."""
    first = _address(image, start)
    span = [f"--start-address={first:#x}", f"--stop-address={first + stop - start:#x}"]
    command = ["objdump", "--disassemble", "--no-show-raw-insn", *span, path]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=_ENGLISH)
    pattern = re.compile(r"^ *([0-9a-f]+):\s+(?:(?:bnd|repz) )?ret[qab]*\b", re.MULTILINE)
    found = (int(match[1], 16) for match in pattern.finditer(run.stdout))
    return [start + address - first for address in found]


_ENGLISH = {**os.environ, "LC_ALL": "C"}


@given(st.data())
def test_changed_bytes_of_a_real_library_give_no_other_error(data: st.DataObject) -> None:
    """In the headers and tables; in the code, a change is a function or a reason."""
    content = bytearray(_LIBRARY)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(
            st.one_of(
                st.integers(0, 2000),
                st.integers(0, len(content) - 1),
                st.integers(len(content) - 4000, len(content) - 1),
            )
        )
        value = data.draw(st.sampled_from((b"\0", b"\xff", b"\xff\xff\xff\x7f", bytes(8), b"\1")))
        content[place : place + len(value)] = value
    size = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    with opened(bytes(content[:size])) as descriptor:
        try:
            libraries = examine(descriptor)
        except ElfError as error:
            assert re.fullmatch(r"[ -~]{10,400}", str(error))
            return
        for library in libraries:
            for hook in library.hooks:
                assert all(isinstance(one, int) for one in (hook.entry, *hook.returns))


def _of_this_process() -> bytes:
    for path in mapped():
        with opened(Path(path)) as descriptor:
            if any(one.kind == "gnutls" for one in examine(descriptor)):
                return Path(path).read_bytes()
    raise AssertionError("this process has GnuTLS")


_LIBRARY = _of_this_process()
