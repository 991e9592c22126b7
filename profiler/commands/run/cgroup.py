# SPDX-License-Identifier: Apache-2.0
"""A cgroup of one's own for a command: what is in it, and only that, is traced.

A child is in the cgroup of its parent, whatever it does with sessions and process groups, so
nothing escapes but what is moved on purpose (``systemd-run``, a container engine). It is made
below the profiler's own, so that limits and accounting stay as they are; where that cannot
hold processes, below the root of the hierarchy.

What outlives the command goes back where it would have been without us, and on untraced.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

from profiler.errors import ProfilerError

# A process that has ended leaves its cgroup a moment later (Linux 6.19).
_EMPTY_SECONDS = 5.0


class Cgroup:
    """A directory of the cgroup2 hierarchy, made for this process. Raises ProfilerError."""

    def __init__(self, mount: Path, own: str) -> None:
        """Make it below ``own``, a path as in ``/proc/self/cgroup``, of the hierarchy at ``mount``.

        If it cannot be made there, it is made at the root.
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
            f"cannot make a cgroup below {mount}: "
            f"{trouble.strerror if trouble else 'it is threaded'}; "
            "`run` needs root and a cgroup2 hierarchy that can be written"
        )

    @property
    def path(self) -> str:
        """Its path in the hierarchy, as records have it."""
        return f"/{self.directory.relative_to(self._mount)}"

    def join(self) -> None:
        """Move the calling process into it. Raises OSError."""
        (self.directory / "cgroup.procs").write_text("0")

    def remove(self) -> list[str]:
        """Send away what is left in it, and remove it; return what there is to say of that.

        Cgroups that the command has made itself are its own: they stay if they are in use.
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
        said = []
        if moved:
            said.append(f"{len(moved)} processes that the command left behind go on, untraced")
        if self.directory.exists():
            said.append(f"left {self.directory}: the command made cgroups in it that are in use")
        return said

    def _send_away(self) -> Iterator[int]:
        procs = self.directory / "cgroup.procs"
        for pid in procs.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (self.directory.parent / "cgroup.procs").write_text(pid)
                yield int(pid)
