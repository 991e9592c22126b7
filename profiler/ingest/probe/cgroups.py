# SPDX-License-Identifier: Apache-2.0
"""Finds control groups: their directories in the cgroup2 hierarchy, and a process's own one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from profiler.errors import ProbeError, UnsupportedError


def mounted_at(proc: Path = Path("/proc")) -> Path | None:
    """Return where the cgroup2 hierarchy is mounted; ``None`` if it is not."""
    try:
        mounts = (proc / "mounts").read_text().splitlines()
    except OSError:
        return None
    fields = (line.split() for line in mounts)
    return next((Path(mount[1]) for mount in fields if mount[2] == "cgroup2"), None)


def cgroup_of(pid: int | str, proc: Path = Path("/proc")) -> str | None:
    """Return the path of a process's control group; ``None`` if it cannot be read.

    The path is relative to the root of the hierarchy (proc_pid_cgroup(5)). It need not be
    UTF-8, so it is decoded like a file name.
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_bytes().split(b"\n")
    except OSError:
        return None
    return next((os.fsdecode(line[3:]) for line in lines if line.startswith(b"0::")), None)


def directories(paths: Iterable[str], root: Path | None = None) -> list[Path]:
    """Return the directories of control groups; ``paths`` begin at the hierarchy's root.

    Raises ProbeError if one does not exist, and UnsupportedError without cgroup2.
    """
    paths = tuple(paths)
    if not paths:
        return []
    root = root or mounted_at()
    if root is None:
        raise UnsupportedError("--cgroup needs the cgroup2 hierarchy, which is not mounted here")
    found = [root / path.lstrip("/") for path in paths]
    for path, directory in zip(paths, found):
        if not directory.is_dir():
            raise ProbeError(
                f"there is no control group {path} below {root}: "
                "/proc/PID/cgroup shows the control group of a process"
            )
    return found
