# SPDX-License-Identifier: Apache-2.0
"""Reads the kernel's statistics of a process and all its descendants."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")

_PROGRAM = re.compile(r"^(prog_id|run_time_ns):\s+(\d+)$", re.MULTILINE)

# Off by default, because it makes each program read the clock twice.
STATISTICS = PROC / "sys/kernel/bpf_stats_enabled"

# The process's name, which may contain anything, precedes these in parentheses.
_PARENT = re.compile(r".*\) \S (\d+) ", re.DOTALL)


def family(pid: int) -> list[int]:
    """Return ``pid`` and its descendants."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = _PARENT.match(path.read_text(errors="replace"))
            assert parent is not None
            children.setdefault(int(parent[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _tasks(pid: int) -> Iterator[Path]:
    for one in family(pid):
        yield from (PROC / str(one) / "task").glob("[0-9]*")


def processor_time(pid: int) -> int:
    """Return the processor time, in nanoseconds, of the threads of ``pid`` and its descendants."""
    total = 0
    for task in _tasks(pid):
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def busy_time() -> int:
    """Return the nanoseconds that the one processor ran anything but its idle loop."""
    # The seventh number of the line (Documentation/scheduler/sched-stats.rst).
    line = re.search(r"^cpu0 (.*)$", (PROC / "schedstat").read_text(), re.MULTILINE)
    assert line is not None
    return int(line[1].split()[6])


def run_when_idle(pid: int) -> None:
    """Let ``pid`` run only when nothing else wants to, as ``chrt --idle 0`` does."""
    for task in _tasks(pid):
        os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def peak_memory(pid: int) -> int:
    """Return the sum of the peak resident sizes of ``pid`` and its descendants, in KiB."""
    total = 0
    for one in family(pid):
        with suppress(OSError):
            status = (PROC / str(one) / "status").read_text()
            total += int(re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
    return total


def programs_time(pid: int) -> int | None:
    """Return the nanoseconds that the BPF programs of ``pid`` and its descendants ran.

    Only time while STATISTICS were on counts; ``None`` if there are no programs.
    """
    programs: dict[str, int] = {}
    for one in family(pid):
        for info in (PROC / str(one) / "fdinfo").glob("[0-9]*"):
            with suppress(OSError):
                facts = dict(_PROGRAM.findall(info.read_text()))
                if "run_time_ns" in facts:
                    programs[facts["prog_id"]] = int(facts["run_time_ns"])
    return sum(programs.values()) if programs else None
