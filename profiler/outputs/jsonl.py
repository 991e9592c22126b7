# SPDX-License-Identifier: Apache-2.0
"""Lines to a file or to standard output: JSON, or the lines of another sink.

The file contains only whole lines. Lines are collected and written in batches. If a batch is
written only in part, the rest of its last line is cut off again. A partial line that an earlier
crash left is ended before the first new line.

If the file was renamed or removed, a new one is created under its name, at most 0.1 s later. So the
file can be rotated by renaming it, without a signal and without loss. With a
:class:`~profiler.outputs.Rotation`, the file also rotates itself before it exceeds a size.

Only its owner can read the file (mode 0600), because it contains confidential traffic.
"""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import orjson

from profiler.errors import OutputClosed, OutputError, UnsafeFile
from profiler.exchanges.text import escaped
from profiler.outputs import Rotation
from profiler.outputs.opened import OutputFile

if TYPE_CHECKING:
    from profiler.privileges.helper import Helper
    from profiler.schema import Record

_BATCH = 64 * 1024
_STDOUT = 1
# How often a busy capture checks whether its file was renamed. Until then, lines go to the
# renamed file.
_FOLLOW_SECONDS = 0.1


class Lines:
    """Appends lines to ``path``, or writes them to standard output if that is ``None``.

    ``option`` is the option that names the path, for error messages. ``rotation`` applies to
    regular files only.

    It never touches the path: :class:`~profiler.outputs.opened.OutputFile` does.
    """

    def __init__(
        self, path: Path | None, option: str = "--output", rotation: Rotation | None = None
    ) -> None:
        self._option = option
        self._rotation = rotation
        self._name = "standard output" if path is None else str(path)
        # One buffer: a list of lines would request memory from the kernel for each
        # (docs/explanation/performance.md).
        self._batch = bytearray()
        self._followed = monotonic()
        self._file: OutputFile | None = None
        self._fd = _STDOUT
        self._is_file = False
        if path is not None:
            try:
                self._file = OutputFile(path, option, rotation)
            except (OSError, UnsafeFile) as error:
                raise self._error(error) from error
            self._use(self._file.fd)

    def share(self, helper: Helper) -> None:
        """Let ``helper`` open the path again, before this process loses access to it."""
        if self._file:
            self._file.share(helper)

    @property
    def fd(self) -> int:
        """The file descriptor that the lines are written to."""
        return self._fd

    def add(self, lines: bytes) -> None:
        """Add lines, each with its line feed."""
        if len(lines) >= _BATCH and not self._batch:
            # Collected elsewhere: copying them again would take 10 % of the fast path's time.
            self._write_all(lines)
            return
        self._batch += lines
        if len(self._batch) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the collected lines; lines that cannot be written are dropped and reported."""
        batch, self._batch = self._batch, bytearray()
        self._write_all(batch)

    def close(self) -> None:
        """Write what is left and close the file; standard output stays open."""
        try:
            self.flush()
        finally:
            if self._file and self._fd != -1:
                os.close(self._fd)
                self._file.close()
            self._fd = -1

    def _write_all(self, batch: bytes | bytearray) -> None:
        written = 0
        try:
            if batch:
                self._follow()
            while written < len(batch):
                end = self._make_room(batch, written) if self._rotation else len(batch)
                while written < end:
                    part = batch if end - written == len(batch) else batch[written:end]
                    written += self._write(part)
        except (OSError, UnsafeFile) as error:
            whole = batch.rfind(b"\n", 0, written) + 1
            self._cut(written - whole)
            raise self._error(error, batch.count(b"\n", whole)) from error

    def _write(self, data: bytes | bytearray) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                # A terminal or pipe that another program made non-blocking.
                select.select([], [self._fd], [])

    def _use(self, fd: int) -> None:
        """Write to ``fd`` from now on."""
        self._fd = fd
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)

    def _replace(self, fd: int) -> None:
        os.close(self._fd)
        self._use(fd)

    def _follow(self) -> None:
        """Continue in a new file if the file was renamed or removed."""
        now = monotonic()
        if self._file and self._is_file and now - self._followed >= _FOLLOW_SECONDS:
            fd = self._file.follow()
            self._followed = now
            if fd is not None:
                self._replace(fd)

    def _make_room(self, batch: bytes | bytearray, start: int) -> int:
        """Rotate if the file has no room for the line at ``start``.

        Return the end of the whole lines from ``start`` that the file has room for.
        """
        assert self._rotation
        if not self._is_file:
            return len(batch)
        size = os.fstat(self._fd).st_size
        end = self._end_of_fitting(batch, start, size)
        if end == start and size:
            assert self._file
            self._replace(self._file.rotate())
            end = self._end_of_fitting(batch, start, 0)
        # A line longer than the limit gets a file of its own.
        return end if end > start else batch.index(b"\n", start) + 1

    def _end_of_fitting(self, batch: bytes | bytearray, start: int, size: int) -> int:
        assert self._rotation
        room = max(self._rotation.max_size - size, 0)
        if len(batch) - start <= room:
            return len(batch)
        return max(batch.rfind(b"\n", start, start + room) + 1, start)

    def _cut(self, size: int) -> None:
        """Cut the last ``size`` bytes off the file."""
        if size and self._is_file:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - size)

    def _error(self, error: OSError | UnsafeFile, lost: int = 0) -> OutputError:
        if isinstance(error, BrokenPipeError):
            return OutputClosed(f"{self._name} was closed by its reader")
        dropped = f" (lines not written: {lost})" if lost else ""
        another = f"or choose another {self._option}"
        if isinstance(error, UnsafeFile):
            return OutputError(f"cannot write {self._name}{dropped}: {error}, {another}")
        advice = f"free space or permissions there, {another}"
        what = f"write {self._name}"
        if error.filename2 is not None:
            what = f"rename {error.filename} to {error.filename2}"
        elif isinstance(error, FileNotFoundError):
            advice = f"create the directory, {another}"
        elif isinstance(error, IsADirectoryError):
            advice = f"name a file in it with {self._option}"
        return OutputError(f"cannot {what}: {error.strerror}{dropped}; {advice}")


class JsonLines(Lines):
    """Writes each record as a line of JSON."""

    def write(self, record: Record) -> None:
        """Add one line."""
        self.add(escaped(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)))
