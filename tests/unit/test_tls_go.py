# SPDX-License-Identifier: Apache-2.0
"""Functions of Go programs, which have no symbols when they are stripped."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.tls import go
from profiler.ingest.tls.elf import ElfError, Image
from profiler.ingest.tls.returns import Bounds, Exits, locate
from tests.unit import elf_files
from tests.unit.elf_files import (
    AARCH64,
    BASE,
    BUILDINFO,
    GO_1_18,
    GO_1_20,
    RELA,
    X86_64,
    Elf,
    Part,
    opened,
    pclntab,
)

READ, WRITE = "crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"
TEXT = 0x10_0000

PROGRAM = """
package main

import "crypto/tls"

func main() {
	connection, err := tls.Dial("tcp", "127.0.0.1:1", nil)
	if err == nil {
		connection.Write(make([]byte, 1))
		connection.Read(make([]byte, 1))
	}
}
"""


def table(functions: dict[str, int], end: int, **members: int) -> bytes:
    return pclntab(functions, end, **{"text": TEXT, **members})


def program(content: bytes, machine: int = X86_64, name: str = ".gopclntab") -> bytes:
    version = BUILDINFO + b"\x08go1.24.4"
    parts = [Part(name, content), Part(".go.buildinfo", version)]
    return Elf(machine=machine, extra=parts).build()


FUNCTIONS = {"runtime.main": 0x20, READ: 0x40, WRITE: 0x100}
EXPECTED = {READ: {Bounds(TEXT + 0x40, TEXT + 0x100)}, WRITE: {Bounds(TEXT + 0x100, TEXT + 0x180)}}


@pytest.mark.parametrize("magic", [GO_1_18, GO_1_20])
@pytest.mark.parametrize("name", [".gopclntab", ".data.rel.ro.gopclntab", ".renamed"])
def test_functions_are_found_in_the_table(magic: int, name: str) -> None:
    with opened(program(table(FUNCTIONS, 0x180, magic=magic), name=name)) as descriptor:
        image = Image(descriptor)
        assert go.version(image) == "go1.24.4"
        assert go.functions(image, {READ, WRITE, "not.there"}) == EXPECTED


def test_functions_of_aarch64() -> None:
    with opened(program(table(FUNCTIONS, 0x180, quantum=4), AARCH64)) as descriptor:
        assert go.functions(Image(descriptor), {READ, WRITE}) == EXPECTED


def test_a_number_that_is_like_a_name_is_no_function() -> None:
    # In the table, a description that is the last function's entry comes before an entry that is
    # the offset of Read's name.
    functions = {"runtime.main": 1, READ: 5, "other": 14, WRITE: 76}
    content = table(functions, 0x180)
    assert struct.pack("<II", functions[WRITE], content.index(READ.encode()) - 72) in content
    with opened(program(content)) as descriptor:
        assert go.functions(Image(descriptor), {READ}) == {READ: {Bounds(TEXT + 5, TEXT + 14)}}


def module(at: int, minimum: int, text: int) -> bytes:
    """Return the beginning of the runtime's moduledata, which points to the table."""
    return struct.pack("<Q152x4Q", at, minimum, 0, text, 0)


def test_the_start_of_the_code_comes_from_the_runtime() -> None:
    parts = [Part(".gopclntab", pclntab(FUNCTIONS, 0x180)), Part(".data", b"")]
    file = Elf(extra=parts, flags=elf_files.READ | elf_files.WRITE)
    file.build()
    at = BASE + parts[0].offset
    # The lowest function is 0x20 after the start. So the first of these is something else.
    parts[1].content = module(at, TEXT + 0x20, TEXT + 1) + module(at, TEXT + 0x20, TEXT)
    with opened(file.build()) as descriptor:
        assert go.functions(Image(descriptor), {READ, WRITE}) == EXPECTED


def test_the_start_of_the_code_comes_from_relocations() -> None:
    """Position-independent programs have zeros in the place of pointers."""
    parts = [Part(".gopclntab", pclntab(FUNCTIONS, 0x180)), Part(".rela.dyn", b"", RELA)]
    file = Elf(extra=parts)
    file.build()
    places = {}
    for place, wrong in ((0x40_0000, 1), (0x50_0000, 0)):
        places[place] = BASE + parts[0].offset
        places[place + 20 * 8] = TEXT + 0x20 + 2 * wrong
        places[place + 22 * 8] = TEXT + wrong
    parts[1].content = b"".join(struct.pack("<QQQ", place, 8, to) for place, to in places.items())
    with opened(file.build()) as descriptor:
        assert go.functions(Image(descriptor), {READ, WRITE}) == EXPECTED


MALFORMED = {
    "another magic": (table(FUNCTIONS, 0x180, magic=7), "without a table"),
    "another machine's": (table(FUNCTIONS, 0x180, quantum=4), "without a table"),
    "before Go 1.18": (table(FUNCTIONS, 0x180, magic=0xFFFFFFFA), "version before 1.18"),
    "too many functions": (table(FUNCTIONS, 0x180, count=1 << 60), "without a table"),
    "no start of the code": (table(FUNCTIONS, 0x180, text=0), "start of the code was not found"),
}


@pytest.mark.parametrize(("content", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_table_gives_one_line(content: bytes, reason: str) -> None:
    with opened(program(content)) as descriptor:
        image = Image(descriptor)
        with pytest.raises(ElfError, match=reason):
            go.functions(image, {READ, WRITE})


def test_a_table_that_is_full_of_one_name() -> None:
    content = table({READ: 0x40}, 0x80) + struct.pack("<II", 0x41, 1) * 2000
    with opened(program(content)) as descriptor:
        image = Image(descriptor)
        with pytest.raises(ElfError, match="too many of one name"):
            go.functions(image, {READ})


@pytest.mark.parametrize(
    ("info", "version"),
    [
        (BUILDINFO + b"\x08go1.24.4\0", "go1.24.4"),
        (BUILDINFO[:15] + b"\0" + BUILDINFO[16:], ""),
        (BUILDINFO + b"\xff\x01go", ""),
        (BUILDINFO + b"\x05go\x1b[m", "go?[m"),
        (b"something else", None),
    ],
)
def test_the_version(info: bytes, version: str | None) -> None:
    with opened(Elf(extra=[Part(".go.buildinfo", info.ljust(256, b"\0"))]).build()) as descriptor:
        assert go.version(Image(descriptor)) == version


def test_other_programs_have_no_version() -> None:
    with opened(Elf({"main": b"\xc3"}).build()) as descriptor:
        assert go.version(Image(descriptor)) is None


@given(st.data())
def test_changed_bytes_give_no_other_error(data: st.DataObject) -> None:
    content = bytearray(table(FUNCTIONS, 0x180))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    with opened(program(bytes(content))) as descriptor:
        image = Image(descriptor)
        try:
            for found in go.functions(image, {READ, WRITE}).values():
                for bounds in found:
                    locate(bounds, image.machine, image.read, image.bounds_of)
        except ElfError:
            return


def build(tmp_path: Path, architecture: str, *options: str) -> Path:
    """Build the program with the Go of this machine, without a network."""
    compiler = shutil.which("go")
    if compiler is None:
        pytest.fail("Go is needed: provisioning/setup-host.sh installs it")
    source = tmp_path / "main.go"
    source.write_text(PROGRAM)
    target = tmp_path / "-".join((architecture, *options)).replace(" ", "").replace("=", "-")
    offline = {"GOPROXY": "off", "GOTOOLCHAIN": "local"}
    settings = {**os.environ, **offline, "GOARCH": architecture, "CGO_ENABLED": "0"}
    command = [compiler, "build", *options, "-o", str(target), str(source)]
    subprocess.run(command, check=True, env=settings, cwd=tmp_path)
    return target


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_stripping_changes_nothing(architecture: str, tmp_path: Path) -> None:
    """The linker's symbol table is the reference; both ways of linking have other addresses."""
    for mode in ("-buildmode=exe", "-buildmode=pie"):
        with opened(build(tmp_path, architecture, mode)) as descriptor:
            image = Image(descriptor)
            expected = image.functions({READ, WRITE})
            assert expected.keys() == {READ, WRITE}
            with_symbols = go.functions(image, {READ, WRITE})
        with opened(build(tmp_path, architecture, mode, "-ldflags=-s -w")) as descriptor:
            image = Image(descriptor)
            assert image.functions({READ, WRITE}) == {}
            stripped = go.functions(image, {READ, WRITE})
            # Without the names of sections, both are found by their magic.
            image.sections = [one._replace(name="") for one in image.sections]
            assert str(go.version(image)).startswith("go1.")
            assert go.functions(image, {READ, WRITE}) == stripped == with_symbols
            for name, functions in stripped.items():
                (found,), (symbol,) = functions, expected[name]
                assert found.start == symbol.start
                # The table's end is the start of the next function.
                assert symbol.stop <= found.stop < symbol.stop + 64
                exits = locate(found, image.machine, image.read, image.bounds_of)
                assert isinstance(exits, Exits)
                assert exits == locate(symbol, image.machine, image.read, image.bounds_of)
