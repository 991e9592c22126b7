# SPDX-License-Identifier: Apache-2.0
"""The key log that the command writes (--tls-keys), in a private directory.

It is a file and not a FIFO: a command must not wait for the profiler, or be killed by SIGPIPE, if
it outlives the capture. Only the user of the command can write it. Nobody else can replace it,
because the directory belongs to root. The directory is on a tmpfs, so no secret reaches a disk.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from profiler.errors import ProbeError
from profiler.ingest.decryption import LINE_MAX

_PARENT = "/run"
# Read at once: some thousand lines.
_BLOCK = 1 << 20


class KeyLogFile:
    """A new key log that ``user`` can write; ``None``: this process's user. Raises ProbeError.

    :meth:`read` needs no privileges: it reads the open file.
    """

    def __init__(self, user: pwd.struct_passwd | None, parent: str = _PARENT) -> None:
        try:
            self.directory = Path(tempfile.mkdtemp(prefix="http-profiler-keys-", dir=parent))
            # Others may pass through, but not see the names in it.
            self.directory.chmod(0o711)
            self._path = self.directory / "keys"
            self._path.touch(0o600)
            if user:
                os.chown(self._path, user.pw_uid, user.pw_gid)
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ProbeError(
                f"cannot create a key log below {parent}: {error.strerror}; --tls-keys needs a "
                "writable directory there"
            ) from error
        self._rest = b""

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables that make programs write it."""
        return {"SSLKEYLOGFILE": str(self._path)}

    def read(self) -> bytes:
        """Return the whole lines that were written since the previous call."""
        if os.fstat(self._descriptor).st_size < os.lseek(self._descriptor, 0, os.SEEK_CUR):
            # Some programs truncate it when they start.
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._rest = b""
        block = self._rest + os.read(self._descriptor, _BLOCK)
        lines, end, self._rest = block.rpartition(b"\n")
        if len(self._rest) > LINE_MAX:
            self._rest = self._rest[-LINE_MAX:]  # Not a line of a key log.
        return lines + end

    def remove(self) -> None:
        """Remove it, and its directory."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.directory)
