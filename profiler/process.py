"""Who a process is: its command line, looked up once and kept.

The kernel's records name a process by pid and start time, so a pid that is used
again is another process. ``/proc`` is asked when a process is first heard of -
a process that is gone by then stays without a command line, never with another
one's. In a replay the capture brings what was known, and ``/proc`` is not asked.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

from profiler.wire import Chunk, Process

_KEPT = 4096


class Processes:
    """The processes that were heard of, the latest ``_KEPT`` of them."""

    def __init__(self, proc: Path | None = Path("/proc")) -> None:
        """Look processes up below ``proc``; ``None`` knows only what :meth:`learn` is told."""
        self._proc = proc
        self._cmdlines: OrderedDict[tuple[int, int], str | None] = OrderedDict()
        self._ticks_per_second = os.sysconf("SC_CLK_TCK")

    def meet(self, chunk: Chunk) -> Process | None:
        """Look up the process of ``chunk`` if it is new; return what was found, once."""
        key = (chunk.pid, chunk.start_time)
        if key in self._cmdlines:
            return None
        cmdline = self._read_cmdline(*key) if self._proc else None
        if cmdline is None:
            self._keep(key, None)
            return None
        process = Process(chunk.pid, chunk.start_time, cmdline)
        self.learn(process)
        return process

    def learn(self, process: Process) -> None:
        """Take over what is known of a process."""
        self._keep((process.pid, process.start_time), _text(process.cmdline))

    def cmdline(self, pid: int, start_time: int) -> str | None:
        """The command line, arguments joined by spaces; ``None`` if it is not known."""
        return self._cmdlines.get((pid, start_time))

    def _keep(self, key: tuple[int, int], cmdline: str | None) -> None:
        self._cmdlines[key] = cmdline
        self._cmdlines.move_to_end(key)
        if len(self._cmdlines) > _KEPT:
            self._cmdlines.popitem(last=False)

    def _read_cmdline(self, pid: int, start_time: int) -> bytes | None:
        directory = Path(f"{self._proc}/{pid}")
        try:
            cmdline = (directory / "cmdline").read_bytes()
            # Read second: if this is still the same process, so was the one before.
            stat = (directory / "stat").read_bytes()
        except OSError:
            return None
        # proc(5): field 22 is the start time in clock ticks; comm, field 2, may hold anything.
        ticks = int(stat.rpartition(b")")[2].split()[19])
        if ticks != start_time * self._ticks_per_second // 1_000_000_000:
            return None
        return cmdline


def _text(cmdline: bytes) -> str:
    return cmdline.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
