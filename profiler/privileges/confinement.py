# SPDX-License-Identifier: Apache-2.0
"""Gives up root's privileges for good: user, groups, capabilities, and most system calls.

What stays open stays usable: the mapped ring, output files, the terminal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource

from profiler.errors import ProfilerError, UsageError
from profiler.privileges import seccomp

DEDICATED, DEFAULT = "http-profiler", "nobody"

# include/uapi/linux/prctl.h
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
# include/uapi/linux/capability.h: the version with two 32-bit words for each set.
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class ConfinementError(ProfilerError):
    """The privileges cannot be dropped here."""


def user_for(name: str | None) -> pwd.struct_passwd | None:
    """Return the user that parses captured bytes; ``None``: root, which keeps all privileges.

    Without a name, it is the current user if that is not root, the user of the package, or else
    ``nobody``. Raises UsageError if there is no such user, and ConfinementError if there is none.
    """
    if not name and os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    for candidate in (name,) if name else (DEDICATED, DEFAULT):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(candidate)
            return user if user.pw_uid else None
    if name:
        raise UsageError(f"--unprivileged-user: this machine has no user {name!r}")
    raise ConfinementError(f"this machine has no user {DEFAULT}")


def confine(
    user: pwd.struct_passwd, realtime: bool = False, network: bool = False, accept: bool = False
) -> list[str]:
    """Become ``user`` without any privilege; return what of it this machine does not permit.

    With ``realtime`` it may still take real-time priority 1 (``probe/precedence.py``). With
    ``network`` it can make connections, with ``accept`` accept them on a socket that listens, and
    with either start threads. Raises ConfinementError if the capabilities cannot be dropped.
    """
    missing = []
    if realtime:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_RTPRIO, (1, 1))
    try:
        _become(user)
    except OSError as error:
        # For example a container without CAP_SETUID.
        missing.append(f"as the same user: cannot become {user.pw_name} ({error.strerror})")
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Other processes of this user cannot look into this one (ptrace(2)).
    _prctl(_PR_SET_DUMPABLE, 0)
    try:
        seccomp.install(network, accept)
    except seccomp.UnavailableError as error:
        missing.append(f"without a system call filter: {error}")
    return missing


def _become(user: pwd.struct_passwd) -> None:
    if os.geteuid() != user.pw_uid:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def _drop_capabilities() -> None:
    """Empty all sets (capabilities(7)). A change of user empties them only for root."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) < 0:
        raise ConfinementError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")
    # The kernel has no ambient capabilities before 4.3; without permitted ones there are none.
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) < 0:
        raise ConfinementError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
