# SPDX-License-Identifier: Apache-2.0
"""Reads the layout from the kernel's headers, for kernels without BTF.

The fields are the same as for BTF (:data:`profiler.ingest.probe.layout.FIELDS`). BCC
compiles one function for each field that returns its offset, and the offset is read from
the function's instructions. The kernel's headers are large, so compiling takes half a
minute on a slow machine. It fails with headers that BCC's compiler does not understand.

Only the syscall route can use this layout: the socket route attaches to functions by BTF.
"""

from __future__ import annotations

import os
import platform
import re

from profiler.errors import UnsupportedError
from profiler.ingest.probe.compiled import compiled_functions
from profiler.ingest.probe.kernel import INSTRUCTION
from profiler.ingest.probe.layout import FIELDS, Layout

_INCLUDES = (
    "linux/fdtable.h",
    "linux/fs.h",
    "linux/ptrace.h",
    "linux/sched.h",
    "linux/mm_types.h",
    "linux/socket.h",
    "linux/tcp.h",
    "net/af_unix.h",
    "net/inet_connection_sock.h",
    "net/inet_sock.h",
    "net/net_namespace.h",
    "net/sock.h",
)
# Read only on the socket route, or by programs that are attached by BTF.
_WITH_BTF = (
    *("msghdr_", "task_struct_stack", "thread_info_width"),
    *("pt_regs_syscall", "pt_regs_argument2", "pt_regs_argument3"),
)

# Fields that differ from the first path in FIELDS: the kernel version before which they do, and
# the expression.
_BEFORE = {
    "task_struct_start_boottime": ((5, 5), "offsetof(struct task_struct, real_start_time)"),
    # Bit fields after this marker: flags, protocol, type (16 bits).
    "sock_sk_protocol": ((5, 6), "offsetof(struct sock, __sk_flags_offset) + 1"),
    "sock_sk_type": ((5, 6), "offsetof(struct sock, __sk_flags_offset) + 2"),
}
_ARM64 = {
    "pt_regs_argument0": "offsetof(struct pt_regs, regs)",
    "pt_regs_argument1": "offsetof(struct pt_regs, regs) + 8",
}

# enum bpf_func_id of include/uapi/linux/bpf.h, and the first kernel version that has each.
_HELPERS = {
    "ktime_get_boot_ns": (125, (5, 8)),
    "ringbuf_output": (130, (5, 8)),
    "check_mtu": (163, (5, 12)),
    "copy_from_user_task": (191, (5, 18)),
}

# Functions hooked by kprobes, and their parameters up to the last one that is read.
_PARAMETERS = {
    "inet_release": ("sock",),
    "unix_release": ("sock",),
    "unix_stream_connect": ("sock",),
    "unix_accept": ("sock", "newsock"),
    "unix_socketpair": ("socka", "sockb"),
}

_MOVE_CONSTANT = 0xB7


def read_layout_of_headers() -> Layout:
    """Return the parts of the running kernel's layout that the syscall route needs.

    Raises ProbeError if the headers are not installed or cannot be compiled.
    """
    expressions = _expressions(kernel_version(os.uname().release), platform.machine())
    functions = {f"of_{name}": name for name in expressions}
    code = compiled_functions(
        _source(expressions), functions, "the kernel's headers cannot be read", with_headers=True
    )
    offsets = {name: _returned(code[function]) for function, name in functions.items()}
    version = kernel_version(os.uname().release)
    return Layout(
        offsets=offsets,
        enumerators={},
        helpers={name: number for name, (number, since) in _HELPERS.items() if version >= since},
        pt_regs_size=0,
        iter_type_has_direction=False,
        parameters=_PARAMETERS,
    )


def kernel_version(release: str) -> tuple[int, int]:
    """Return the major and minor number of a release such as ``5.4.0-150-generic``.

    Raises UnsupportedError if it does not begin with two numbers.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    if not match:
        raise UnsupportedError(f"cannot parse the kernel release {release!r}")
    return int(match[1]), int(match[2])


def _expressions(version: tuple[int, int], machine: str) -> dict[str, str]:
    """Return the C expression of each field's offset, by name."""
    expressions = {}
    for name, (path, *_) in FIELDS.items():
        if name.startswith(_WITH_BTF):
            continue
        structure, _, member = path.partition(".")
        expressions[name] = f"offsetof(struct {structure}, {member})"
        before, expression = _BEFORE.get(name, ((0, 0), ""))
        if version < before:
            expressions[name] = expression
    if machine == "aarch64":
        expressions.update(_ARM64)
    return expressions


def _source(expressions: dict[str, str]) -> str:
    lines = [f"#include <{name}>" for name in _INCLUDES]
    lines += [
        f"int of_{name}(void *ctx) {{ return {expression}; }}"
        for name, expression in expressions.items()
    ]
    return "\n".join(lines) + "\n"


def _returned(code: bytes) -> int:
    """Read the constant that a function returns from its instructions."""
    opcode, _, _, constant = INSTRUCTION.unpack_from(code)
    if opcode != _MOVE_CONSTANT:
        raise UnsupportedError("BCC's compiler returns an offset in an unexpected form")
    return int(constant)
