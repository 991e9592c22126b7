# SPDX-License-Identifier: Apache-2.0
"""Reads an ELF file that a hostile process may have written.

pyelftools parses the headers; tables are searched in blocks. A file that costs more than
:data:`MAX_STEPS` steps or :data:`MAX_BYTES` bytes is refused. A step is a read, or a place in a
block that looks like what is searched. So time and memory are bounded whatever counts and sizes
the file pretends. The reads are pread(2): a mapped file that another process truncates would kill
the reader.

The formats are those of elf(5), and of the Linux Standard Base 5.0 for ``.eh_frame_hdr``.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import NamedTuple

from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from profiler.errors import ProfilerError
from profiler.ingest.tls.returns import Bounds

MAX_STEPS = 50_000
"""Far more than a large program needs (some 2,000)."""
MAX_BYTES = 1 << 29
"""Far more than a large program needs (some 60 MB)."""
_BLOCK = 1 << 20
_MAX_SEGMENTS = 256
_MAX_SECTIONS = 4096
_MAX_TEXT = 256
# Definitions of one name. More than one is rare: a library and a copy linked into it.
_MAX_DEFINITIONS = 2
_MAX_NAMES = 1024
# Chromium has about a million.
_MAX_SYMBOLS = 8_000_000

_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_EXECUTABLE = 1
_WRITABLE = 2
# st_name, st_info, st_other, st_shndx, st_value, st_size
_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTION = 2
# r_offset, r_info, r_addend
_RELOCATION = struct.Struct("<QQQ")


class ElfError(ProfilerError):
    """A file cannot be read as an ELF file. The text is the reason, without the file's name."""


def is_elf(descriptor: int) -> bool:
    """Return whether an open file begins like an ELF file."""
    try:
        return os.pread(descriptor, 4, 0) == b"\x7fELF"
    except OSError:
        return False


class Segment(NamedTuple):
    """What the kernel maps: ``size`` bytes at ``offset`` of the file, to ``address``."""

    address: int
    offset: int
    size: int
    flags: int

    @property
    def is_writable(self) -> bool:
        """Whether the kernel maps it writable, as data."""
        return bool(self.flags & _WRITABLE)


class Section(NamedTuple):
    """A named part of the file; ``link`` is the number of the section that it refers to."""

    name: str
    type: str
    address: int
    offset: int
    size: int
    link: int


class Image:
    """An ELF file, read through an open descriptor, which stays the caller's.

    The constructor and every method raise :class:`ElfError` if the file is malformed, for another
    kind of machine, or cannot be read.
    """

    def __init__(self, descriptor: int) -> None:
        self._file = _File(descriptor)
        self.segments: list[Segment] = []
        self.sections: list[Section] = []
        self.soname = ""
        self._unwind_table = 0
        with self._parsing("its header"):
            elf = ELFFile(self._file)
            self.machine = _machine(elf)
        with self._parsing("its segments"):
            self._read_segments(elf)
        with self._parsing("its sections"):
            self._read_sections(elf)

    def read(self, address: int, size: int) -> bytes:
        """Return up to ``size`` bytes at a virtual address, fewer if the file maps fewer there."""
        segment = self._segment(address)
        if segment is None:
            return b""
        skipped = address - segment.address
        return self._file.at(segment.offset + skipped, min(size, segment.size - skipped))

    def offset_of(self, address: int) -> int | None:
        """Return the file's offset of what is at a virtual address; ``None`` if nothing is."""
        segment = self._segment(address)
        return segment.offset + address - segment.address if segment else None

    def code_offset(self, address: int) -> int | None:
        """Return the file's offset of the code at a virtual address; ``None`` if there is none."""
        segment = self._segment(address)
        return self.offset_of(address) if segment and segment.flags & _EXECUTABLE else None

    def functions(self, names: Set[str]) -> dict[str, set[Bounds]]:
        """Return the definitions of the functions ``names``, from all symbol tables.

        A size of zero is kept: some assemblers omit it.
        """
        found: dict[str, set[Bounds]] = {}
        for table in self.sections:
            if table.type not in ("SHT_DYNSYM", "SHT_SYMTAB"):
                continue
            if not 0 < table.link < len(self.sections):
                raise ElfError("malformed: a symbol table has no strings")
            offsets = self._name_offsets(self.sections[table.link], names)
            for name, bounds in self._definitions(table, offsets) if offsets else ():
                known = found.setdefault(name, set())
                known.add(bounds)
                if len(known) > _MAX_DEFINITIONS:
                    raise ElfError(f"malformed: it defines {name} too often")
        return found

    def bounds_of(self, address: int) -> Bounds | None:
        """Return the function, or part of one, at an address, from ``.eh_frame``.

        Every function that exceptions can pass through is there, local ones too. Distributions
        build whole libraries so.
        """
        if not self._unwind_table:
            return None
        entry = _unwind_entry(self, self._unwind_table, address)
        if entry is None:
            return None
        bounds = _entry_bounds(self, entry)
        return bounds if bounds and bounds.start <= address < bounds.stop else None

    def texts(self, section: Section, marks: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the texts between zero bytes that begin with a mark, if below 256 bytes."""
        for _, block in self.blocks(section.offset, section.size, _MAX_TEXT):
            for mark in marks:
                for place in self.places(block, b"\0" + mark):
                    text, end, _ = block[place + 1 : place + 1 + _MAX_TEXT].partition(b"\0")
                    if end:
                        yield text

    def relocations(self, key: int, value: int, wanted: int) -> Iterator[int]:
        """Yield member ``wanted`` of the relocations whose member ``key`` is ``value``.

        The members are the address, the type and the addend. In a position-independent file,
        the value of a pointer is the addend.
        """
        for section in self.sections:
            if section.type != "SHT_RELA":
                continue
            for start, block in self.blocks(section.offset, section.size, _RELOCATION.size - 8):
                for place in self.places(block, struct.pack("<Q", value)):
                    begin = place - key * 8
                    whole = 0 <= begin <= len(block) - _RELOCATION.size
                    if whole and (start + begin - section.offset) % _RELOCATION.size == 0:
                        yield _RELOCATION.unpack_from(block, begin)[wanted]

    def places(self, block: bytes, text: bytes) -> Iterator[int]:
        """Yield where ``text`` is in a block of the file."""
        place = -1
        while (place := block.find(text, place + 1)) >= 0:
            self._file.spend()
            yield place

    def blocks(self, offset: int, size: int, overlap: int) -> Iterator[tuple[int, bytes]]:
        """Yield the file from ``offset`` as (offset, block); ``overlap`` bytes come twice."""
        end = offset + size
        while offset < end:
            block = self._file.at(offset, min(_BLOCK + overlap, end - offset))
            if not block:
                return
            yield offset, block
            offset += _BLOCK

    def _segment(self, address: int) -> Segment | None:
        for segment in self.segments:
            if 0 <= address - segment.address < segment.size:
                return segment
        return None

    @contextmanager
    def _parsing(self, what: str) -> Iterator[None]:
        """Turn what pyelftools raises for a malformed file, which is any error, into one type."""
        try:
            yield
        except ElfError:
            raise
        except Exception as error:
            # pyelftools turns errors of the file into its own.
            reason = f"malformed: {what} cannot be parsed ({type(error).__name__})"
            raise self._file.failure or ElfError(reason) from error

    def _read_segments(self, elf: ELFFile) -> None:
        if elf.num_segments() > _MAX_SEGMENTS:
            raise ElfError("malformed: it has too many segments")
        # Not by elf.iter_segments(), which also reads the tables in some sections. Nor below.
        for number in range(elf.num_segments()):
            place = elf["e_phoff"] + number * elf["e_phentsize"]
            segment = struct_parse(elf.structs.Elf_Phdr, self._file, place)
            if segment["p_type"] == "PT_LOAD":
                where = segment["p_vaddr"], segment["p_offset"], segment["p_filesz"]
                self.segments.append(Segment(*where, segment["p_flags"]))
            elif segment["p_type"] == "PT_GNU_EH_FRAME":
                self._unwind_table = segment["p_vaddr"]

    def _read_sections(self, elf: ELFFile) -> None:
        if elf.num_sections() > _MAX_SECTIONS:
            raise ElfError("malformed: it has too many sections")
        if not elf.num_sections():
            return
        names = elf.get_section(elf.get_shstrndx())
        for number in range(elf.num_sections()):
            place = elf["e_shoff"] + number * elf["e_shentsize"]
            header = struct_parse(elf.structs.Elf_Shdr, self._file, place)
            name = names.get_string(header["sh_name"])
            values = (header[key] for key in ("sh_addr", "sh_offset", "sh_size", "sh_link"))
            self.sections.append(Section(name, str(header["sh_type"]), *values))
            if header["sh_type"] == "SHT_DYNAMIC":
                for tag in elf.get_section(number).iter_tags("DT_SONAME"):
                    self.soname = printable(tag.soname)

    def _name_offsets(self, strings: Section, names: Set[str]) -> dict[int, str]:
        """Return where ``strings`` has the names: linkers let one name end another."""
        texts = {name: name.encode() + b"\0" for name in names}
        longest = max(map(len, texts.values()))
        found = {}
        for start, block in self.blocks(strings.offset, strings.size, longest - 1):
            for name, text in texts.items():
                for place in self.places(block, text):
                    found[start - strings.offset + place] = name
                    if len(found) > _MAX_NAMES:
                        raise ElfError(f"malformed: {name} is too often among its strings")
        return found

    def _definitions(self, table: Section, offsets: dict[int, str]) -> Iterator[tuple[str, Bounds]]:
        if table.size > _MAX_SYMBOLS * _SYMBOL.size:
            raise ElfError("malformed: it has too many symbols")
        # A multiple of a symbol's size, so none is cut.
        step = _BLOCK // _SYMBOL.size * _SYMBOL.size
        for start in range(0, table.size - table.size % _SYMBOL.size, step):
            block = self._file.at(table.offset + start, min(step, table.size - start))
            if not block:
                return
            whole = len(block) - len(block) % _SYMBOL.size
            for name, info, _, section, address, size in _SYMBOL.iter_unpack(block[:whole]):
                if name in offsets and info & 15 == _FUNCTION and section and address:
                    yield offsets[name], Bounds(address, address + size)


class _File(io.RawIOBase):
    """The file as a stream for pyelftools, with a limit on steps and bytes."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._position = 0
        self._steps = 0
        self._bytes = 0
        self.failure: ElfError | None = None

    def spend(self, size: int = 0) -> None:
        """Count a step, and the bytes that it reads."""
        self._steps += 1
        self._bytes += size
        if self._steps > MAX_STEPS or self._bytes > MAX_BYTES:
            self.failure = ElfError("malformed: reading it takes too long")
            raise self.failure

    def at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes at ``offset``, fewer at the end of the file."""
        self.spend(size)
        # Beyond what off_t can express, there is nothing.
        if not 0 <= offset < 1 << 63:
            return b""
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:
            self.failure = ElfError(f"cannot be read: {error.strerror}")
            raise self.failure from error

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes; pyelftools never reads to the end."""
        block = self.at(self._position, size if size >= 0 else _BLOCK)
        self._position += len(block)
        return block

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset from the start, from here or from the end."""
        bases = {io.SEEK_CUR: self._position, io.SEEK_END: os.fstat(self._descriptor).st_size}
        self._position = bases.get(whence, 0) + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


def _machine(elf: ELFFile) -> str:
    name = str(elf["e_machine"])
    machine = _MACHINES.get(name)
    if elf.elfclass != 64 or not elf.little_endian or machine is None:
        raise ElfError(f"is for another machine: {elf.elfclass} bits, {printable(name)}")
    return machine


def printable(text: str) -> str:
    """Return a text from the file, short and safe to show."""
    return "".join(one if one.isprintable() else "?" for one in text[:_MAX_TEXT])


# DWARF encodings of addresses: 4 bytes, signed, relative to the address itself or to the table.
_PC_RELATIVE = 0x1B
_TABLE_RELATIVE = 0x3B
_UNSIGNED = 0x03


def _unwind_entry(image: Image, table: int, address: int) -> int | None:
    """Return the address of the entry in ``.eh_frame`` that may contain ``address``.

    ``.eh_frame_hdr`` is a sorted table. It is searched in the file, so its size does not matter.
    """
    head = image.read(table, 12)
    if len(head) < 12 or head[0] != 1 or head[2:4] != bytes((_UNSIGNED, _TABLE_RELATIVE)):
        return None
    (count,) = struct.unpack_from("<I", head, 8)
    first = 0
    last = count
    found = None
    while first < last:
        middle = (first + last) // 2
        row = image.read(table + 12 + 8 * middle, 8)
        if len(row) < 8:
            return None
        start, entry = struct.unpack("<ii", row)
        if table + start <= address:
            found = table + entry
            first = middle + 1
        else:
            last = middle
    return found


def _entry_bounds(image: Image, entry: int) -> Bounds | None:
    """Return the range that an entry (FDE) of ``.eh_frame`` describes."""
    row = image.read(entry, 16)
    if len(row) < 16:
        return None
    length, back, start, size = struct.unpack("<IIiI", row)
    # Zero ends the list, and all ones precede a 64-bit length, which no compiler emits here.
    if length in (0, 0xFFFFFFFF) or not _is_pc_relative(image, entry + 4 - back):
        return None
    begin = entry + 8 + start
    return Bounds(begin, begin + size)


def _is_pc_relative(image: Image, common: int) -> bool:
    """Return whether the common entry (CIE) declares the usual encoding of addresses."""
    head = image.read(common, 64)
    if len(head) < 32 or head[4:9] != b"\0\0\0\0\1" or head[9:10] != b"z":
        return False
    augmentation, end, rest = head[9:].partition(b"\0")
    if not end or len(augmentation) > 8:
        return False
    # Four numbers precede the data: both factors, the return register and the data's size. All
    # are below 64 in practice, so each takes one byte.
    at = 4
    for letter in augmentation[1:]:
        if letter == ord("R"):
            return rest[at : at + 1] == bytes((_PC_RELATIVE,))
        if letter == ord("P"):
            # The encoding of a pointer, and the pointer: 4 or 8 bytes.
            at += 1 + (4 if rest[at] & 0x0F in (0x03, 0x0B) else 8) if at < len(rest) else 1
        elif letter == ord("L"):
            at += 1
        elif letter not in b"SB":
            return False
    return False
