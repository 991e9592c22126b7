# SPDX-License-Identifier: Apache-2.0
"""Loads compiled programs into the kernel and attaches them with system calls.

BCC could do both. But for each target function it compiles the program again and parses
the kernel's whole BTF, and its naming of programs changes between versions. bpf(2) and
perf_event_open(2) are stable: here a program is compiled once and loaded for any number
of functions. An attachment is a file descriptor; closing it detaches the program.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

from profiler.errors import ProbeError
from profiler.ingest.probe.generate import (
    FENTRY,
    FEXIT,
    KPROBE,
    RAW_TRACEPOINT,
    TRACEPOINT,
    UPROBE,
    Attachment,
)
from profiler.ingest.probe.kernel import (
    INSTRUCTION,
    LOAD_CONSTANT,
    PERF_EVENT_IOC_ENABLE,
    bpf,
    ioctl,
    perf_event,
    why,
)
from profiler.ingest.probe.layout import Layout

# include/uapi/linux/bpf.h
_BPF_PROG_LOAD = 5
_BPF_RAW_TRACEPOINT_OPEN = 17
_PROG_TYPE_KPROBE = 2
_PROG_TYPE_TRACEPOINT = 5
_PROG_TYPE_TRACING = 26
_TRACE_RAW_TP = 23
_TRACE_FENTRY = 24
_TRACE_FEXIT = 25
_PROG_TYPES = {
    FENTRY: _PROG_TYPE_TRACING,
    FEXIT: _PROG_TYPE_TRACING,
    KPROBE: _PROG_TYPE_KPROBE,
    RAW_TRACEPOINT: _PROG_TYPE_TRACING,
    TRACEPOINT: _PROG_TYPE_TRACEPOINT,
    UPROBE: _PROG_TYPE_KPROBE,
}
_ATTACH_TYPES = {FENTRY: _TRACE_FENTRY, FEXIT: _TRACE_FEXIT, RAW_TRACEPOINT: _TRACE_RAW_TP}

# union bpf_attr for BPF_PROG_LOAD, up to attach_btf_obj_fd.
LOAD_ATTRIBUTES = struct.Struct("=IIQQIIQII16sIIIIQIIQIII4x")
# union bpf_attr for BPF_RAW_TRACEPOINT_OPEN.
OPEN_ATTRIBUTES = struct.Struct("=QI4x")

# include/uapi/linux/perf_event.h
_PERF_TYPE_TRACEPOINT = 2
_PERF_EVENT_IOC_SET_BPF = 0x40042408

_LOAD_64 = 0x79
_OFFSET = struct.Struct("=h")
# An atomic add of 64 bits; with the flag it returns the old value (Linux 5.12).
_ATOMIC_ADD = 0xDB
_BPF_FETCH = 1
# In the upper half of the registers' byte: the constant is a map's descriptor.
_PSEUDO_MAP = 1
_CALL = 0x85
# Likewise: the call's target is a kernel function, given by its BTF id.
_PSEUDO_KFUNC_CALL = 2

_STATISTICS = ("processed ", "verification time", "stack depth")
# The largest size that every kernel accepts.
_LOG_SIZE = (1 << 24) - 1


def target_id(attachment: Attachment, layout: Layout) -> int | None:
    """Return the BTF id of the target to which a program is bound at load time, if any."""
    if attachment.kind == RAW_TRACEPOINT:
        return layout.tracepoints[attachment.target]
    return layout.functions[attachment.target] if attachment.kind in _ATTACH_TYPES else None


def load(code: bytes, attachment: Attachment, target: int | None) -> int:
    """Load the instructions ``code`` for ``attachment``; return the program's descriptor.

    ``target`` is the result of :func:`target_id`. Raises ProbeError, which names the file
    with the verifier's log.
    """
    code = with_constants(code, attachment.calling.constants)
    code = with_offsets(code, attachment.calling.offsets)
    size = len(code) // INSTRUCTION.size
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")

    def attempt(log: ctypes.Array[ctypes.c_char] | None) -> int:
        attributes = LOAD_ATTRIBUTES.pack(
            _PROG_TYPES[attachment.kind],
            size,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            1 if log else 0,
            len(log) if log else 0,
            ctypes.addressof(log) if log else 0,
            0,  # kern_version: ignored since 5.0
            0,
            attachment.function[:15].encode(),
            0,
            _ATTACH_TYPES.get(attachment.kind, 0),
            *(0,) * 7,
            target or 0,
            0,
        )
        return bpf(_BPF_PROG_LOAD, attributes)

    # Request the log only after a failure, because it makes loading slow.
    descriptor = attempt(None)
    if descriptor >= 0:
        return descriptor
    log = ctypes.create_string_buffer(_LOG_SIZE)
    descriptor = attempt(log)
    if descriptor >= 0:
        return descriptor
    number = ctypes.get_errno()
    raise ProbeError(
        f"the kernel refuses {attachment.function} for {attachment.target}: {why(number)}"
        + _verdict(log.value.decode(errors="replace"))
    )


def _verdict(log: str) -> str:
    """Return the verifier's last line before its statistics, and the file with the whole log."""
    lines = [line for line in log.splitlines() if line and not line.startswith(_STATISTICS)]
    if not lines:
        return ""
    with tempfile.NamedTemporaryFile(
        mode="w", prefix="http-profiler-", suffix=".log", delete=False
    ) as file:
        file.write(log)
    return f": {lines[-1]} (the whole log: {file.name})"


def attach(program: int, attachment: Attachment) -> int:
    """Attach a loaded program; return the attachment's descriptor. Raises ProbeError."""
    if attachment.kind in _ATTACH_TYPES:
        descriptor = bpf(_BPF_RAW_TRACEPOINT_OPEN, OPEN_ATTRIBUTES.pack(0, program))
    elif attachment.kind == TRACEPOINT:
        number = _tracepoint_number(attachment.target)
        descriptor = _attach_event(program, _PERF_TYPE_TRACEPOINT, number)
    else:
        name = ctypes.create_string_buffer(attachment.target.encode())
        descriptor = _attach_event(program, _probe_type("kprobe"), 0, ctypes.addressof(name))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise ProbeError(f"cannot attach to {attachment.target}: {why(number)}")
    return descriptor


def attach_to_file(program: int, file: int, offset: int) -> int:
    """Attach a loaded program to an instruction at ``offset`` in the open ``file``.

    It then runs in every process that maps the file. Return the attachment's descriptor.
    Raises OSError: for example EINVAL if there is no instruction, or it cannot be probed, and
    EOPNOTSUPP if the kernel offers no uprobes.
    """
    name = ctypes.create_string_buffer(f"/proc/self/fd/{file}".encode())
    address = ctypes.addressof(name)
    try:
        kind = _probe_type("uprobe")
    except ProbeError as error:
        raise OSError(errno.EOPNOTSUPP, str(error)) from None
    descriptor = _attach_event(program, kind, 0, address, offset)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, why(number))
    return descriptor


def with_fetch(code: bytes) -> bytes:
    """Return ``code`` with each atomic addition changed to return the old value."""

    def fetch(opcode: int, registers: int, constant: int) -> tuple[int, int]:
        return registers, _BPF_FETCH if opcode == _ATOMIC_ADD else constant

    return _rewritten(code, fetch)


def with_constants(code: bytes, values: Mapping[int, int]) -> bytes:
    """Return ``code`` with 64-bit placeholders replaced by 64-bit values."""
    written = {_wide_constant(key): _wide_constant(value) for key, value in values.items()}
    # In one pass, because a value may look like a placeholder.
    placeholder = re.compile(b"|".join(map(re.escape, written)))
    return placeholder.sub(lambda match: written[match[0]], code)


def with_offsets(code: bytes, offsets: Mapping[int, int]) -> bytes:
    """Return ``code`` with the offsets of 64-bit loads replaced: placeholder -> offset."""
    moved = bytearray(code)
    for at in range(0, len(code), INSTRUCTION.size):
        if code[at] == _LOAD_64:
            (offset,) = _OFFSET.unpack_from(code, at + 2)
            if offset in offsets:
                _OFFSET.pack_into(moved, at + 2, offsets[offset])
    return bytes(moved)


def with_maps(code: bytes, descriptors: Sequence[int]) -> bytes:
    """Return ``code`` with each map's number replaced by its descriptor."""

    def name(opcode: int, registers: int, constant: int) -> tuple[int, int]:
        is_map = opcode == LOAD_CONSTANT and registers >> 4 == _PSEUDO_MAP
        return registers, descriptors[constant] if is_map else constant

    return _rewritten(code, name)


def with_function(code: bytes, number: int) -> bytes:
    """Return ``code`` with calls of helper ``number`` changed to calls of a kernel function.

    ``number`` is the BTF id of the kernel function.
    """

    def call(opcode: int, registers: int, constant: int) -> tuple[int, int]:
        is_call = opcode == _CALL and registers == 0 and constant == number
        return _PSEUDO_KFUNC_CALL << 4 if is_call else registers, constant

    return _rewritten(code, call)


def _rewritten(code: bytes, rewrite: Callable[[int, int, int], tuple[int, int]]) -> bytes:
    """Return ``code`` with registers and constants replaced.

    ``rewrite`` maps opcode, registers and constant to new registers and a new constant.
    """
    instructions = []
    for opcode, registers, offset, constant in INSTRUCTION.iter_unpack(code):
        registers, constant = rewrite(opcode, registers, constant)
        instructions.append(INSTRUCTION.pack(opcode, registers, offset, constant))
    return b"".join(instructions)


def skipped(program: int) -> int:
    """Return how often the kernel skipped a program because it already ran on that CPU.

    Kernels before 5.12 do not count this.
    """
    text = Path(f"/proc/self/fdinfo/{program}").read_text()
    return sum(
        int(line.split()[1]) for line in text.splitlines() if line.startswith("recursion_misses:")
    )


def _wide_constant(value: int) -> bytes:
    """Return the bytes of a 64-bit load from the lower half of its constant to the upper half."""
    return struct.pack("=IBBhI", value & 0xFFFFFFFF, 0, 0, 0, value >> 32)


def _attach_event(
    program: int, event_type: int, config: int, config1: int = 0, config2: int = 0
) -> int:
    descriptor = perf_event(event_type, config, config1=config1, config2=config2)
    if descriptor < 0:
        return descriptor
    for request, argument in ((_PERF_EVENT_IOC_SET_BPF, program), (PERF_EVENT_IOC_ENABLE, 0)):
        if ioctl(descriptor, request, argument) < 0:
            number = ctypes.get_errno()
            os.close(descriptor)
            ctypes.set_errno(number)
            return -1
    return descriptor


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


def _probe_type(kind: str) -> int:
    try:
        return int(Path(f"/sys/bus/event_source/devices/{kind}/type").read_text())
    except OSError:
        option = f"CONFIG_{kind.upper()}_EVENTS"
        raise ProbeError(f"this kernel offers no {kind}s ({option})") from None
