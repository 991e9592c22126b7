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

from profiler.errors import OutputError
from profiler.outputs import Rotation
from profiler.privileges.helper import Descriptor, Helper


class OutputFile:
    """A file that lines are appended to, created with mode 0600 if there is none.

    ``fd`` is the file descriptor that the constructor opened for writing. The caller owns it and
    closes it, and likewise each one that :meth:`follow` and :meth:`rotate` return.

    A partial line at the end of an existing file is ended, because only an earlier crash leaves
    one. Everything raises OSError; the constructor raises OutputError if ``rotation`` is given and
    ``path`` is a symbolic link. ``option`` names the path in that error.
    """

    def __init__(self, path: Path, option: str, rotation: Rotation | None = None) -> None:
        self._path = path
        self._rotation = rotation
        self.fd = self._open()
        if rotation and stat.S_ISREG(os.fstat(self.fd).st_mode) and path.is_symlink():
            # A rename would move the link, and leave the file that it names.
            os.close(self.fd)
            raise OutputError(
                f"cannot rotate {path}, because it is a symbolic link; "
                f"name the file itself with {option}"
            )

    def share(self, helper: Helper) -> None:
        """Let ``helper`` follow and rotate: the confined process cannot reach the path."""
        self.follow = helper.offer(self.follow)  # type: ignore[method-assign]
        self.rotate = helper.offer(self.rotate)  # type: ignore[method-assign]
        # Else the helper would keep a file that was rotated and removed.
        fd = self.fd
        helper.at_start(lambda: os.close(fd))

    def follow(self) -> Descriptor | None:
        """Open the path again if it names another file than before, or none."""
        try:
            if _identity(self._path.stat()) == self._identity:
                return None
        except FileNotFoundError:
            pass
        return self._open()

    def rotate(self) -> Descriptor:
        """Rename the file to ``PATH.1``, older ones to the next number, and open a new one."""
        assert self._rotation
        # Files after the first gap need not move.
        oldest = 1
        while oldest < self._rotation.files and self._old(oldest).exists():
            oldest += 1
        # A file that is gone was renamed by another program meanwhile.
        with contextlib.suppress(FileNotFoundError):
            for n in range(oldest, 1, -1):
                self._old(n - 1).rename(self._old(n))
            self._path.rename(self._old(1))
        return self._open()

    def _old(self, number: int) -> Path:
        return Path(f"{self._path}.{number}")

    def _open(self) -> Descriptor:
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_size and self._ends_in_half_line():
                os.write(fd, b"\n")
        except OSError:
            os.close(fd)
            raise
        self._identity = _identity(status)
        return Descriptor(fd)

    def _ends_in_half_line(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"


def open_empty(path: Path) -> int:
    """Open a file for writing and empty it; create it with mode 0600. Raises OSError.

    Return its file descriptor, which the caller closes.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
