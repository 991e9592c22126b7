"""Calls that waited for data when the probe was attached: it has to be told of them.

A thread that waits in read or recv on a connection, which is how many servers spend
their time, is inside the call before the probe is there, and its return passes no
hook. ``/proc/PID/task/TID/syscall`` (proc(5)) says in which call a thread waits, with
its arguments; the probe is given the place of the data and takes it from there.

The rule: a call that the probe may have seen begin is never told, or its bytes would
be captured twice. They are looked for before the probe is attached, and told after
that if the thread's count of context switches is the same: it has not run in between.

TCP only, and read and recvfrom only: what waits in others is missed.
"""

from __future__ import annotations

import os
import re
import struct
import time
from pathlib import Path
from typing import NamedTuple

from profiler.ingest.probe.maps import Map
from profiler.ingest.syscalls import NAMES

PROC = Path("/proc")

_LOOK_SECONDS = 1.0

# Position of the flags among the arguments.
CALLS = {"read": None, "recvfrom": 3}
_SWITCHES = re.compile(rb"^(?:non)?voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)

# struct waiting of bpf/call.h: descriptor, pointer, flags.
_WAITING = struct.Struct("=QQQ")


class Call(NamedTuple):
    """One thread that waits, and since which of its context switches."""

    process: int
    thread: int
    descriptor: int
    pointer: int
    msg_flags: int
    switches: int

    @property
    def key(self) -> bytes:
        """What bpf_get_current_pid_tgid() returns in that thread."""
        return struct.pack("=Q", self.process << 32 | self.thread)

    @property
    def value(self) -> bytes:
        """What the probe is told of it."""
        return _WAITING.pack(self.descriptor, self.pointer, self.msg_flags)


class WaitingCalls:
    """The calls on this machine that wait for data of a TCP connection, as of now."""

    def __init__(self, machine: str, proc: Path = PROC) -> None:
        self._machine = machine
        self._proc = proc
        self._calls = _find(machine, proc)
        self._told: Map | None = None
        self._hook: int | None = None
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._calls)

    def tell(self, told: Map, hook: int | None = None) -> None:
        """Write those that still wait into a map of the probe, which has been attached meanwhile.

        ``hook`` is the descriptor of what is attached for them alone.
        """
        self._told, self._hook = told, hook
        self._drop_ended()
        for call in self._calls:
            told.write(call.key, call.value)
        # One that ended before it was written would be taken for the thread's next call.
        self._forget_ended(told)

    def look_after(self) -> None:
        """Now and then, forget those that have ended, and unhook behind the last."""
        if self._told is not None and time.monotonic() >= self._due:
            self._forget_ended(self._told)
            self._due = time.monotonic() + _LOOK_SECONDS

    def close(self) -> None:
        """Unhook."""
        self._told = None
        if self._hook is not None:
            os.close(self._hook)
            self._hook = None

    def _forget_ended(self, told: Map) -> None:
        for call in self._drop_ended():
            told.delete(call.key)
        if not self._calls:
            self.close()

    def _drop_ended(self) -> list[Call]:
        ended = [call for call in self._calls if not self._still_waits(call)]
        self._calls = [call for call in self._calls if call not in ended]
        return ended

    def _still_waits(self, call: Call) -> bool:
        task = self._proc / str(call.process) / "task" / str(call.thread)
        return _look(task, self._machine) == call


def _find(machine: str, proc: Path) -> list[Call]:
    found = []
    inodes: dict[str, frozenset[str]] = {}
    for task in proc.glob("[0-9]*/task/[0-9]*"):
        call = _look(task, machine)
        if call is None or call.process == os.getpid():
            continue
        process = task.parent.parent
        try:
            descriptor = str((process / "fd" / str(call.descriptor)).readlink())
            namespace = str((process / "ns" / "net").readlink())
            if namespace not in inodes:
                inodes[namespace] = _tcp_inodes(process)
        except OSError:
            continue
        if descriptor.startswith("socket:[") and descriptor[8:-1] in inodes[namespace]:
            found.append(call)
    return found


def _look(task: Path, machine: str) -> Call | None:
    """The call of interest that a thread waits in, if it does."""
    try:
        # "running", or number, six arguments, stack and instruction pointer.
        words = (task / "syscall").read_text().split()
        name = NAMES[machine].get(int(words[0])) if len(words) == 9 else None
        if name not in CALLS:
            return None
        switches = sum(map(int, _SWITCHES.findall((task / "status").read_bytes())))
    except (OSError, ValueError):
        return None
    arguments = [int(word, 16) for word in words[1:7]]
    flags = CALLS[name]
    return Call(
        process=int(task.parent.parent.name),
        thread=int(task.name),
        descriptor=arguments[0] & 0xFFFFFFFF,
        pointer=arguments[1],
        msg_flags=arguments[flags] & 0xFFFFFFFF if flags is not None else 0,
        switches=switches,
    )


def _tcp_inodes(process: Path) -> frozenset[str]:
    """The sockets of TCP in the network namespace of a process (proc_net_tcp(5))."""
    found: set[str] = set()
    for name in ("tcp", "tcp6"):
        lines = (process / "net" / name).read_text().splitlines()[1:]
        found.update(line.split()[9] for line in lines)
    return frozenset(found)
