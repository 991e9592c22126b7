# SPDX-License-Identifier: Apache-2.0
"""Finds the functions of OpenSSL's BIO_f_ssl(3), which move plain text without SSL_read().

Programs that use it, such as ``openssl s_server -WWW``, call BIO_read() and BIO_write(). These
lead through a table (``BIO_METHOD`` in OpenSSL's ``include/internal/bio.h``, the same since 1.1.1)
to two local functions without symbols. In LibreSSL and BoringSSL the table differs, and the two
functions call SSL_read() and SSL_write().
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from profiler.ingest.tls.elf import Image
from profiler.ingest.tls.returns import Bounds

READ = "BIO_f_ssl.read"
WRITE = "BIO_f_ssl.write"

# BIO_TYPE_SSL, an int and its padding.
_TYPE = struct.pack("<Q", 7 | 0x0200)
_NAME = b"ssl\0"
_POINTER = struct.Struct("<Q")
# After the type: name, bwrite, bwrite_old, bread, bread_old.
_POINTERS = 5


def functions(image: Image) -> dict[str, set[Bounds]]:
    """Return the two functions, by the names :data:`READ` and :data:`WRITE`; none if unknown.

    Their sizes are zero: unknown. Raises :class:`~profiler.ingest.tls.elf.ElfError`.
    """
    for table in _tables(image):
        pointers = [_pointer(image, table + 8 * (1 + number)) for number in range(_POINTERS)]
        name, write, write_old, read, read_old = pointers
        if image.read(name, len(_NAME)) == _NAME and not write_old and not read_old:
            return {READ: {Bounds(read, read)}, WRITE: {Bounds(write, write)}}
    return {}


def _tables(image: Image) -> Iterator[int]:
    """Yield the addresses of what looks like the table."""
    for segment in image.segments:
        if not segment.is_writable:
            continue
        for start, block in image.blocks(segment.offset, segment.size, len(_TYPE) - 1):
            for place in image.places(block, _TYPE):
                address = segment.address + start - segment.offset + place
                if address % _POINTER.size == 0:
                    yield address


def _pointer(image: Image, address: int) -> int:
    """Return a pointer, which is in the file or in a relocation; 0 if there is none."""
    value = image.read(address, _POINTER.size)
    if len(value) == _POINTER.size and any(value):
        return int(_POINTER.unpack(value)[0])
    return next(image.relocations(0, address, 2), 0)
