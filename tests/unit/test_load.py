"""What can be tested of loading without a kernel that loads."""

from __future__ import annotations

import ctypes
import errno
import resource
import struct

import pytest

from profiler.errors import ProbeError
from profiler.probe import kernel, load
from profiler.probe.generate import FENTRY, KPROBE, TRACEPOINT, Attachment
from profiler.probe.layout import Layout

# opcode, registers, offset, immediate
ADD = struct.pack("=BBhi", 0xDB, 0x12, 8, 0)
FETCH_ADD = struct.pack("=BBhi", 0xDB, 0x12, 8, 1)
ADD_32 = struct.pack("=BBhi", 0xC3, 0x12, 8, 0)
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def test_atomic_additions_are_made_to_return_what_was_there() -> None:
    assert load.with_fetch(ADD + EXIT + ADD) == FETCH_ADD + EXIT + FETCH_ADD


def test_other_instructions_stay() -> None:
    # The second half of a 64-bit constant may look like anything but an atomic addition:
    # its opcode is 0.
    constant = struct.pack("=BBhi", 0x18, 1, 0, 0xDB) + struct.pack("=BBhi", 0, 0, 0, 0xDB)
    code = ADD_32 + constant + EXIT
    assert load.with_fetch(code) == code


def test_the_shape_is_written_over_its_placeholder() -> None:
    def load_constant(value: int, register: int) -> bytes:
        """Two instructions: the lower half of the constant in the first (ld_imm64)."""
        low, high = value & 0xFFFFFFFF, value >> 32
        return struct.pack("=BBhIBBhI", 0x18, register, 0, low, 0, 0, 0, high)

    other = load_constant(0x1122334455667788, 3)
    placeholder = load.SHAPE_PLACEHOLDER
    code = load_constant(placeholder, 1) + other + load_constant(placeholder, 7) + EXIT
    assert load.with_shape(code, 0x0504030201) == (
        load_constant(0x0504030201, 1) + other + load_constant(0x0504030201, 7) + EXIT
    )


def test_only_programs_of_kernel_functions_are_bound_when_they_are_loaded() -> None:
    layout = Layout({}, {}, {}, 168, False, functions={"inet_release": 4711})
    assert load.target_id(Attachment(FENTRY, "inet_release", "f"), layout) == 4711
    assert load.target_id(Attachment(KPROBE, "inet_release", "f"), layout) is None
    assert load.target_id(Attachment(TRACEPOINT, "syscalls:sys_enter_read", "f"), layout) is None


def test_the_attributes_are_as_long_as_the_kernel_s() -> None:
    """union bpf_attr and struct perf_event_attr (include/uapi/linux/bpf.h, perf_event.h)."""
    assert load._LOAD.size == 120
    assert load._OPEN.size == 16
    assert kernel._EVENT.size == 72


def test_a_tracepoint_that_is_not_there_is_named() -> None:
    with pytest.raises(ProbeError, match="no tracepoint syscalls:sys_enter_nothing"):
        load.attach(-1, Attachment(TRACEPOINT, "syscalls:sys_enter_nothing", "f"))


class Calls:
    """Stands for bpf(2), which is refused as long as there is a limit of locked memory."""

    def __init__(self, hard: bool = False) -> None:
        self.made = 0
        self._limit = 65536
        self._hard = hard

    def syscall(self, *_: object) -> int:
        self.made += 1
        ctypes.set_errno(errno.EPERM)
        return 3 if self._limit == resource.RLIM_INFINITY else -1

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self._limit, self._limit

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        if self._hard:
            raise ValueError("not allowed to raise maximum limit")
        self._limit = limits[0]


@pytest.mark.parametrize(("hard", "results"), [(False, [3, 3]), (True, [-1, -1])])
def test_the_limit_of_locked_memory_is_lifted_once(
    monkeypatch: pytest.MonkeyPatch, hard: bool, results: list[int]
) -> None:
    """Before Linux 5.11 a map counts as locked memory, and is refused with EPERM."""
    calls = Calls(hard)
    monkeypatch.setattr(kernel, "_syscall", calls.syscall)
    monkeypatch.setattr(resource, "getrlimit", calls.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", calls.setrlimit)
    assert [kernel.bpf(0, b"") for _ in range(2)] == results
    assert calls.made == (2 if hard else 3)


def test_what_is_refused_without_a_limit_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    monkeypatch.setattr(kernel, "_syscall", Calls().syscall)
    assert kernel.bpf(0, b"") == -1
    assert ctypes.get_errno() == errno.EPERM
