# SPDX-License-Identifier: Apache-2.0
"""Every case: what it does, the first kernel that supports it, and the expected result.

By default every message must be captured at both ends. Where that is impossible, a
:class:`Less` states the right result and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from profiler.commands.doctor import paths, sockets, tls
from profiler.commands.doctor.scenario import Scenario
from profiler.commands.doctor.script import ENDS, RECV, SEND

PATH, SOCKET, TLS = "path", "socket", "tls"

CAPTURED, PARTIAL, MISSED = "captured", "partial", "missed"
WRONG, UNAVAILABLE = "wrong", "unavailable"
RESULTS = (CAPTURED, PARTIAL, MISSED, WRONG, UNAVAILABLE)
"""From best to worst."""

# The oldest kernel that the profiler is for.
OLDEST = (5, 4)


@dataclass(frozen=True)
class Less:
    """The right result for some messages, where it is not :data:`CAPTURED`.

    It applies at ``ends``, to the messages with the labels ``messages`` (empty: all), and on
    ``route`` only, if one is given. ``incomplete`` are the reasons that a partial line may give.
    """

    result: str
    why: str
    ends: tuple[str, ...]
    messages: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    route: str | None = None


@dataclass(frozen=True)
class Case:
    """One scenario that the canary plays and the profiler should capture.

    ``calls`` are the system calls that start sending and receiving every message, if the
    case uses only one of each.
    """

    group: str
    name: str
    what: str
    play: Callable[[Scenario], None]
    calls: tuple[str, str] | None = None
    since: tuple[int, int] = OLDEST
    option: str = ""
    """What a kernel of any version may be built without, such as ``CONFIG_MPTCP``."""
    program: str = ""
    """What a machine may lack, such as ``curl``."""
    less: tuple[Less, ...] = ()
    prepare: Callable[[Scenario], Any] | None = None
    """Runs before the profiler starts; what it returns is ``Scenario.prepared``."""


_FIRST = ("request 1", "response 1")
_NOT_IN_MEMORY = "these bytes never were in the process's memory"
_NO_SYSCALL = "no system call of its own to hook: needs the socket route"


def _lost(end: str, why: str) -> tuple[Less]:
    return (Less(PARTIAL, why, (end,), _FIRST, ("lost",)),)


_URING = (Less(MISSED, _NO_SYSCALL, ENDS, route="syscall"),)

CASES = (
    # First, so that they wait for as short a time as possible with a second thread.
    Case(
        SOCKET,
        "before-idle",
        "connection opened before the profiler started, both ends idle",
        sockets.before_idle,
        prepare=sockets.open_idle,
    ),
    Case(
        SOCKET,
        "before-waiting",
        "connection opened before the profiler started, the server waiting in recv",
        sockets.before_waiting,
        prepare=sockets.open_waiting,
    ),
    Case(PATH, "write-read", "write, read", paths.read_write, ("write", "read")),
    Case(PATH, "writev-readv", "writev, readv", paths.readv_writev, ("writev", "readv")),
    Case(
        PATH,
        "pwritev2-preadv2",
        "pwritev2, preadv2 at offset -1",
        paths.preadv2_pwritev2,
        ("pwritev2", "preadv2"),
    ),
    Case(PATH, "sendto-recvfrom", "send, recv", paths.recvfrom_sendto, ("sendto", "recvfrom")),
    Case(
        PATH, "sendmsg-recvmsg", "sendmsg, recvmsg", paths.recvmsg_sendmsg, ("sendmsg", "recvmsg")
    ),
    Case(
        PATH,
        "sendmmsg-recvmmsg",
        "sendmmsg, recvmmsg",
        paths.recvmmsg_sendmmsg,
        ("sendmmsg", "recvmmsg"),
    ),
    Case(
        PATH, "sendfile", "body sent by sendfile", paths.sendfile, less=_lost(SEND, _NOT_IN_MEMORY)
    ),
    Case(
        PATH,
        "splice-to-socket",
        "body spliced from a pipe to the socket",
        paths.splice_to_socket,
        less=_lost(SEND, _NOT_IN_MEMORY),
    ),
    Case(
        PATH,
        "splice-from-socket",
        "body spliced from the socket to a pipe",
        paths.splice_from_socket,
        less=_lost(RECV, _NOT_IN_MEMORY),
    ),
    Case(
        PATH,
        "io_uring-send-recv",
        "io_uring's SEND, RECV",
        paths.io_uring_send_recv,
        since=(5, 6),
        less=_URING,
    ),
    Case(
        PATH,
        "io_uring-write-read",
        "io_uring's WRITE, READ",
        paths.io_uring_read_write,
        since=(5, 6),
        less=_URING,
    ),
    Case(PATH, "peek", "MSG_PEEK before reading", paths.peek),
    Case(
        PATH,
        "trunc",
        "part of a body discarded with MSG_TRUNC",
        paths.discard,
        less=_lost(RECV, "these bytes were discarded, not received"),
    ),
    Case(PATH, "oob", "MSG_OOB bytes beside the stream", paths.oob),
    Case(PATH, "eagain", "EAGAIN before there is data", paths.eagain),
    Case(PATH, "partial-writes", "non-blocking writes that take a part", paths.partial_writes),
    Case(PATH, "empty-segments", "empty segments in writev, readv", paths.empty_segments),
    Case(
        PATH,
        "many-segments",
        "more than 64 segments in one call",
        paths.many_segments,
        less=(
            Less(
                PARTIAL,
                "the probe reads only the first 64 segments of a call",
                ENDS,
                _FIRST,
                ("body_limit",),
            ),
        ),
    ),
    Case(PATH, "threads", "several threads write to one socket", paths.threads),
    Case(PATH, "zerocopy", "MSG_ZEROCOPY", paths.zerocopy),
    Case(PATH, "mptcp", "Multipath TCP", paths.mptcp, since=(5, 6), option="CONFIG_MPTCP"),
    Case(
        PATH,
        "ktls",
        "TLS in the kernel",
        paths.ktls,
        option="CONFIG_TLS",
        prepare=paths.load_tls,
    ),
    Case(PATH, "bytewise", "one byte at a time", paths.bytewise),
    Case(PATH, "large-body", "a body of 100 KiB", paths.large_body),
    Case(SOCKET, "ipv4", "IPv4", sockets.ipv4),
    Case(SOCKET, "ipv6", "IPv6", sockets.ipv6),
    Case(SOCKET, "v4-mapped", "IPv4 on an IPv6 socket", sockets.mapped),
    Case(SOCKET, "unix-path", "Unix stream socket with a path", sockets.unix_path),
    Case(
        SOCKET, "unix-abstract", "Unix stream socket with an abstract name", sockets.unix_abstract
    ),
    Case(SOCKET, "socketpair", "socketpair", sockets.unix_pair),
    Case(SOCKET, "fork", "descriptor inherited over fork", sockets.fork),
    Case(SOCKET, "fork-exec", "descriptor inherited over fork and exec", sockets.fork_exec),
    Case(SOCKET, "dup", "duplicated descriptors", sockets.dup),
    Case(SOCKET, "passed", "descriptor passed to another process", sockets.passed),
    Case(SOCKET, "reused", "a closed descriptor's number used again", sockets.reused),
    Case(SOCKET, "netns", "process in another network namespace", sockets.netns),
    Case(SOCKET, "pidns", "process in another pid namespace", sockets.pidns),
    Case(SOCKET, "gone", "process that has ended before its lines are written", sockets.gone),
)

_OPENSSL = "openssl"  # makes the certificate

TLS_CASES = (
    # First, so that it waits for as short a time as possible.
    Case(
        TLS,
        "tls-before",
        "Python's ssl, the handshake before the profiler started",
        tls.before,
        program=_OPENSSL,
        prepare=tls.connect,
    ),
    Case(TLS, "tls-1.3", "Python's ssl", tls.over(), program=_OPENSSL),
    Case(TLS, "tls-1.2", "Python's ssl with TLS 1.2", tls.over("TLSv1_2"), program=_OPENSSL),
    Case(
        TLS,
        "tls-large-body",
        "Python's ssl with a body of 100 KiB",
        tls.over(size=paths.LARGE_BODY),
        program=_OPENSSL,
    ),
    Case(
        TLS,
        "asyncio",
        "Python's asyncio, which encrypts in memory",
        tls.in_memory,
        program=_OPENSSL,
    ),
    Case(TLS, "curl", "curl as the client", tls.program, program="curl", prepare=tls.start_curl),
    Case(
        TLS,
        "openssl",
        "openssl s_client as the client",
        tls.openssl,
        program=_OPENSSL,
        prepare=tls.start_openssl,
    ),
    Case(TLS, "node", "Node.js as the client", tls.program, program="node", prepare=tls.start_node),
)

KINDS = {"plain": CASES, "tls": TLS_CASES}
"""The cases of one run of the canary; those of ``tls`` need ``--tls``."""
