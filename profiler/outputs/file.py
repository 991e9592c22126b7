# SPDX-License-Identifier: Apache-2.0
"""Where a report or an export goes: a file that is whole or not there, or standard output.

The file is written aside and renamed, and is its owner's alone (mode 0600): it holds
what others said in confidence. What is no regular file (a pipe, ``/dev/full``) is
written to as it is.
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
    # A file of our own: Python's would try once more at the end, and complain.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
        yield file


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[BinaryIO]:
    path = path.resolve()  # What a link names is replaced, not the link.
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
