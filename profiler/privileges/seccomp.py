# SPDX-License-Identifier: Apache-2.0
"""A system call filter for the process that parses captured bytes (seccomp(2)).

It can read, write and wait on what is open. It can open files for reading, because Python imports
modules late. It cannot open a file for writing, make a socket, start a program or a process, look
into another process, or use BPF. A call that is not listed fails with EPERM. The process that
exports can make or accept connections besides, as far as it needs to.

libseccomp translates names to the numbers of the machine. Every distribution with systemd has it.
"""

from __future__ import annotations

import ctypes
import os

_ALLOWED = (
    *("read", "readv", "pread64", "write", "writev", "pwrite64", "lseek", "close", "close_range"),
    *("fstat", "newfstatat", "stat", "lstat", "statx", "access", "faccessat", "faccessat2"),
    *("readlink", "readlinkat", "getdents64", "getcwd", "ftruncate", "fsync", "fdatasync"),
    *("dup", "dup2", "dup3", "fcntl", "pipe2"),
    *("poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_ctl"),
    *("epoll_create1", "sendmsg", "sendto", "recvmsg", "recvfrom", "shutdown"),
    *("mmap", "munmap", "mremap", "mprotect", "madvise", "brk"),
    *("futex", "sched_yield", "membarrier", "rseq", "set_robust_list", "getrandom"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack"),
    *("rt_sigpending", "rt_sigsuspend", "pause", "restart_syscall", "setitimer", "alarm"),
    *("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getpgrp"),
    *("getpgid", "getsid", "getrusage", "uname", "sysinfo", "times", "getcpu"),
    *("sched_getaffinity", "sched_getscheduler", "sched_getparam", "getpriority", "getrlimit"),
    *("wait4", "waitid", "exit", "exit_group"),
)
# What a connection to a server takes besides, and finding its address.
_NETWORK = (
    *("socket", "connect", "bind", "getsockname", "getpeername", "getsockopt", "setsockopt"),
    *("sendmmsg", "recvmmsg"),
)
# What the connections of a socket that listens already take besides.
_ACCEPT = ("accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Requests of ioctl(2) for terminals and descriptors, without TIOCSTI and TIOCLINUX: they would
# type into the terminal, and so into root's shell (include/uapi/asm-generic/ioctls.h).
_REQUESTS = (
    *range(0x5401, 0x540C),  # TCGETS to TCFLSH
    *(0x540F, 0x5410, 0x5411, 0x5413, 0x5414, 0x541B, 0x5421, 0x5450, 0x5451),
    *(0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D),  # TCGETS2 to TCSETSF2
)

# include/seccomp.h of libseccomp 2.x
_ACT_ALLOW = 0x7FFF0000
_ACT_ERRNO_EPERM = 0x00050001
_ACT_ERRNO_ENOSYS = 0x00050026
_CMP_EQ, _CMP_MASKED_EQ = 4, 7
_ATTRIBUTE_TSYNC = 4
_UNKNOWN_CALL = -1

_CLONE_THREAD = 0x00010000  # include/uapi/linux/sched.h


class UnavailableError(Exception):
    """The filter cannot be installed on this machine."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def install(network: bool = False, accept: bool = False) -> None:
    """Filter the system calls of all threads from now on. Raises UnavailableError.

    With ``network``, connections can be made, and with ``accept``, they can be accepted on a socket
    that listens already. With either, threads can be started.
    """
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        raise UnavailableError("this machine has no libseccomp.so.2") from None
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ACT_ERRNO_EPERM)))
    if not context:
        raise UnavailableError("libseccomp cannot begin a filter")
    try:
        library.seccomp_attr_set(context, _ATTRIBUTE_TSYNC, ctypes.c_uint32(1))
        for name in (*_ALLOWED, *(_NETWORK if network else ()), *(_ACCEPT if accept else ())):
            _allow(library, context, name)
        _allow(library, context, "open", _Comparison(1, _CMP_MASKED_EQ, _WRITES, 0))
        _allow(library, context, "openat", _Comparison(2, _CMP_MASKED_EQ, _WRITES, 0))
        for request in _REQUESTS:
            _allow(library, context, "ioctl", _Comparison(1, _CMP_EQ, request, 0))
        # Only of this process and thread: abort(), reading limits, the reader's priority.
        _allow(library, context, "tgkill", _Comparison(0, _CMP_EQ, os.getpid(), 0))
        _allow(library, context, "prlimit64", _Comparison(2, _CMP_EQ, 0, 0))
        _allow(library, context, "sched_setscheduler", _Comparison(0, _CMP_EQ, 0, 0))
        if network or accept:
            _allow(library, context, "clone", _Comparison(0, _CMP_MASKED_EQ, *[_CLONE_THREAD] * 2))
            # Its flags cannot be examined. The C library then uses clone().
            number = library.seccomp_syscall_resolve_name(b"clone3")
            library.seccomp_rule_add_array(
                context, ctypes.c_uint32(_ACT_ERRNO_ENOSYS), number, 0, None
            )
        failed = library.seccomp_load(context)
    finally:
        library.seccomp_release(context)
    if failed:
        raise UnavailableError(f"the kernel refuses it: {os.strerror(-failed)}")


def _allow(
    library: ctypes.CDLL, context: ctypes.c_void_p, name: str, *conditions: _Comparison
) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN_CALL:
        return  # An older libseccomp does not know a newer call.
    conditions_array = (_Comparison * len(conditions))(*conditions)
    library.seccomp_rule_add_array(
        context, ctypes.c_uint32(_ACT_ALLOW), number, len(conditions), conditions_array
    )
