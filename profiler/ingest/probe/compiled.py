# SPDX-License-Identifier: Apache-2.0
"""Caches compiled programs on disk.

Compiling takes most of the time and memory of a start, and the same source always gives
the same instructions. So they are stored in a file whose name is the hash of the
compiler's input. A start that finds the file does not even load the compiler.

A file is used only if nobody but root or this user can have written it, and if it is complete.
Otherwise the program is compiled again. If no file can be stored, every start compiles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path

from profiler.ingest.probe.compiler import compile_functions, compiler_file

# systemd names the directory of a service, which does not run as root.
DIRECTORY = Path(os.environ.get("CACHE_DIRECTORY", "/var/cache/http-profiler"))

# Programs for different settings and kernels; the least recently used is deleted first.
_KEPT = 32
_SUFFIX = ".program"


def compiled_functions(
    source: str,
    names: Collection[str],
    what: str,
    *,
    with_headers: bool = False,
    directory: Path = DIRECTORY,
) -> dict[str, bytes]:
    """Return the result of compile_functions(), from ``directory`` if it is stored there.

    Raises the same errors as compile_functions().
    """
    names = sorted(names)
    kept = directory / (_digest(source, names, with_headers) + _SUFFIX)
    code = _read(kept)
    if code is None:
        code = compile_functions(source, names, what, with_headers=with_headers)
        with contextlib.suppress(OSError):
            _keep(kept, code)
    return code


def _digest(source: str, names: list[str], with_headers: bool) -> str:
    """Hash everything that determines the instructions, with BCC and the kernel's headers."""
    compiler = compiler_file()
    facts = compiler.stat()
    inputs = [source, names, str(compiler), facts.st_size, facts.st_mtime_ns]
    if with_headers:
        inputs += os.uname()
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _read(kept: Path) -> dict[str, bytes] | None:
    try:
        if not (_is_ours(kept.parent) and _is_ours(kept)):
            return None
        checksum, _, document = kept.read_bytes().partition(b"\n")
        # _keep() deletes the least recently used files, by this time.
        os.utime(kept)
    except OSError:
        return None
    if checksum.decode("ascii", "replace") != hashlib.sha256(document).hexdigest():
        return None
    return {name: bytes.fromhex(code) for name, code in json.loads(document).items()}


def _is_ours(path: Path) -> bool:
    facts = path.lstat()
    writable_by_others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ours = facts.st_uid in (0, os.geteuid())
    return ours and not writable_by_others and not stat.S_ISLNK(facts.st_mode)


def _keep(kept: Path, code: dict[str, bytes]) -> None:
    document = json.dumps({name: each.hex() for name, each in code.items()}).encode()
    kept.parent.mkdir(mode=0o755, exist_ok=True)
    if not _is_ours(kept.parent):
        return
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
        try:
            file.write(hashlib.sha256(document).hexdigest().encode() + b"\n" + document)
            file.flush()
            Path(file.name).replace(kept)
        except OSError:
            Path(file.name).unlink()
            raise
    programs = sorted(kept.parent.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
    for old in programs[:-_KEPT]:
        old.unlink()
