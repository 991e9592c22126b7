# SPDX-License-Identifier: Apache-2.0
"""Reads the offsets of the fields that the probe uses from the running kernel's BTF.

BTF (``/sys/kernel/btf/vmlinux``, Linux 5.4 with CONFIG_DEBUG_INFO_BTF) describes every
structure, function and enumeration of the running kernel. BCC depends on libbpf, which
parses BTF in a tenth of a second. So the probe needs neither kernel headers nor a BTF
parser of its own.

:data:`FIELDS` lists the fields that the probe needs. If this kernel has none of a field's
paths, an error names them.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from profiler.errors import UnsupportedError
from profiler.ingest.probe.kernel import is_compiling, is_preemptible

VMLINUX = Path("/sys/kernel/btf/vmlinux")

# Macro name -> paths to try in turn: structure, then members, through any
# anonymous structure or union on the way. The macro is OFFSET_<name>.
FIELDS: dict[str, tuple[str, ...]] = {
    path.replace(".", "_"): (path,)
    for path in (
        "task_struct.flags",
        "task_struct.pid",
        "task_struct.tgid",
        "task_struct.group_leader",
        "task_struct.start_time",
        "task_struct.self_exec_id",
        "task_struct.mm",
        "mm_struct.arg_start",
        "mm_struct.arg_end",
        "task_struct.stack",
        "task_struct.files",
        "task_struct.comm",
        "files_struct.fdt",
        "fdtable.max_fds",
        "fdtable.fd",
        "file.f_inode",
        "file.private_data",
        "inode.i_mode",
        "inode.i_ino",
        "socket.sk",
        "socket.file",
        "socket_alloc.vfs_inode",
        "sock.sk_socket",
        "sock.sk_type",
        "sock.sk_protocol",
        "sock.sk_shutdown",
        "sock.__sk_common.skc_family",
        "sock.__sk_common.skc_state",
        "sock.__sk_common.skc_num",
        "sock.__sk_common.skc_dport",
        "sock.__sk_common.skc_rcv_saddr",
        "sock.__sk_common.skc_daddr",
        "sock.__sk_common.skc_v6_rcv_saddr",
        "sock.__sk_common.skc_v6_daddr",
        "sock.__sk_common.skc_net",
        "net.ns.inum",
        "inet_sock.inet_sport",
        "inet_connection_sock.icsk_ulp_ops",
        "tcp_sock.bytes_received",
        "tcp_sock.bytes_acked",
        "tcp_sock.rcv_nxt",
        "tcp_sock.copied_seq",
        "tcp_sock.write_seq",
        "tcp_sock.snd_una",
        "msghdr.msg_flags",
        "msghdr.msg_name",
        "unix_sock.addr",
        "unix_sock.peer",
        "unix_address.len",
        "unix_address.name",
    )
}
FIELDS.update(
    {
        # `type` before 5.14, with the direction in its lowest bit
        "msghdr_iter_type": ("msghdr.msg_iter.iter_type", "msghdr.msg_iter.type"),
        "msghdr_iter_offset": ("msghdr.msg_iter.iov_offset",),
        # `iov` before 6.4
        "msghdr_iter_iov": ("msghdr.msg_iter.__iov", "msghdr.msg_iter.iov"),
        # x86, arm64
        "pt_regs_syscall": ("pt_regs.orig_ax", "pt_regs.syscallno"),
        "pt_regs_argument0": ("pt_regs.di", "pt_regs.regs"),
        "pt_regs_argument1": ("pt_regs.si", "pt_regs.regs+8"),
        # of a system call: a function's fourth argument is in another register on x86
        "pt_regs_argument2": ("pt_regs.dx", "pt_regs.regs+16"),
        "pt_regs_argument3": ("pt_regs.r10", "pt_regs.regs+24"),
        # x86: TS_COMPAT; arm64: TIF_32BIT
        "thread_info_width": ("task_struct.thread_info.status", "task_struct.thread_info.flags"),
        # `real_start_time` before 5.5
        "task_struct_start_boottime": (
            "task_struct.start_boottime",
            "task_struct.real_start_time",
        ),
    }
)
OPTIONAL_FIELDS: dict[str, tuple[str, ...]] = {
    # added in 6.0
    "msghdr_iter_ubuf": ("msghdr.msg_iter.ubuf",),
    # x86, arm64: the registers of a user program's function (see pt_regs_argument0 for the first)
    "pt_regs_parameter3": ("pt_regs.cx", "pt_regs.regs+24"),
    "pt_regs_parameter4": ("pt_regs.r8", "pt_regs.regs+32"),
    "pt_regs_result": ("pt_regs.ax", "pt_regs.regs"),
    "pt_regs_stack": ("pt_regs.sp",),
    # Go passes parameters in registers of its own on x86; these are the first two, and the
    # goroutine (ABIInternal of the Go compiler, since Go 1.17; arm64: 1.18).
    "pt_regs_go0": ("pt_regs.ax", "pt_regs.regs"),
    "pt_regs_go1": ("pt_regs.bx", "pt_regs.regs+8"),
    "pt_regs_goroutine": ("pt_regs.r14", "pt_regs.regs+224"),
    # Since 6.13, programs at a system call's tracepoint can be preempted.
    "tracepoint_faultable": ("tracepoint_ext.faultable",),
}

ENUMERATORS = {"ITER_IOVEC": "iter_type", "ITER_UBUF": "iter_type"}
HELPERS = (
    "get_current_task_btf",
    "task_pt_regs",
    "skc_to_tcp_sock",
    "ktime_get_boot_ns",
    "task_storage_get",
    "ringbuf_output",
    # not called: they identify kernels that have an atomic fetch-and-add
    "check_mtu",
    "copy_from_user_task",
)

# Tracepoints to which programs are attached by BTF (Linux 5.5).
TRACEPOINTS = ("sys_enter", "sys_exit")

# Structures to which the program casts an address. The kernel function that casts (6.2) can
# only be called by JIT-compiled programs.
CASTS = ("file", "socket", "tcp_sock", "iovec")
_CAST = "bpf_rdonly_cast"

# Kinds of BTF types (include/uapi/linux/btf.h).
_STRUCT, _UNION, _ENUM, _TYPEDEF, _VOLATILE, _CONST = 4, 5, 6, 8, 9, 10
_RESTRICT, _FUNC, _FUNC_PROTO = 11, 12, 13


@dataclass(frozen=True)
class Layout:
    """What the generator needs to know about one kernel: only numbers and names."""

    offsets: dict[str, int]
    """Macro name (``sock_sk_socket``) -> bytes from the structure's start."""

    enumerators: dict[str, int]
    helpers: dict[str, int]
    """BPF helper name without ``BPF_FUNC_`` -> number, for the helpers that the kernel has."""

    pt_regs_size: int
    iter_type_has_direction: bool
    iter_pointer_is_typed: bool = True
    """Whether a pointer loaded from an iterator has a type (before 6.4)."""

    parameters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Kernel function -> names of its parameters, in order."""

    functions: dict[str, int] = field(default_factory=dict)
    """Kernel function -> its BTF id, by which a program is attached to it."""

    tracepoints: dict[str, int] = field(default_factory=dict)
    """Tracepoint -> its BTF id, by which a program is attached to it."""

    casts: dict[str, int] = field(default_factory=dict)
    """Structure -> its BTF id; empty if the kernel has no function that casts."""

    cast_function: int = 0
    """The BTF id of the kernel function that casts, for calling it; 0 if there is none."""

    preemptible: bool = False
    """Whether a task can be preempted while a program runs in its context."""


class Btf:
    """The types of a kernel, by name. Raises UnsupportedError if they cannot be read."""

    def __init__(self, path: Path = VMLINUX) -> None:
        if not path.exists():
            raise UnsupportedError(
                f"this kernel ({os.uname().release}) does not describe its own types: {path} is "
                "missing; it needs CONFIG_DEBUG_INFO_BTF",
                since=(5, 4),
            )
        self._library = load_libbpf()
        self._btf = self._library.btf__parse(os.fsencode(path), None)
        # libbpf before 1.0 returns a negative errno as a pointer.
        if not self._btf or self._btf > 2**64 - 4096:
            raise UnsupportedError(f"libbpf cannot read the kernel's types in {path}")
        # A cache, because each lookup in libbpf is a linear search through all types.
        self._found: dict[tuple[str, int], int | None] = {}

    def close(self) -> None:
        """Free the memory; the object cannot be used afterwards."""
        self._library.btf__free(self._btf)
        self._btf = None

    def offset(self, path: str) -> int | None:
        """Return the offset of a member such as ``"sock.__sk_common.skc_num"``, in bytes.

        ``"pt_regs.regs+8"`` is 8 bytes after the member's start. ``None`` if it does not exist.
        """
        path, _, added = path.partition("+")
        name, *members = path.split(".")
        type_id = self._find(name, _STRUCT)
        total = int(added or 0)
        for member in members:
            found = self._member(type_id, member) if type_id is not None else None
            if found is None:
                return None
            offset, type_id = found
            total += offset
        return total

    def size(self, name: str) -> int | None:
        """Return the size of a structure in bytes; ``None`` if it does not exist."""
        type_id = self._find(name, _STRUCT)
        return None if type_id is None else self._header(type_id)[2]

    def parameters(self, function: str) -> tuple[str, ...] | None:
        """Return the parameters' names of a kernel function; ``None`` if it does not exist."""
        type_id = self._find(function, _FUNC)
        if type_id is None:
            return None
        prototype = self._header(type_id)[2]
        return tuple(self._name(entry[0]) for entry in self._entries(prototype, "=II"))

    def function(self, name: str) -> int | None:
        """Return the id with which a program is attached to a kernel function, or calls it."""
        return self._find(name, _FUNC)

    def tracepoint(self, name: str) -> int | None:
        """Return the id with which a program is attached to a tracepoint."""
        return self._find(f"btf_trace_{name}", _TYPEDEF)

    def structure(self, name: str) -> int | None:
        """Return the id of a structure."""
        return self._find(name, _STRUCT)

    def enumerator(self, enumeration: str, name: str) -> int | None:
        """Return the value of an enumerator; ``None`` if it does not exist."""
        type_id = self._find(enumeration, _ENUM)
        if type_id is None:
            return None
        for name_offset, value in self._entries(type_id, "=Ii"):
            if self._name(name_offset) == name:
                return int(value)
        return None

    def _find(self, name: str, kind: int) -> int | None:
        key = name, kind
        if key not in self._found:
            type_id = self._library.btf__find_by_name_kind(self._btf, name.encode(), kind)
            self._found[key] = type_id if type_id > 0 else None
        return self._found[key]

    def _header(self, type_id: int) -> tuple[int, int, int]:
        """Return ``struct btf_type``: name offset, info, and size or type."""
        address = self._library.btf__type_by_id(self._btf, type_id)
        name, info, size_or_type = struct.unpack("=III", ctypes.string_at(address, 12))
        return name, info, size_or_type

    def _entries(self, type_id: int, layout: str) -> list[tuple[int, ...]]:
        """Return what follows a ``struct btf_type``: members, enumerators or parameters."""
        address = self._library.btf__type_by_id(self._btf, type_id)
        count = self._header(type_id)[1] & 0xFFFF
        raw = ctypes.string_at(address + 12, count * struct.calcsize(layout))
        return list(struct.iter_unpack(layout, raw))

    def _name(self, offset: int) -> str:
        name: bytes = self._library.btf__name_by_offset(self._btf, offset) or b""
        return name.decode()

    def _member(self, type_id: int, name: str) -> tuple[int, int] | None:
        """Return a member's offset in bytes and its type; search anonymous members too."""
        type_id = self._strip(type_id)
        info = self._header(type_id)[1]
        if (info >> 24) & 0x1F not in (_STRUCT, _UNION):
            return None
        has_bitfields = info >> 31
        for name_offset, member_type, position in self._entries(type_id, "=III"):
            bits = position & 0xFFFFFF if has_bitfields else position
            member_name = self._name(name_offset)
            if member_name == name:
                return bits // 8, member_type
            if not member_name:
                inner = self._member(member_type, name)
                if inner is not None:
                    return bits // 8 + inner[0], inner[1]
        return None

    def _strip(self, type_id: int) -> int:
        """Return the type without typedefs and qualifiers."""
        while True:
            _, info, size_or_type = self._header(type_id)
            if (info >> 24) & 0x1F not in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT):
                return type_id
            type_id = size_or_type


def load_libbpf() -> ctypes.CDLL:
    """Load libbpf and declare the functions used here. Raises UnsupportedError."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.btf__parse.restype = ctypes.c_uint64
        library.btf__parse.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        library.btf__find_by_name_kind.argtypes = [
            ctypes.c_uint64,
            ctypes.c_char_p,
            ctypes.c_uint32,
        ]
        library.btf__type_by_id.restype = ctypes.c_uint64
        library.btf__type_by_id.argtypes = [ctypes.c_uint64, ctypes.c_uint32]
        library.btf__name_by_offset.restype = ctypes.c_char_p
        library.btf__name_by_offset.argtypes = [ctypes.c_uint64, ctypes.c_uint32]
        library.btf__free.argtypes = [ctypes.c_uint64]
        return library
    raise UnsupportedError(
        "libbpf is not installed: install your distribution's BCC package "
        "(python3-bpfcc on Debian and Ubuntu), which depends on it"
    )


def read_layout(functions: Collection[str] = (), path: Path = VMLINUX) -> Layout:
    """Read the layout of the running kernel, including ``functions`` by name.

    :attr:`Layout.parameters` omits functions that the kernel lacks. Raises
    UnsupportedError if there is no BTF or it lacks a field.
    """
    btf = Btf(path)
    try:
        offsets = {}
        for name, paths in {**FIELDS, **OPTIONAL_FIELDS}.items():
            found = next((o for o in map(btf.offset, paths) if o is not None), None)
            if found is not None:
                offsets[name] = found
            elif name in FIELDS:
                raise UnsupportedError(
                    f"this kernel ({os.uname().release}) has no {' or '.join(paths)}: "
                    "this version of http-profiler does not support it"
                )
        enumerators = {name: btf.enumerator(enum, name) for name, enum in ENUMERATORS.items()}
        helpers = {name: btf.enumerator("bpf_func_id", f"BPF_FUNC_{name}") for name in HELPERS}
        parameters = {name: btf.parameters(name) for name in functions}
        ids = {name: btf.function(name) for name in functions}
        tracepoints = {name: btf.tracepoint(name) for name in TRACEPOINTS}
        cast_function = btf.function(_CAST) if is_compiling() else None
        casts = {name: btf.structure(name) for name in CASTS if cast_function}
        return Layout(
            offsets=offsets,
            enumerators={k: v for k, v in enumerators.items() if v is not None},
            helpers={k: v for k, v in helpers.items() if v is not None},
            pt_regs_size=btf.size("pt_regs") or 0,
            iter_type_has_direction=btf.offset("msghdr.msg_iter.iter_type") is None,
            iter_pointer_is_typed=btf.offset("msghdr.msg_iter.__iov") is None,
            parameters={k: v for k, v in parameters.items() if v is not None},
            functions={k: v for k, v in ids.items() if v is not None},
            tracepoints={k: v for k, v in tracepoints.items() if v is not None},
            casts={k: v for k, v in casts.items() if v is not None},
            cast_function=cast_function or 0,
            preemptible=is_preemptible(),
        )
    finally:
        btf.close()
