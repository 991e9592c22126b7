# SPDX-License-Identifier: Apache-2.0
"""The names of the syscalls that move bytes of sockets, by machine and number.

Numbers are from the kernel's ``arch/x86/entry/syscalls/syscall_64.tbl`` and
``include/uapi/asm-generic/unistd.h``, which aarch64 and riscv64 use.
"""

from __future__ import annotations

import platform

_X86_64 = {
    0: "read",
    1: "write",
    19: "readv",
    20: "writev",
    40: "sendfile",
    44: "sendto",
    45: "recvfrom",
    46: "sendmsg",
    47: "recvmsg",
    275: "splice",
    295: "preadv",
    296: "pwritev",
    299: "recvmmsg",
    307: "sendmmsg",
    327: "preadv2",
    328: "pwritev2",
    426: "io_uring_enter",
}

_GENERIC = {
    63: "read",
    64: "write",
    65: "readv",
    66: "writev",
    69: "preadv",
    70: "pwritev",
    71: "sendfile",
    76: "splice",
    206: "sendto",
    207: "recvfrom",
    211: "sendmsg",
    212: "recvmsg",
    243: "recvmmsg",
    269: "sendmmsg",
    286: "preadv2",
    287: "pwritev2",
    426: "io_uring_enter",
}

NAMES: dict[str, dict[int, str]] = {"x86_64": _X86_64, "aarch64": _GENERIC, "riscv64": _GENERIC}


def names(machine: str | None = None) -> dict[int, str]:
    """Return syscall names by number, by default of this machine; empty if it is unknown."""
    return NAMES.get(machine or platform.machine(), {})
