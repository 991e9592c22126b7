# SPDX-License-Identifier: Apache-2.0
"""A cgroup for one command: exactly the processes in it are traced.

A child is in its parent's cgroup, whatever it does with sessions and process groups. So a process
escapes only if it is moved on purpose (``systemd-run``, a container engine). The cgroup is created
below the profiler's own, so that limits and accounting stay as they are. If that one cannot hold
processes, it is created below the root of the hierarchy.

A process that outlives the command moves back to the parent cgroup, and continues untraced.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

from profiler.errors import ProfilerError

# An ended process leaves its cgroup a moment later (Linux 6.19).
_EMPTY_SECONDS = 5.0


class Cgroup:
    """A directory in the cgroup2 hierarchy, created for this process. Raises ProfilerError."""

    def __init__(self, mount: Path, own: str) -> None:
        """Create it below ``own``, in the hierarchy at ``mount``.

        ``own`` is a path as in ``/proc/self/cgroup``. If it cannot be created there, it is created
        at the root.
        """
        self._mount = mount
        trouble = None
        for parent in (mount / own.lstrip("/"), mount):
            self.directory = parent / f"http-profiler-{os.getpid()}"
            try:
                self.directory.mkdir()
            except OSError as error:
                trouble = trouble or error
                continue
            if (self.directory / "cgroup.type").read_text().strip() == "domain":
                return
            self.directory.rmdir()
        raise ProfilerError(
            f"cannot create a cgroup below {mount}: "
            f"{trouble.strerror if trouble else 'it is threaded'}; "
            "`run` needs root and a writable cgroup2 hierarchy"
        )

    @property
    def path(self) -> str:
        """Its path in the hierarchy, as in the field ``cgroup`` of a record."""
        return f"/{self.directory.relative_to(self._mount)}"

    def join(self) -> None:
        """Move the calling process into it. Raises OSError."""
        (self.directory / "cgroup.procs").write_text("0")

    def remove(self) -> list[str]:
        """Move its remaining processes out, and remove it; return messages about that.

        Cgroups that the command itself created stay if they are in use.
        """
        moved: set[int] = set()
        deadline = time.monotonic() + _EMPTY_SECONDS
        with (self.directory / "cgroup.events").open() as events:
            changes = select.poll()
            changes.register(events, select.POLLPRI)
            while True:
                moved.update(self._send_away())
                below = [Path(path) for path, _, _ in os.walk(self.directory, topdown=False)]
                for directory in below:
                    with contextlib.suppress(OSError):
                        directory.rmdir()
                left = deadline - time.monotonic()
                if not self.directory.exists() or left <= 0:
                    break
                events.seek(0)
                events.read()
                changes.poll(min(left, 0.1) * 1000)
        messages = []
        if moved:
            messages.append(f"{len(moved)} processes outlived the command and continue untraced")
        if self.directory.exists():
            messages.append(
                f"kept {self.directory}: cgroups that the command created in it are in use"
            )
        return messages

    def _send_away(self) -> Iterator[int]:
        procs = self.directory / "cgroup.procs"
        for pid in procs.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (self.directory.parent / "cgroup.procs").write_text(pid)
                yield int(pid)
