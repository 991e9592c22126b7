# SPDX-License-Identifier: Apache-2.0
"""Generates a bpftrace program from the hooks, the kernel's layout and bpftrace's version.

The program is the rendered template ``bpf/probe.bt.j2``. It implements the syscall
route, with the same table of hooks and the same offsets as the BCC engine. A
:class:`Dialect` describes how the language differs between versions of bpftrace, so
the template does not depend on a version. Only the template is read, so the same input
always gives the same program.

If the program cannot read the memory that a hooked call uses, it still advances the
stream by the number of bytes moved.
"""

from __future__ import annotations

import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from profiler.accounting import FILTERED, LOST
from profiler.errors import UnsupportedError
from profiler.ingest.probe.hooks import BPF_DIRECTORY, Hooks, SyscallHook
from profiler.ingest.probe.layout import Layout
from profiler.ingest.settings import Settings
from profiler.ingest.syscalls import NAMES

OLDEST = (0, 11)

APPLIED: tuple[str, ...] = ("pid", "port")
"""The filters that the program applies."""

HEARTBEATS = 10
"""Heartbeat lines that each CPU prints in a second, with or without traffic."""

MAP_KEYS_MAX = 16384

# Codes for the outcome of a call: keys of the program's maps @calls and @bytes. Received
# data adds RECV_FATES.
SEEN, FORWARDED = 0, 1
FATES = {
    "seen": SEEN,
    "forwarded": FORWARDED,
    **{name: 10 + i for i, name in enumerate(FILTERED)},
    **{name: 40 + i for i, name in enumerate(LOST)},
}
RECV_FATES = 100

SWAPPED = 0x10000
"""Added to a local port that is in network byte order."""

# bpf/kernel.h: MSG_OOB, MSG_PEEK, MSG_ERRQUEUE
_NOT_STREAM = 0x1 | 0x2 | 0x2000

# The most empty segments before a call's first byte; the most messages of one sendmmsg or
# recvmmsg that are counted.
_LEADING_MAX = 4
_MESSAGES_MAX = 8

# The program's own structures: each member, its C type and its offset. The offset is a name of
# layout.FIELDS for the kernel's structures, or bytes defined by the ABI for user space.
_LONG, _INT, _SHORT, _CHAR = "unsigned long long", "unsigned int", "unsigned short", "unsigned char"
_SIZES = {_INT: 4, _SHORT: 2, _CHAR: 1}
_STRUCTURES: dict[str, tuple[tuple[str, str, str | int], ...]] = {
    "hp_net": (("inum", _INT, "net_ns_inum"),),
    "hp_inode": (("i_mode", _SHORT, "inode_i_mode"), ("i_ino", _LONG, "inode_i_ino")),
    "hp_file": (
        ("f_inode", "struct hp_inode *", "file_f_inode"),
        ("private_data", "struct hp_socket *", "file_private_data"),
    ),
    "hp_socket": (
        ("file", "struct hp_file *", "socket_file"),
        ("sk", "struct hp_sock *", "socket_sk"),
    ),
    "hp_sock": (
        ("family", _SHORT, "sock___sk_common_skc_family"),
        ("state", _CHAR, "sock___sk_common_skc_state"),
        ("num", _SHORT, "sock___sk_common_skc_num"),
        ("dport", _SHORT, "sock___sk_common_skc_dport"),
        ("sport", _SHORT, "inet_sock_inet_sport"),
        ("protocol", _SHORT, "sock_sk_protocol"),
        ("rcv_saddr", _INT, "sock___sk_common_skc_rcv_saddr"),
        ("daddr", _INT, "sock___sk_common_skc_daddr"),
        ("v6_rcv_saddr", _LONG, "sock___sk_common_skc_v6_rcv_saddr"),
        ("v6_rcv_saddr_rest", _LONG, "sock___sk_common_skc_v6_rcv_saddr+8"),
        ("v6_daddr", _LONG, "sock___sk_common_skc_v6_daddr"),
        ("v6_daddr_rest", _LONG, "sock___sk_common_skc_v6_daddr+8"),
        ("net", "struct hp_net *", "sock___sk_common_skc_net"),
        ("sk_socket", "struct hp_socket *", "sock_sk_socket"),
        ("bytes_received", _LONG, "tcp_sock_bytes_received"),
        ("bytes_acked", _LONG, "tcp_sock_bytes_acked"),
        ("rcv_nxt", _INT, "tcp_sock_rcv_nxt"),
        ("copied_seq", _INT, "tcp_sock_copied_seq"),
        ("write_seq", _INT, "tcp_sock_write_seq"),
        ("snd_una", _INT, "tcp_sock_snd_una"),
    ),
    "hp_slot": (("file", "struct hp_file *", 0),),
    "hp_table": (
        ("max_fds", _INT, "fdtable_max_fds"),
        ("fd", "struct hp_slot *", "fdtable_fd"),
    ),
    "hp_files": (("fdt", "struct hp_table *", "files_struct_fdt"),),
    "hp_task": (
        ("leader", "struct hp_task *", "task_struct_group_leader"),
        ("start_boottime", _LONG, "task_struct_start_boottime"),
        ("files", "struct hp_files *", "task_struct_files"),
        ("comm", _LONG, "task_struct_comm"),
        ("comm_rest", _LONG, "task_struct_comm+8"),
    ),
    "hp_word": (("value", _LONG, 0),),
    "hp_segment": (("base", _LONG, 0), ("length", _LONG, 8)),  # struct iovec
    "hp_message": (("segments", "struct hp_segment *", 16),),  # struct user_msghdr
    # struct mmsghdr: a struct user_msghdr, then the number of bytes moved
    "hp_messages": tuple((f"length{i}", _INT, 64 * i + 56) for i in range(_MESSAGES_MAX)),
}


@dataclass(frozen=True)
class Dialect:
    """The language of one version of bpftrace, and how much it can print at once."""

    version: tuple[int, int]

    @property
    def piece_max(self) -> int:
        """Bytes of one buf(): before 0.22 it must fit on the 512-byte stack of a BPF program."""
        return self._by_age(64, 128, 1000)

    @property
    def pieces_max(self) -> int:
        """Pieces of one call; bytes beyond them only advance the stream.

        Each piece is a separate printf, which bpftrace 0.17 compiles in one second in an
        emulated machine.
        """
        return self._by_age(16, 8, 4)

    @property
    def segments_max(self) -> int:
        """Pieces of one call with several segments: each segment, even if empty, needs a piece."""
        return self._by_age(16, 10, 10)

    def _by_age(self, before_0_17: int, before_0_22: int, later: int) -> int:
        if self.version < (0, 17):
            return before_0_17
        return before_0_22 if self.version < (0, 22) else later

    @property
    def buffer(self) -> str:
        """The format of a buf(): all hexadecimal, or the mixed one of old versions (printed.py)."""
        return "%rh" if self.version >= (0, 17) else "%r"

    @property
    def boot_time(self) -> bool:
        """Whether CLOCK_BOOTTIME is the only clock.

        Older versions have only CLOCK_MONOTONIC, newer ones have both.
        """
        return (0, 12) <= self.version < (0, 19)

    def environment(self, ring_bytes: int, processors: int) -> dict[str, str]:
        """Return the environment variables that set bpftrace's limits; 0.20 renamed some."""
        shared = self.version >= (0, 18)  # one ring buffer, instead of one for each CPU
        pages = ring_bytes // 4096 // (1 if shared else processors)
        limits = (
            # The limit includes a buf()'s length field of four bytes.
            {
                "BPFTRACE_MAX_STRLEN": str(self.piece_max + 8),
                "BPFTRACE_MAX_MAP_KEYS": str(MAP_KEYS_MAX),
            }
            if self.version >= (0, 20)
            else {
                "BPFTRACE_STRLEN": str(self.piece_max),
                "BPFTRACE_MAP_KEYS_MAX": str(MAP_KEYS_MAX),
            }
        )
        return {
            **limits,
            "BPFTRACE_PERF_RB_PAGES": str(1 << max(pages, 1).bit_length() - 1),
        }

    def words(self) -> dict[str, Any]:
        """Return the template's variables that depend on the version."""
        # From 0.22 on, numbers have sizes, and casts are cheap.
        sized = self.version >= (0, 22)
        return {
            "args": "args." if self.version >= (0, 19) else "args->",
            "now": "nsecs(monotonic)" if self.version >= (0, 19) else "nsecs",
            "two_argument_delete": self.version >= (0, 22),
            "scaled_pointers": self.version >= (0, 14),
            "u64": "(uint64)" if sized else "",
            "user": "uptr" if self.version >= (0, 12) else "",
            "user_bytes": "uptr((uint8*)$data)" if sized else "$data",
            "buffer": self.buffer,
            "piece_max": self.piece_max,
            "pieces_max": self.pieces_max,
            "segments_max": self.segments_max,
        }


def generate(
    hooks: Hooks,
    layout: Layout,
    settings: Settings,
    dialect: Dialect,
    *,
    own_pids: Sequence[int],
    machine: str,
) -> str:
    """Generate the bpftrace program.

    ``own_pids`` are the profiler's own processes, which are excluded. ``machine`` is the
    architecture as printed by ``uname -m``. Raises UnsupportedError if the version of
    bpftrace or the architecture is not supported.
    """
    if dialect.version < OLDEST:
        raise UnsupportedError(
            f"bpftrace {'.'.join(map(str, dialect.version))} is too old: "
            f"http-profiler needs {'.'.join(map(str, OLDEST))} or newer"
        )
    if machine not in NAMES:
        raise UnsupportedError(
            f"the bpftrace engine does not support {machine}: it runs on {', '.join(NAMES)}"
        )
    numbers = {name: number for number, name in NAMES[machine].items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(BPF_DIRECTORY),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    rows: dict[str, dict[str, Any]] = {}
    for hook in hooks.syscalls:
        # A call that moves data in both directions has a second row. It would exceed the
        # verifier's limit, so this engine does not see what splice sends.
        rows.setdefault(hook.name, _row(hook, numbers))
    places = {row[key] for row in rows.values() for key in ("descriptor", "pointer", "flags")}
    text = environment.get_template("probe.bt.j2").render(
        rows=list(rows.values()),
        arguments=sorted({0, 1} | places - {None}),
        counts_messages=any(hook.payload == "mmsghdr" for hook in hooks.syscalls),
        close_functions=[hook.name for hook in hooks.functions if hook.event == "close"],
        structures=[_structure(*each, layout) for each in _STRUCTURES.items()],
        fate=FATES,
        own_pids=own_pids,
        pids=settings.filters.pid,
        ports=[(port, socket.htons(port)) for port in settings.filters.port],
        swapped=SWAPPED,
        heartbeats=HEARTBEATS,
        leading_max=_LEADING_MAX,
        messages_max=_MESSAGES_MAX,
        not_stream=_NOT_STREAM,
        af_inet=int(socket.AF_INET),
        af_inet6=int(socket.AF_INET6),
        ipproto_tcp=socket.IPPROTO_TCP,
        s_ifsock=stat.S_IFSOCK,
        **dialect.words(),
    )
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def _structure(name: str, members: tuple[tuple[str, str, str | int], ...], layout: Layout) -> str:
    """Return the C definition of one structure, with padding between its members."""
    placed = []
    for member, type_, where in members:
        if isinstance(where, str):
            field, _, further = where.partition("+")
            where = layout.offsets[field] + int(further or 0)
        placed.append((where, member, type_))
    lines, end = [], 0
    for offset, member, type_ in sorted(placed):
        size = _SIZES.get(type_, 8)
        if offset % size:  # bpftrace's grammar has no packed structures
            raise UnsupportedError(
                f"the bpftrace engine cannot read {name}.{member} at its unaligned offset "
                f"{offset} in this kernel: use --engine bcc"
            )
        if offset > end:
            lines.append(f"  char before_{member}[{offset - end}];")
        lines.append(f"  {type_} {member};")
        end = offset + size
    return "\n".join([f"struct {name} {{", *lines, "};"])


def _row(hook: SyscallHook, numbers: dict[str, int]) -> dict[str, Any]:
    """Return the template's variables for one row."""
    if hook.name not in numbers:
        raise UnsupportedError(f"the bpftrace engine does not support the system call {hook.name}")
    return {
        "name": hook.name,
        "number": numbers[hook.name],
        "direction": hook.direction,
        "payload": hook.payload,
        "readable": hook.payload in ("flat", "iovec", "msghdr"),
        "walked": hook.payload in ("iovec", "msghdr"),
        "descriptor": hook.descriptor,
        "pointer": hook.pointer,
        "flags": hook.flags,
    }
