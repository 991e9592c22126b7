# SPDX-License-Identifier: Apache-2.0
"""Reads the identity of a process from ``/proc``, for engines that cannot read it in the kernel.

If the process has ended, its identity stays unknown. The start time prevents confusion
with another process that reuses its pid.
"""

from __future__ import annotations

import os
from pathlib import Path

from profiler.ingest.probe.cgroups import cgroup_of
from profiler.ingest.wire import Process

_TICKS = os.sysconf("SC_CLK_TCK")
# For rounding the kernel's nanoseconds to the ticks of /proc, and for differing clocks.
_SLACK_TICKS = 1


def read_process(pid: int, start_time: int, proc: Path = Path("/proc")) -> Process | None:
    """Return who ``pid`` is if it started at ``start_time`` (ns since boot), else ``None``."""
    directory = proc / str(pid)
    try:
        cmdline = (directory / "cmdline").read_bytes()
        uid = directory.stat().st_uid
        cgroup = cgroup_of(pid, proc)
        # Read last: if this is the expected process, the files above were its own too.
        stat = (directory / "stat").read_bytes()
    except OSError:
        return None
    # proc(5): field 22 is the start time in clock ticks; comm, field 2, may hold anything.
    ticks = int(stat.rpartition(b")")[2].split()[19])
    if abs(ticks - start_time * _TICKS // 1_000_000_000) > _SLACK_TICKS:
        return None
    return Process(pid, start_time, _cgroup_inode(cgroup or ""), uid, cmdline)


def _cgroup_inode(path: str) -> int:
    try:
        return Path("/sys/fs/cgroup", path.lstrip("/")).stat().st_ino
    except OSError:
        return 0
