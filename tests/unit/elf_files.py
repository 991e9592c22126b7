# SPDX-License-Identifier: Apache-2.0
"""Small ELF files (elf(5)), made without a compiler: functions, symbols, constants, unwinding."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

X86_64, AARCH64, I386 = 62, 183, 3
BASE = 0x10000
"""Where the file is mapped, as a whole."""

NULL, PROGBITS, SYMTAB, STRTAB, RELA, DYNAMIC, DYNSYM = 0, 1, 2, 3, 4, 6, 11
EXECUTE, WRITE, READ = 1, 2, 4
LOAD, EH_FRAME = 1, 0x6474E550
FUNCTION = 2
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass
class Part:
    """A section; ``link`` is the name of the one that it refers to."""

    name: str
    content: bytes
    type: int = PROGBITS
    link: str = ""
    offset: int = 0
    """In the file, once it is laid out."""


@dataclass
class Elf:
    """An ELF file: change what is to be wrong, and then :meth:`build` it."""

    functions: Mapping[str, bytes] = field(default_factory=dict)
    machine: int = X86_64
    soname: str = ""
    constants: bytes = b""
    extra: Sequence[Part] = ()
    table: str = ".dynsym"
    locals: Mapping[str, bytes] = field(default_factory=dict)
    """Functions without a symbol, in ``.eh_frame`` only."""

    addresses: dict[str, int] = field(default_factory=dict)
    """Where each function is, once it is built."""

    flags: int = READ | EXECUTE
    """Of the segment with everything."""

    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of symbols that are wrong."""

    aliases: Mapping[str, str] = field(default_factory=dict)

    def build(self) -> bytes:
        """Return the file."""
        text = b""
        start = BASE + _HEADER.size + 2 * _PROGRAM.size
        for name, code in {**self.functions, **self.locals}.items():
            text += bytes(-len(text) % 16)
            self.addresses[name] = start + len(text)
            text += code
        strings = b"\0"
        symbols = _SYMBOL.pack(0, 0, 0, 0, 0, 0)
        named = {name: name for name in self.functions}
        for name, target in {**named, **self.aliases}.items():
            size = self.sizes.get(name, len(self.functions[target]))
            where = self.addresses[target]
            symbols += _SYMBOL.pack(len(strings), 1 << 4 | FUNCTION, 0, 1, where, size)
            strings += name.encode() + b"\0"
        dynamic = struct.pack("<QQQQ", 14, len(strings), 0, 0) if self.soname else bytes(16)
        strings += self.soname.encode() + b"\0"
        names = ".dynstr" if self.table == ".dynsym" else ".strtab"
        parts = [
            Part("", b"", NULL),
            Part(".text", text),
            Part(self.table, symbols, DYNSYM if self.table == ".dynsym" else SYMTAB, names),
            Part(names, strings, STRTAB),
            Part(".dynamic", dynamic, DYNAMIC, names),
            Part(".rodata", b"\0" + self.constants + b"\0"),
            *self.extra,
        ]
        return self._laid_out(parts, start - BASE)

    def _laid_out(self, parts: list[Part], offset: int) -> bytes:
        for part in parts[1:]:
            part.offset = offset
            offset += len(part.content) + -len(part.content) % 16
        unwind = self._unwind(BASE + offset)
        names = b"\0" + b"".join(part.name.encode() + b"\0" for part in [*parts, _NAMES])
        strings = offset + len(unwind)
        sections = strings + len(names)
        parts = [*parts, Part(_NAMES.name, names, STRTAB, offset=strings)]
        indices = {part.name: number for number, part in enumerate(parts)}
        headers = b""
        place = 1
        for part in parts:
            where = (BASE + part.offset, part.offset, len(part.content))
            link = indices.get(part.link, 0) if part.link else 0
            headers += _SECTION.pack(place, part.type, 0, *where, link, 0, 1, 24)
            place += len(part.name) + 1
        total = sections + len(headers)
        programs = _PROGRAM.pack(LOAD, self.flags, 0, BASE, BASE, total, total, 4096)
        programs += _PROGRAM.pack(EH_FRAME, 4, offset, BASE + offset, 0, 0, 0, 4)
        header = _HEADER.pack(
            b"\x7fELF\2\1\1",
            *(3, self.machine, 1, 0, _HEADER.size, sections, 0),
            *(_HEADER.size, _PROGRAM.size, 2, _SECTION.size, len(parts), len(parts) - 1),
        )
        content = bytearray(header + programs)
        for part in parts[1:-1]:
            content[part.offset :] = part.content + bytes(-len(part.content) % 16)
        return bytes(content) + unwind + names + headers

    def _unwind(self, address: int) -> bytes:
        """Return ``.eh_frame_hdr`` and ``.eh_frame`` for all functions, at ``address``."""
        every = {**self.functions, **self.locals}
        rows = b""
        head = 12 + 8 * len(every)
        # Augmentation "zR": addresses are 4 bytes and relative to their own place.
        common = struct.pack("<I4x", 20) + b"\1zR\0\1\x78\x10\1\x1b".ljust(16, b"\0")
        frames = common
        for name, code in every.items():
            entry = address + head + len(frames)
            rows += struct.pack("<ii", self.addresses[name] - address, entry - address)
            relative = self.addresses[name] - (entry + 8)
            frames += struct.pack("<IIiI8x", 20, len(frames) + 4, relative, len(code))
        frames += bytes(4)
        return b"\1\x1b\3\x3b" + struct.pack("<iI", head - 4, len(every)) + rows + frames


_NAMES = Part(".shstrtab", b"", STRTAB)


GO_1_18, GO_1_20 = 0xFFFFFFF0, 0xFFFFFFF1
BUILDINFO = b"\xff Go buildinf:\x08\x02".ljust(32, b"\0")
"""The version follows: one byte of length, and the text."""


def pclntab(
    functions: dict[str, int],
    end: int,
    magic: int = GO_1_20,
    quantum: int = 1,
    text: int = 0,
    count: int | None = None,
) -> bytes:
    """Return Go's table of functions: names and entries from ``text``, the end of the last one."""
    names = b"\0"
    table = bytearray()
    descriptions = b""
    rows = 8 * len(functions) + 4
    for name, entry in functions.items():
        table += struct.pack("<II", entry, rows + len(descriptions))
        descriptions += struct.pack("<Ii", entry, len(names)) + bytes(32)
        names += name.encode() + b"\0"
    table += struct.pack("<I", end)
    header = struct.pack("<I2xBB", magic, quantum, 8)
    files = 72 + len(names)
    count = len(functions) if count is None else count
    header += struct.pack("<8Q", count, 0, text, 72, files, files, files, files)
    return header + names + bytes(table) + descriptions


@contextmanager
def opened(content: bytes | Path) -> Iterator[int]:
    """Give a file, or a file with some content, as a descriptor."""
    if isinstance(content, Path):
        descriptor = os.open(content, os.O_RDONLY)
    else:
        descriptor = os.memfd_create("elf")
        os.write(descriptor, content)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
