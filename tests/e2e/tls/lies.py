# SPDX-License-Identifier: Apache-2.0
"""Copies of OpenSSL that lie about their symbols: ``lies.py LIBRARY DIRECTORY``.

Each copy works: its client uses SSL_read_ex and SSL_write_ex by their addresses, never their sizes.
Runs with the profiler's Python.
"""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

from elftools.elf.elffile import ELFFile

BEYOND = 1 << 40
# elf(5): where e_shoff is in the header, st_value and st_size in a symbol.
SECTIONS, VALUE, SIZE = 40, 8, 16


def main(library: str, directory: str) -> None:
    """Write the copies, each into a directory with the name of its lie."""
    content = Path(library).read_bytes()
    elf = ELFFile(io.BytesIO(content))
    symbols = elf.get_section_by_name(".dynsym")
    data = elf.get_section_by_name(".data")["sh_addr"]
    places = {
        symbol.name: symbols["sh_offset"] + number * symbols["sh_entsize"]
        for number, symbol in enumerate(symbols.iter_symbols())
    }
    lies = {
        "data": (places["SSL_read"] + VALUE, data),
        "beyond": (places["SSL_read"] + VALUE, BEYOND),
        "short": (places["SSL_read_ex"] + SIZE, 5),
        "long": (places["SSL_read_ex"] + SIZE, BEYOND),
        "none": (places["SSL_read_ex"] + SIZE, 0),
        "sections": (SECTIONS, BEYOND),
    }
    for name, (place, number) in lies.items():
        copy = bytearray(content)
        struct.pack_into("<Q", copy, place, number)
        (Path(directory) / name).mkdir()
        (Path(directory) / name / "libssl.so.3").write_bytes(copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
