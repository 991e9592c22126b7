# SPDX-License-Identifier: Apache-2.0
"""ELF files of hostile processes: examined, or refused with the proper error."""

from __future__ import annotations

import os
import sys

import atheris

with atheris.instrument_imports(include=["profiler", "elftools"]):
    from profiler.ingest.tls import libraries
    from profiler.ingest.tls.elf import ElfError


def test_one_input(data: bytes) -> None:
    """Look for TLS libraries in a file."""
    descriptor = os.memfd_create("elf")
    os.write(descriptor, data)
    try:
        for library in libraries.examine(descriptor):
            for hook in library.hooks:
                # In the file, as far as it is mapped as code.
                assert all(0 <= offset < len(data) for offset in (hook.entry, *hook.returns))
    except ElfError as error:
        assert str(error).isprintable()
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
