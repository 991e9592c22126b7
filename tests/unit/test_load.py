# SPDX-License-Identifier: Apache-2.0
"""The parts of loading that can be tested without a kernel that loads."""

from __future__ import annotations

import ctypes
import errno
import struct

import pytest

from profiler.errors import ProbeError
from profiler.ingest.probe import kernel, load
from profiler.ingest.probe.calling import CALLING_PLACEHOLDER, PARAMETER_PLACEHOLDER
from profiler.ingest.probe.generate import (
    FENTRY,
    KPROBE,
    RAW_TRACEPOINT,
    TRACEPOINT,
    Attachment,
)
from profiler.ingest.probe.layout import Layout
from profiler.ingest.probe.macros import FILTER_PLACEHOLDER

# opcode, registers, offset, immediate
ADD = struct.pack("=BBhi", 0xDB, 0x12, 8, 0)
FETCH_ADD = struct.pack("=BBhi", 0xDB, 0x12, 8, 1)
ADD_32 = struct.pack("=BBhi", 0xC3, 0x12, 8, 0)
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def test_an_unknown_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.platform, "machine", lambda: "s390x")
    with pytest.raises(ProbeError, match=r"does not support s390x: .* x86_64, aarch64"):
        kernel.bpf(0, b"")


def test_errors_unknown_to_libc() -> None:
    assert kernel.why(524) == (
        "this kernel does not support it (fexit on arm64 came with Linux 6.4)"
    )


def test_atomic_additions_return_the_old_value() -> None:
    assert load.with_fetch(ADD + EXIT + ADD) == FETCH_ADD + EXIT + FETCH_ADD


def test_other_instructions_stay() -> None:
    # The second half of a 64-bit constant may contain anything, but never looks like an atomic
    # addition: its opcode is 0.
    constant = struct.pack("=BBhi", 0x18, 1, 0, 0xDB) + struct.pack("=BBhi", 0, 0, 0, 0xDB)
    code = ADD_32 + constant + EXIT
    assert load.with_fetch(code) == code


def test_values_are_written_over_their_placeholders() -> None:
    def load_constant(value: int, register: int) -> bytes:
        """Two instructions: the lower half of the constant in the first (ld_imm64)."""
        low, high = value & 0xFFFFFFFF, value >> 32
        return struct.pack("=BBhIBBhI", 0x18, register, 0, low, 0, 0, 0, high)

    other = load_constant(0x1122334455667788, 3)
    first, second = CALLING_PLACEHOLDER, FILTER_PLACEHOLDER
    code = load_constant(first, 1) + other + load_constant(first, 7) + load_constant(second, 1)
    # The first value has the bytes of the second placeholder.
    assert load.with_constants(code, {first: second, second: 0x0504030201}) == (
        load_constant(second, 1) + other + load_constant(second, 7) + load_constant(0x0504030201, 1)
    )


def test_loads_from_a_context_are_moved_to_where_its_parameters_are() -> None:
    def load_64(offset: int, registers: int = 0x12) -> bytes:
        return struct.pack("=BBhi", 0x79, registers, offset, 0)

    first, second = PARAMETER_PLACEHOLDER, PARAMETER_PLACEHOLDER + 8
    narrow = struct.pack("=BBhi", 0x61, 0x12, first, 0)
    code = load_64(first) + load_64(24) + narrow + load_64(second, 0x34) + load_64(-8)
    # The first load moves to the second one's original offset.
    assert load.with_offsets(code, {first: second, second: 16}) == (
        load_64(second) + load_64(24) + narrow + load_64(16, 0x34) + load_64(-8)
    )


def test_a_helper_s_call_becomes_one_of_a_kernel_function() -> None:
    def call(number: int, source: int = 0) -> bytes:
        return struct.pack("=BBhi", 0x85, source << 4, 0, number)

    # A call of a function in the program has the other mark, and a distance instead of a number.
    code = call(14) + call(4711) + call(4711, source=1) + EXIT
    assert load.with_function(code, 4711) == (
        call(14) + call(4711, source=2) + call(4711, source=1) + EXIT
    )


def test_programs_of_kernel_functions_and_raw_tracepoints_are_bound_when_they_are_loaded() -> None:
    layout = Layout(
        {}, {}, {}, 168, False, functions={"inet_release": 4711}, tracepoints={"sys_exit": 815}
    )
    assert load.target_id(Attachment(RAW_TRACEPOINT, "sys_exit", "f"), layout) == 815
    assert load.target_id(Attachment(FENTRY, "inet_release", "f"), layout) == 4711
    assert load.target_id(Attachment(KPROBE, "inet_release", "f"), layout) is None
    assert load.target_id(Attachment(TRACEPOINT, "syscalls:sys_enter_read", "f"), layout) is None


def test_the_attributes_are_as_long_as_the_kernel_s() -> None:
    """union bpf_attr and struct perf_event_attr (include/uapi/linux/bpf.h, perf_event.h)."""
    assert load.LOAD_ATTRIBUTES.size == 120
    assert load.OPEN_ATTRIBUTES.size == 16
    assert kernel.EVENT.size == 72


def test_a_missing_tracepoint_is_named() -> None:
    with pytest.raises(ProbeError, match="no tracepoint syscalls:sys_enter_nothing"):
        load.attach(-1, Attachment(TRACEPOINT, "syscalls:sys_enter_nothing", "f"))


def test_an_instruction_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The uprobe PMU: config1 is the path, config2 the offset (perf_event_open(2))."""
    asked = []

    def perf_event(event_type: int, config: int, *, config1: int, config2: int) -> int:
        asked.append((event_type, config, ctypes.string_at(config1), config2))
        return 77

    requests: list[tuple[int, ...]] = []
    monkeypatch.setattr(load, "perf_event", perf_event)
    monkeypatch.setattr(load, "ioctl", lambda *arguments: requests.append(arguments) or 0)
    monkeypatch.setattr(load, "_probe_type", {"uprobe": 9}.__getitem__)
    assert load.attach_to_file(5, 33, 4096) == 77
    assert asked == [(9, 0, b"/proc/self/fd/33", 4096)]
    assert [(descriptor, argument) for descriptor, _, argument in requests] == [(77, 5), (77, 0)]


def test_an_instruction_that_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def perf_event(*_: object, **__: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    monkeypatch.setattr(load, "perf_event", perf_event)
    monkeypatch.setattr(load, "_probe_type", {"uprobe": 9}.__getitem__)
    with pytest.raises(OSError, match="Invalid argument"):
        load.attach_to_file(5, 33, 4096)


def test_a_kernel_without_uprobes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is not probed; the capture of plain text continues."""

    def probe_type(kind: str) -> int:
        raise ProbeError(f"this kernel offers no {kind}s")

    monkeypatch.setattr(load, "_probe_type", probe_type)
    with pytest.raises(OSError, match="offers no uprobes"):
        load.attach_to_file(5, 33, 4096)
