# SPDX-License-Identifier: Apache-2.0
"""The output of a report or an export: a file that is complete or absent, or standard output.

The file is written under another name, then renamed. Only its owner can read it (mode 0600),
because it contains confidential traffic. A path that is not a regular file (a pipe, ``/dev/full``)
is written directly.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from profiler.errors import OutputClosed, OutputError


@contextlib.contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing; ``-`` is standard output. Raises OutputError."""
    try:
        if path == Path("-"):
            with _standard_output() as file:
                yield file
        elif path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
        else:
            with _aside(path) as file:
                yield file
    except BrokenPipeError as error:
        raise OutputClosed(f"{path} was closed by its reader") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    # A separate file object: Python's own would retry at exit, and print an error.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
        yield file


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[BinaryIO]:
    path = path.resolve()  # The target of a link is replaced, not the link.
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
