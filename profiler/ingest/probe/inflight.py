# SPDX-License-Identifier: Apache-2.0
"""Finds calls in flight when the probe is attached: blocked in read or recv, waiting for data.

Many servers spend most of their time in such a call. It began before the probe was
attached, so no hook sees its return. ``/proc/PID/task/TID/syscall`` (proc(5)) shows the
call in which a thread is blocked, and its arguments. From these, this module passes the
buffer's address to the probe.

A call whose entry the probe may have seen is never written to the map, because its bytes
would be captured twice. So calls are found before the probe is attached. A call is written
afterwards only if its thread's count of context switches is unchanged, so that the thread
has not run in between.

Only read and recvfrom on TCP sockets are supported. Other calls in flight are missed.
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

REFRESH_SECONDS = 1.0

# Position of the flags among the arguments.
CALLS = {"read": None, "recvfrom": 3}
_SWITCHES = re.compile(rb"^(?:non)?voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)

# struct inflight of bpf/call.h: descriptor, pointer, flags.
_INFLIGHT = struct.Struct("=QQQ")


class Call(NamedTuple):
    """A call in flight, with its thread's count of context switches."""

    process: int
    thread: int
    descriptor: int
    pointer: int
    msg_flags: int
    switches: int

    @property
    def key(self) -> bytes:
        """The value of bpf_get_current_pid_tgid() in that thread."""
        return struct.pack("=Q", self.process << 32 | self.thread)

    @property
    def value(self) -> bytes:
        """The value in the probe's map."""
        return _INFLIGHT.pack(self.descriptor, self.pointer, self.msg_flags)


class InflightCalls:
    """The calls that are now in flight on TCP connections of this machine."""

    def __init__(self, machine: str, proc: Path = PROC) -> None:
        self._machine = machine
        self._proc = proc
        self.calls = _find(machine, proc)
        self._target: Map | None = None
        self._hook: int | None = None
        self._due = 0.0

    def __len__(self) -> int:
        return len(self.calls)

    def write_to(self, target: Map, hook: int | None = None) -> None:
        """Write the calls that are still in flight to a map of the probe, now attached.

        ``hook`` is the descriptor of the attachment that serves only these calls.
        """
        self._target, self._hook = target, hook
        self._drop_ended()
        for call in self.calls:
            target.write(call.key, call.value)
        # The probe would mistake a call that ended before it was written for the thread's next.
        self._forget_ended(target)

    def refresh(self) -> None:
        """Every second, drop the calls that have ended; detach the hook after the last."""
        if self._target is not None and time.monotonic() >= self._due:
            self._forget_ended(self._target)
            self._due = time.monotonic() + REFRESH_SECONDS

    def close(self) -> None:
        """Detach the hook."""
        self._target = None
        if self._hook is not None:
            os.close(self._hook)
            self._hook = None

    def _forget_ended(self, target: Map) -> None:
        for call in self._drop_ended():
            target.delete(call.key)
        if not self.calls:
            self.close()

    def _drop_ended(self) -> list[Call]:
        ended = [call for call in self.calls if not self._is_inflight(call)]
        self.calls = [call for call in self.calls if call not in ended]
        return ended

    def _is_inflight(self, call: Call) -> bool:
        task = self._proc / str(call.process) / "task" / str(call.thread)
        return _inflight_call(task, self._machine) == call


def _find(machine: str, proc: Path) -> list[Call]:
    found = []
    inodes: dict[str, frozenset[str]] = {}
    for task in proc.glob("[0-9]*/task/[0-9]*"):
        call = _inflight_call(task, machine)
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


def _inflight_call(task: Path, machine: str) -> Call | None:
    """Return the supported call in which a thread is blocked, if any."""
    try:
        # "running", or the number, six arguments, stack pointer and instruction pointer.
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
    """Return the inodes of TCP sockets in a process's network namespace (proc_net_tcp(5))."""
    found: set[str] = set()
    for name in ("tcp", "tcp6"):
        lines = (process / "net" / name).read_text().splitlines()[1:]
        found.update(line.split()[9] for line in lines)
    return frozenset(found)
