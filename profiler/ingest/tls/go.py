# SPDX-License-Identifier: Apache-2.0
"""Finds functions in a Go program by ``.gopclntab``, which survives stripping.

The runtime needs this table to print stack traces, so every Go program has the names and entries
of all its functions there. The layout is that of Go 1.18 and newer (``debug/gosym/pclntab.go``,
``runtime/symtab.go``); older versions are reported as such. A table of a large program has some
20 MB and 200,000 functions: it is searched for the names, not parsed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set
from typing import NamedTuple

from profiler.ingest.tls.elf import ElfError, Image, printable
from profiler.ingest.tls.returns import Bounds

_MAGICS = {0xFFFFFFF0: "1.18", 0xFFFFFFF1: "1.20"}
_OLD_MAGICS = (0xFFFFFFFA, 0xFFFFFFFB)
_QUANTUM = {"x86_64": 1, "aarch64": 4}
# pcHeader: magic, two zeros, quantum, size of a pointer; then the members of _Header.
_HEADER = struct.Struct("<I2xBB8Q")
_ROW = struct.Struct("<II")
_WORD = struct.Struct("<Q")
# moduledata: pcHeader and six slices come before findfunctab, minpc, maxpc and text.
_MINPC = 20 * _WORD.size
_TEXT = 22 * _WORD.size
# Places that look like the entry of a function, among those that hold a number by chance.
_MAX_CANDIDATES = 1024

_BUILDINFO = b"\xff Go buildinf:"
_BUILDINFO_HEAD = 32
_INLINE = 2
# debug/buildinfo looks for it in the first megabyte of the data, too.
_BUILDINFO_WITHIN = 1 << 20


class _Header(NamedTuple):
    functions: int
    files: int
    text: int
    """Address of the code; 0 in position-independent programs, and since Go 1.26 in all."""

    names: int
    """Offsets from the header, as all that follow."""

    compile_units: int
    file_names: int
    positions: int
    table: int


def version(image: Image) -> str | None:
    """Return the version of Go that built the program, such as ``go1.24.4``.

    ``None`` if it is no Go program. An empty text stands for a version before 1.18.
    """
    start = _buildinfo(image)
    if start is None:
        return None
    head = image.read(start, _BUILDINFO_HEAD + 1 + 127)
    if len(head) <= _BUILDINFO_HEAD or not head[15] & _INLINE:
        return ""
    # A varint: a version has fewer than 128 bytes, so it takes one byte.
    size = head[_BUILDINFO_HEAD]
    text = head[_BUILDINFO_HEAD + 1 :][:size]
    return printable(text.decode(errors="replace")) if size < 128 else ""


def functions(image: Image, names: Set[str]) -> dict[str, set[Bounds]]:
    """Return the functions ``names``, such as ``crypto/tls.(*Conn).Read``.

    A function's end is the start of the next one, so it includes the padding between them.
    Raises :class:`ElfError` if the program has no table, or one that cannot be read.
    """
    table = _Table(image)
    found: dict[str, set[Bounds]] = {}
    for name, offset in table.name_offsets(names):
        for bounds in table.named(offset):
            found.setdefault(name, set()).add(bounds)
    return found


def _buildinfo(image: Image) -> int | None:
    for section in image.sections:
        if section.name == ".go.buildinfo":
            return section.address if image.read(section.address, 14) == _BUILDINFO else None
    for segment in image.segments:
        data = image.read(segment.address, _BUILDINFO_WITHIN) if segment.is_writable else b""
        for place in image.places(data, _BUILDINFO):
            if place % 16 == 0:
                return segment.address + place
    return None


class _Table:
    """The table, in the file: ``_start`` is its offset there."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._address, self._header, self._size = _find(image)
        start = image.offset_of(self._address)
        assert start is not None, "it was found in a segment"
        self._start = start
        self._text = self._header.text or self._text_by_module()

    def name_offsets(self, names: Set[str]) -> Iterator[tuple[str, int]]:
        """Yield each name that the program has, with its offset among the names."""
        texts = {name: b"\0" + name.encode() + b"\0" for name in names}
        longest = max(map(len, texts.values()))
        first = self._start + self._header.names
        size = self._header.compile_units - self._header.names
        found = {
            (name, start + place + 1 - first)
            for start, block in self._image.blocks(first, size, longest - 1)
            for name, text in texts.items()
            if (place := block.find(text)) >= 0
        }
        yield from sorted(found)

    def named(self, offset: int) -> Iterator[Bounds]:
        """Yield the functions whose name is at ``offset`` among the names.

        Their descriptions hold that number as second word, after the entry. It can be elsewhere
        by chance. So the sorted table of entries must refer to the place.
        """
        first = self._start + self._header.table
        word = struct.pack("<I", offset)
        candidates = 0
        for start, block in self._image.blocks(first, self._size - self._header.table, 7):
            for place in self._image.places(block, word):
                candidates += 1
                if candidates > _MAX_CANDIDATES:
                    raise ElfError("malformed: its table of functions has too many of one name")
                if place >= 4:
                    (entry,) = struct.unpack_from("<I", block, place - 4)
                    bounds = self._bounds(entry, start + place - 4 - first)
                    if bounds:
                        yield bounds

    def _bounds(self, entry: int, description: int) -> Bounds | None:
        low = 0
        high = self._header.functions
        while low < high:
            middle = (low + high) // 2
            if self._row(middle)[0] < entry:
                low = middle + 1
            else:
                high = middle
        if low == self._header.functions or self._row(low) != (entry, description):
            return None
        # After the last function there is a row, with its end.
        return Bounds(self._text + entry, self._text + self._row(low + 1)[0])

    def _row(self, number: int) -> tuple[int, int]:
        """Return the entry of a function, from the start of the code, and its description."""
        row = self._image.read(self._address + self._header.table + number * _ROW.size, _ROW.size)
        if len(row) < _ROW.size:
            # The last row is half a row, and may be at the end of a segment.
            row = row[:4].ljust(4, b"\0") + bytes(4)
        entry, description = _ROW.unpack(row)
        return entry, description

    def _text_by_module(self) -> int:
        """Return the address of the code from the runtime's ``moduledata``, which has a pointer
        to the table.

        The lowest address of a function, there too, proves that it was found.
        """
        for minimum, text in (*self._modules(), *self._relocated_modules()):
            if text and minimum == text + self._row(0)[0]:
                return text
        raise ElfError("it is a Go program whose start of the code was not found")

    def _modules(self) -> Iterator[tuple[int, int]]:
        for segment in self._image.segments:
            if not segment.is_writable:
                continue
            for start, block in self._image.blocks(segment.offset, segment.size, _TEXT + 8):
                for place in self._image.places(block, _WORD.pack(self._address)):
                    address = segment.address + start - segment.offset + place
                    if address % _WORD.size == 0 and place + _TEXT + 8 <= len(block):
                        yield (
                            _WORD.unpack_from(block, place + _MINPC)[0],
                            _WORD.unpack_from(block, place + _TEXT)[0],
                        )

    def _relocated_modules(self) -> Iterator[tuple[int, int]]:
        """The same in a position-independent program: its pointers are in relocations."""
        for module in self._image.relocations(2, self._address, 0):
            for minimum in self._image.relocations(0, module + _MINPC, 2):
                for text in self._image.relocations(0, module + _TEXT, 2):
                    yield minimum, text


def _find(image: Image) -> tuple[int, _Header, int]:
    """Return the table's address, its header and the size of what may belong to it."""
    for section in image.sections:
        if section.name.endswith(".gopclntab"):
            header = _header(image, section.address)
            if header:
                return section.address, header, section.size
    quantum = _QUANTUM[image.machine]
    for magic in (*_MAGICS, *_OLD_MAGICS):
        text = struct.pack("<I2xBB", magic, quantum, _WORD.size)
        for segment in image.segments:
            for start, block in image.blocks(segment.offset, segment.size, len(text) - 1):
                for place in image.places(block, text):
                    address = segment.address + start - segment.offset + place
                    header = _header(image, address)
                    if header:
                        return address, header, segment.address + segment.size - address
    raise ElfError("it is a Go program without a table of functions")


def _header(image: Image, address: int) -> _Header | None:
    data = image.read(address, _HEADER.size)
    if len(data) < _HEADER.size:
        return None
    magic, quantum, pointer, *members = _HEADER.unpack(data)
    if magic in _OLD_MAGICS:
        raise ElfError("it is a program of a Go version before 1.18")
    header = _Header(*members)
    if magic not in _MAGICS or (quantum, pointer) != (_QUANTUM[image.machine], _WORD.size):
        return None
    in_order = _HEADER.size <= header.names <= header.compile_units <= header.table
    return header if in_order and header.functions < 1 << 24 else None
