"""Loading compiled programs into the kernel and attaching them, by the kernel's own interface.

BCC could do both, but it compiles a program again for each function that it is
attached to, reads the kernel's whole BTF for each of them, and expects another
name for them in each of its versions. bpf(2) and perf_event_open(2) do not
change: here a program is compiled once and loaded for as many functions as want
it. An attachment is a file descriptor; closing it detaches.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path

from profiler.errors import ProbeError
from profiler.probe.generate import (
    FENTRY,
    FEXIT,
    KPROBE,
    SHAPE_PLACEHOLDER,
    TRACEPOINT,
    Attachment,
)
from profiler.probe.layout import Layout

_SYSCALLS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298},
    "aarch64": {"bpf": 280, "perf_event_open": 241},
    "riscv64": {"bpf": 280, "perf_event_open": 241},
}

# include/uapi/linux/bpf.h
_BPF_PROG_LOAD = 5
_BPF_RAW_TRACEPOINT_OPEN = 17
_PROG_TYPE_KPROBE = 2
_PROG_TYPE_TRACEPOINT = 5
_PROG_TYPE_TRACING = 26
_TRACE_FENTRY = 24
_TRACE_FEXIT = 25
_PROG_TYPES = {
    FENTRY: _PROG_TYPE_TRACING,
    FEXIT: _PROG_TYPE_TRACING,
    KPROBE: _PROG_TYPE_KPROBE,
    TRACEPOINT: _PROG_TYPE_TRACEPOINT,
}
_ATTACH_TYPES = {FENTRY: _TRACE_FENTRY, FEXIT: _TRACE_FEXIT}

# union bpf_attr for BPF_PROG_LOAD, up to attach_btf_obj_fd.
_LOAD = struct.Struct("=IIQQIIQII16sIIIIQIIQIII4x")
# union bpf_attr for BPF_RAW_TRACEPOINT_OPEN.
_OPEN = struct.Struct("=QI4x")

# include/uapi/linux/perf_event.h
_PERF_TYPE_TRACEPOINT = 2
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408
_PERF_FLAG_FD_CLOEXEC = 8
# struct perf_event_attr up to config2, PERF_ATTR_SIZE_VER1.
_EVENT = struct.Struct("=IIQQQQQIIQQ")

_INSTRUCTION = struct.Struct("=BBhi")
# An atomic add of 64 bits; with the flag it returns what was there (Linux 5.12).
_ATOMIC_ADD = 0xDB
_BPF_FETCH = 1

# The most that every kernel accepts.
_LOG_SIZE = (1 << 24) - 1

_libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(ProbeError):
    """The kernel refused a program; ``log`` is what its verifier said."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


def target_id(attachment: Attachment, layout: Layout) -> int | None:
    """The BTF id of the function that a program is bound to when it is loaded, if it is."""
    return layout.functions[attachment.target] if attachment.kind in _ATTACH_TYPES else None


def load(code: bytes, attachment: Attachment, target: int | None) -> int:
    """Load the instructions ``code`` for ``attachment``; return the program's descriptor.

    ``target`` is what :func:`target_id` says. Raises RefusedError.
    """
    size = len(code) // _INSTRUCTION.size
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")

    def attempt(log: ctypes.Array[ctypes.c_char] | None) -> int:
        attributes = _LOAD.pack(
            _PROG_TYPES[attachment.kind],
            size,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            1 if log else 0,
            len(log) if log else 0,
            ctypes.addressof(log) if log else 0,
            0,  # kern_version: not looked at since 5.0
            0,
            attachment.function[:15].encode(),
            0,
            _ATTACH_TYPES.get(attachment.kind, 0),
            *(0,) * 7,
            target or 0,
            0,
        )
        return _bpf(_BPF_PROG_LOAD, attributes)

    # Only for a program that is refused: writing the log makes loading slow.
    descriptor = attempt(None)
    if descriptor >= 0:
        return descriptor
    log = ctypes.create_string_buffer(_LOG_SIZE)
    descriptor = attempt(log)
    if descriptor >= 0:
        return descriptor
    number = ctypes.get_errno()
    raise RefusedError(
        f"the kernel refuses {attachment.function} for {attachment.target}: {_why(number)}",
        log.value.decode(errors="replace"),
    )


def attach(program: int, attachment: Attachment) -> int:
    """Attach a loaded program; return the descriptor that keeps it attached. Raises ProbeError."""
    if attachment.kind in _ATTACH_TYPES:
        descriptor = _bpf(_BPF_RAW_TRACEPOINT_OPEN, _OPEN.pack(0, program))
    elif attachment.kind == TRACEPOINT:
        number = _tracepoint_number(attachment.target)
        descriptor = _perf_event(program, _PERF_TYPE_TRACEPOINT, number)
    else:
        name = ctypes.create_string_buffer(attachment.target.encode())
        descriptor = _perf_event(program, _kprobe_type(), 0, ctypes.addressof(name))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise ProbeError(f"cannot attach to {attachment.target}: {_why(number)}")
    return descriptor


def with_fetch(code: bytes) -> bytes:
    """Return ``code`` with each atomic addition made to return what was there before."""
    patched = bytearray(code)
    for position in range(0, len(code), _INSTRUCTION.size):
        opcode, registers, offset, _ = _INSTRUCTION.unpack_from(code, position)
        if opcode == _ATOMIC_ADD:
            _INSTRUCTION.pack_into(patched, position, opcode, registers, offset, _BPF_FETCH)
    return bytes(patched)


def with_shape(code: bytes, shape: int) -> bytes:
    """Return ``code`` with ``shape`` in the place of each SHAPE_PLACEHOLDER."""
    return code.replace(_wide_constant(SHAPE_PLACEHOLDER), _wide_constant(shape))


def skipped(program: int) -> int:
    """How often the kernel did not run a loaded program because it was running on that CPU.

    Kernels before 5.12 do not count it.
    """
    text = Path(f"/proc/self/fdinfo/{program}").read_text()
    return sum(
        int(line.split()[1]) for line in text.splitlines() if line.startswith("recursion_misses:")
    )


def _wide_constant(value: int) -> bytes:
    """The tails of the two instructions that load a 64-bit constant, with what is between them."""
    return struct.pack("=IBBhI", value & 0xFFFFFFFF, 0, 0, 0, value >> 32)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _syscall("bpf", command, ctypes.addressof(buffer), len(attributes))


def _perf_event(program: int, event_type: int, config: int, config1: int = 0) -> int:
    attributes = _EVENT.pack(event_type, _EVENT.size, config, 1, 0, 0, 0, 0, 0, config1, 0)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    descriptor = _syscall(
        "perf_event_open", ctypes.addressof(buffer), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC
    )
    if descriptor < 0:
        return descriptor
    for request, argument in ((_PERF_EVENT_IOC_SET_BPF, program), (_PERF_EVENT_IOC_ENABLE, 0)):
        if _libc.ioctl(descriptor, ctypes.c_ulong(request), ctypes.c_int(argument)) < 0:
            number = ctypes.get_errno()
            os.close(descriptor)
            ctypes.set_errno(number)
            return -1
    return descriptor


def _syscall(name: str, *arguments: int) -> int:
    number = _SYSCALLS[platform.machine()][name]
    return int(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))


def _tracepoint_number(target: str) -> int:
    path = f"events/{target.replace(':', '/')}/id"
    for tracefs in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        try:
            return int((Path(tracefs) / path).read_text())
        except OSError:
            continue
    raise ProbeError(
        f"this kernel offers no tracepoint {target}, or tracefs is not mounted "
        "(`mount -t tracefs tracefs /sys/kernel/tracing`)"
    )


def _kprobe_type() -> int:
    try:
        return int(Path("/sys/bus/event_source/devices/kprobe/type").read_text())
    except OSError:
        raise ProbeError("this kernel offers no kprobes (CONFIG_KPROBE_EVENTS)") from None


def _why(number: int) -> str:
    if number in (errno.EPERM, errno.EACCES):
        return (
            f"{os.strerror(number)} (not permitted here: a container without CAP_BPF, lockdown, "
            "or a program that the verifier does not accept)"
        )
    return os.strerror(number)
