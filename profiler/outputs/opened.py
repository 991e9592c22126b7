# SPDX-License-Identifier: Apache-2.0
"""The files that a capture writes: the only code that opens, renames or examines their paths.

Everything else works on the file descriptors that it returns. So a process without access to the
paths can write the files, if another one opens them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from profiler.errors import OutputError, UnsafeFile
from profiler.outputs import Rotation
from profiler.outputs.directory import open_directory
from profiler.privileges.helper import Descriptor, Helper


class OutputFile:
    """A file that lines are appended to, created with mode 0600 if there is none.

    ``fd`` is the file descriptor that the constructor opened for writing. The caller owns it and
    closes it, and likewise each one that :meth:`follow` and :meth:`rotate` return.

    The directory stays open until :meth:`close`, so a rename of it, or of one above it, does not
    redirect the lines. A partial line at the end of an existing file is ended, because only an
    earlier crash leaves one.

    Everything raises OSError, or UnsafeFile if another user could misuse the file. The constructor
    raises OutputError if ``rotation`` is given and ``path`` is a symbolic link. ``option`` names
    the path in that error.
    """

    def __init__(self, path: Path, option: str, rotation: Rotation | None = None) -> None:
        self._path = path
        self._name = path.name or "."
        self._rotation = rotation
        with contextlib.ExitStack() as opened:
            self._directory = opened.enter_context(open_directory(path.parent))
            self.fd = self._open()
            opened.callback(os.close, self.fd)
            if rotation and stat.S_ISREG(os.fstat(self.fd).st_mode) and self._is_link():
                # A rename would move the link, and leave the file that it names.
                raise OutputError(
                    f"cannot rotate {path}, because it is a symbolic link; "
                    f"name the file itself with {option}"
                )
            opened.pop_all()
        self._is_open = True

    def share(self, helper: Helper) -> None:
        """Let ``helper`` follow and rotate: the confined process cannot reach the path."""
        self.follow = helper.offer(self.follow)  # type: ignore[method-assign]
        self.rotate = helper.offer(self.rotate)  # type: ignore[method-assign]
        # Else the helper would keep a file that was rotated and removed.
        fd = self.fd
        helper.at_start(lambda: os.close(fd))
        helper.after_split(self.close)

    def follow(self) -> Descriptor | None:
        """Open the path again if it names another file than before, or none."""
        target = self._directory.target(self._name)
        with target as (directory, name), contextlib.suppress(FileNotFoundError):
            if _identity(os.stat(name, dir_fd=directory.fd)) == self._identity:
                return None
        return self._open()

    def rotate(self) -> Descriptor:
        """Rename the file to ``PATH.1``, older ones to the next number, and open a new one."""
        assert self._rotation
        # Files after the first gap need not move.
        oldest = 1
        while oldest < self._rotation.files and self._is_kept(oldest):
            oldest += 1
        # A file that is gone was renamed by another program meanwhile.
        with contextlib.suppress(FileNotFoundError):
            for n in range(oldest, 1, -1):
                self._rename(f".{n - 1}", f".{n}")
            self._rename("", ".1")
        return self._open()

    def close(self) -> None:
        """Close the directory, if it is open."""
        if self._is_open:
            self._directory.close()
            self._is_open = False

    def _open(self) -> Descriptor:
        fd = self._directory.open(self._name, os.O_WRONLY | os.O_APPEND)
        try:
            status = os.fstat(fd)
            has_lines = stat.S_ISREG(status.st_mode) and status.st_size
            if has_lines and _read(fd, 1, status.st_size - 1) != b"\n":
                os.write(fd, b"\n")
        except OSError:
            os.close(fd)
            raise
        self._identity = _identity(status)
        return Descriptor(fd)

    def _is_link(self) -> bool:
        status = self._directory.status(self._name)
        return status is not None and stat.S_ISLNK(status.st_mode)

    def _is_kept(self, number: int) -> bool:
        """Whether an old file has this number. Raises UnsafeFile if it is another user's."""
        name = f"{self._name}.{number}"
        status = self._directory.status(name)
        if status is not None:
            self._directory.check_owner(name, status)
        return status is not None

    def _rename(self, old: str, new: str) -> None:
        """Rename the file whose name has the suffix ``old``."""
        fd = self._directory.fd
        try:
            os.rename(self._name + old, self._name + new, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError as error:
            names = f"{self._path}{old}", None, f"{self._path}{new}"
            raise OSError(error.errno, error.strerror, *names) from None


def open_empty(path: Path, start: bytes) -> int:
    """Open a file for writing and empty it; create it with mode 0600.

    Return its file descriptor, which the caller closes. Raises OSError, and UnsafeFile if the file
    has content that does not begin with ``start``: then it is another program's.
    """

    def empty(fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size:
            if _read(fd, len(start), 0) != start:
                raise UnsafeFile("it has other content, which would be lost; move it")
            os.ftruncate(fd, 0)

    with open_directory(path.parent) as directory:
        return directory.open(path.name or ".", os.O_WRONLY, empty)


def _read(fd: int, size: int, position: int) -> bytes:
    """Read from a file that is open for writing only."""
    reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    try:
        return os.pread(reading, size, position)
    finally:
        os.close(reading)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
