# SPDX-License-Identifier: Apache-2.0
"""A file that is written after a capture, when this process has lost access to its path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from profiler.errors import OutputError
from profiler.outputs.file import output
from profiler.privileges.helper import Descriptor, Helper


class DeferredOutput:
    """The output at ``path``, which is complete or absent (:mod:`profiler.outputs.file`).

    After :meth:`share`, a helper opens and renames it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._context: AbstractContextManager[BinaryIO] | None = None
        self._open, self._finish = self._open_here, self._finish_here

    def share(self, helper: Helper) -> None:
        """Let ``helper`` open the file and give it its name."""
        self._open, self._finish = helper.offer(self._open_here), helper.offer(self._finish_here)

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open it for writing. Raises OutputError."""
        fd = self._open()
        is_whole = False
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
            is_whole = True
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        finally:
            self._finish(is_whole)

    def _open_here(self) -> Descriptor:
        self._context = output(self._path)
        return Descriptor(os.dup(self._context.__enter__().fileno()))

    def _finish_here(self, is_whole: bool) -> None:
        context, self._context = self._context, None
        assert context is not None, "it is open"
        if is_whole:
            context.__exit__(None, None, None)
            return
        # The error is reported where it was raised.
        error = OutputError("the file is not whole")
        with contextlib.suppress(OutputError):
            context.__exit__(type(error), error, None)
