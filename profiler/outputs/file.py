# SPDX-License-Identifier: Apache-2.0
"""The output of a report or an export: a file that is complete or absent, or standard output.

The file is written under another name, then renamed. Only its owner can read it (mode 0600),
because it contains confidential traffic. A path that is not a regular file (a pipe, ``/dev/full``)
is written directly.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from profiler.errors import OutputClosed, OutputError, UnsafeFile
from profiler.outputs.directory import Directory, open_directory


@contextlib.contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing; ``-`` is standard output. Raises OutputError."""
    try:
        if path == Path("-"):
            with _standard_output() as file:
                yield file
        else:
            with open_directory(path.parent) as directory, _opened(directory, path.name) as file:
                yield file
    except BrokenPipeError as error:
        raise OutputClosed(f"{path} was closed by its reader") from error
    except UnsafeFile as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    # A separate file object: Python's own would retry at exit, and print an error.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
        yield file


@contextlib.contextmanager
def _opened(given: Directory, link: str) -> Iterator[BinaryIO]:
    # The target of a link is replaced, not the link.
    with given.target(link or ".") as (directory, name):
        status = directory.status(name)
        if status is None or stat.S_ISREG(status.st_mode):
            if status is not None:
                directory.check_owner(name, status)
            with _aside(directory, name) as file:
                yield file
        else:
            with os.fdopen(directory.open(name, os.O_WRONLY | os.O_APPEND), "wb") as file:
                yield file


@contextlib.contextmanager
def _aside(directory: Directory, name: str) -> Iterator[BinaryIO]:
    aside = f".{name}.{secrets.token_hex(8)}"
    fd = directory.open(aside, os.O_WRONLY)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        os.rename(aside, name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    except BaseException:
        os.unlink(aside, dir_fd=directory.fd)
        raise
