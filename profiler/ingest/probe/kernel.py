# SPDX-License-Identifier: Apache-2.0
"""The parts of the kernel's BPF interface that several modules share.

They are the two system calls that Python lacks, bpf(2) and perf_event_open(2), the layout
of an instruction, the numbers of the CPUs, and the kernel's settings.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import re
import resource
import struct
from pathlib import Path

from profiler.errors import UnsupportedError

_SYSCALLS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298},
    "aarch64": {"bpf": 280, "perf_event_open": 241},
    "riscv64": {"bpf": 280, "perf_event_open": 241},
}

# include/uapi/linux/capability.h
_SYS_ADMIN = 1 << 21
_BPF_AND_PERFMON = 1 << 38 | 1 << 39

# Internal to the kernel (include/linux/errno.h), so libc has no text for it.
_ENOTSUPP = 524

# struct bpf_insn (include/uapi/linux/bpf.h): opcode, registers, offset, constant.
INSTRUCTION = struct.Struct("=BBhi")
# Loads a constant of 64 bits; a second instruction holds its upper half.
LOAD_CONSTANT = 0x18

# include/uapi/linux/perf_event.h
PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_FLAG_FD_CLOEXEC = 8
# struct perf_event_attr up to config2, PERF_ATTR_SIZE_VER1.
EVENT = struct.Struct("=IIQQQQQIIQQ")

# For example "none (voluntary) full lazy".
_PREEMPTION = Path("/sys/kernel/debug/sched/preempt")
# "0": BPF is interpreted; "1" and "2": it is compiled.
_COMPILER = Path("/proc/sys/net/core/bpf_jit_enable")
# For example "espintcp mptcp tls": the protocols whose modules are loaded.
_ABOVE_TCP = Path("/proc/sys/net/ipv4/tcp_available_ulp")

_libc = ctypes.CDLL(None, use_errno=True)


def words(memory: mmap.mmap) -> memoryview:
    """Return memory that is shared with the kernel as 64-bit integers; release it before closing.

    Assigning an item is one store. ``struct.pack_into()`` first fills the bytes with zeros
    (``s_pack_internal()`` of CPython), which another CPU can see.
    """
    return memoryview(memory).cast("Q")


def bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2); return its result, or -1 with the error in :func:`ctypes.get_errno`.

    ``attributes`` is the part of ``union bpf_attr`` that the command reads.
    """
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _syscall("bpf", command, ctypes.addressof(buffer), len(attributes))


def perf_event(
    event_type: int,
    config: int,
    *,
    config1: int = 0,
    config2: int = 0,
    cpu: int = 0,
    sample_type: int = 0,
    wakeup_events: int = 0,
) -> int:
    """Call perf_event_open(2) for all processes on ``cpu``; return its result like :func:`bpf`.

    The arguments are members of ``struct perf_event_attr``. Each event is a sample.
    """
    attributes = EVENT.pack(
        event_type,
        EVENT.size,
        config,
        1,
        sample_type,
        0,
        0,
        wakeup_events,
        0,
        config1,
        config2,
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _syscall("perf_event_open", ctypes.addressof(buffer), -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)


def ioctl(descriptor: int, request: int, argument: int) -> int:
    """Call ioctl(2) with an integer argument; return its result like :func:`bpf`."""
    return int(_libc.ioctl(descriptor, ctypes.c_ulong(request), ctypes.c_int(argument)))


def may_load(status: Path = Path("/proc/self/status")) -> bool:
    """Return whether this process has the capabilities to load the probe (capabilities(7)).

    They are CAP_BPF and CAP_PERFMON; before Linux 5.8, CAP_SYS_ADMIN stands for both.
    """
    effective = int(status.read_text().partition("CapEff:")[2].split()[0], 16)
    return any(effective & needed == needed for needed in (_BPF_AND_PERFMON, _SYS_ADMIN))


def lift_memory_limit() -> None:
    """Remove this process's limit on locked memory: before Linux 5.11, maps count towards it."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)


def cpus(which: str) -> list[int]:
    """Return the numbers of the ``online`` or ``possible`` CPUs, from sysfs (``0-3,6``)."""
    numbers: list[int] = []
    for part in Path(f"/sys/devices/system/cpu/{which}").read_text().strip().split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def is_preemptible(built: str | None = None, chosen: Path = _PREEMPTION) -> bool:
    """Return whether a task can be preempted while it runs in the kernel.

    ``built`` is uname(2)'s ``version``, which names the preemption model of the build. With
    PREEMPT_DYNAMIC (Linux 5.12), the file ``chosen`` names the model chosen at boot. If it
    cannot be read, the result is true.
    """
    words = (platform.version() if built is None else built).split()
    if not any(word.startswith("PREEMPT") for word in words):
        return False
    try:
        model = re.search(r"\((\w+)\)", chosen.read_text())
    except OSError:
        return True
    return model is None or model[1] not in ("none", "voluntary")


def is_compiling(setting: Path = _COMPILER) -> bool:
    """Return whether the kernel compiles BPF to machine code, rather than interpreting it."""
    try:
        return setting.read_text().strip() != "0"
    except OSError:
        return False


def protocols_above_tcp(path: Path = _ABOVE_TCP) -> frozenset[str] | None:
    """Return the protocols available above TCP now, such as ``tls``; ``None`` if unknown."""
    try:
        return frozenset(path.read_text().split())
    except OSError:
        return None


def why(number: int) -> str:
    """Describe an errno of one of these calls."""
    if number == errno.EPERM:
        return "the kernel does not permit BPF here (a container without CAP_BPF, or lockdown)"
    if number == _ENOTSUPP:
        return "this kernel does not support it (fexit on arm64 came with Linux 6.4)"
    return os.strerror(number)


def _syscall(name: str, *arguments: int) -> int:
    try:
        number = _SYSCALLS[platform.machine()][name]
    except KeyError:
        raise UnsupportedError(
            f"http-profiler does not support {platform.machine()}: "
            f"it runs on {', '.join(_SYSCALLS)}"
        ) from None
    return int(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))
