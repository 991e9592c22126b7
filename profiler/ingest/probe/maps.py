# SPDX-License-Identifier: Apache-2.0
"""Creates and reads the probe's maps through bpf(2).

The C code numbers its maps in the order of :data:`MAPS`. A function that returns a
constant describes each map (``DEFINE_MAP`` in ``bpf/helpers.h``), so that the maps' sizes
are defined only in C.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

from profiler.errors import ProbeError
from profiler.ingest.probe.kernel import INSTRUCTION, LOAD_CONSTANT, bpf, cpus, why

MAPS = (
    *("events", "account", "workspaces"),
    *("connections", "elsewhere", "searches", "ignored", "processes", "inflight", "cgroups"),
)
SYSCALL_ROUTE_MAPS = (*MAPS, "pending")
TLS_MAPS = (
    *("tls_claims", "tls_account", "tls_threads", "tls_processes", "tls_streams", "tls_records"),
    *("tls_sockets", "tls_reported", "tls_blank"),
)

# include/uapi/linux/bpf.h
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE = range(4)
_BTF_LOAD = 18
ARRAY = 2
PERF_EVENT_ARRAY = 4
RINGBUF = 27
TASK_STORAGE = 29
_PERCPU = (5, 6, 10)
# union bpf_attr for BPF_MAP_CREATE: up to btf_value_type_id.
_CREATE = struct.Struct("=IIIIIII16sIIII")
_NO_PREALLOC = 1
# Both sides map the memory of such an array (Linux 5.5).
_MMAPABLE = 1 << 10
MAPPED = frozenset({"ignored"})
# union bpf_attr for BPF_BTF_LOAD: the address of the types, of a log buffer, and the size.
_LOAD_TYPES = struct.Struct("=QQI")
_ELEMENT = struct.Struct("=IxxxxQQQ")


class Shape(NamedTuple):
    """A map's type (``enum bpf_map_type``), sizes in bytes, and number of entries."""

    type: int
    key: int
    value: int
    entries: int


def described(code: bytes) -> Shape:
    """Decode a map's shape from the instructions of its ``describe_`` function."""
    opcode, _, _, low = INSTRUCTION.unpack_from(code)
    _, _, _, high = INSTRUCTION.unpack_from(code, INSTRUCTION.size)
    if opcode != LOAD_CONSTANT:
        raise ProbeError("BCC's compiler returns a map's description in an unexpected form")
    low, high = low & 0xFFFFFFFF, high & 0xFFFFFFFF
    return Shape(high >> 24, high >> 16 & 0xFF, (high & 0xFFFF) << 8 | low >> 24, low & 0xFFFFFF)


# struct btf_header, and struct btf_type: name, kind and number of members, size
# (include/uapi/linux/btf.h).
_BTF_HEADER = struct.Struct("=HBBIIIII")
_BTF_MAGIC = 0xEB9F
_BTF_TYPE = struct.Struct("=III")
_BTF_INT, _BTF_STRUCT = 1 << 24, 4 << 24
_KEY_TYPE, _VALUE_TYPE = 1, 2


def _load_types(size: int) -> int:
    """Load the BTF that the kernel requires for task storage; return its descriptor.

    The key is an int. The value is a structure of ``size`` bytes without members.
    """
    strings = b"\0int\0"
    types = _BTF_TYPE.pack(1, _BTF_INT, 4) + struct.pack("=I", 1 << 24 | 32)  # signed, 32 bits
    types += _BTF_TYPE.pack(0, _BTF_STRUCT, size)
    header = _BTF_HEADER.pack(
        *(_BTF_MAGIC, 1, 0, _BTF_HEADER.size, 0, len(types), len(types), len(strings))
    )
    blob = header + types + strings
    buffer = ctypes.create_string_buffer(blob, len(blob))
    descriptor = bpf(_BTF_LOAD, _LOAD_TYPES.pack(ctypes.addressof(buffer), 0, len(blob)))
    if descriptor < 0:
        raise ProbeError(f"cannot load the types of a map: {why(ctypes.get_errno())}")
    return descriptor


class Map:
    """A map in the kernel, until it is closed. Raises ProbeError if the kernel refuses it."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.shape = shape
        is_storage = shape.type == TASK_STORAGE
        types = _load_types(shape.value) if is_storage else 0
        about_types = (types, _KEY_TYPE, _VALUE_TYPE) if is_storage else (0, 0, 0)
        # An older kernel refuses the flag; then is_mapped is false.
        for flags in (_MMAPABLE, 0) if name in MAPPED else (_NO_PREALLOC if is_storage else 0,):
            attributes = *shape, flags, 0, 0, name[:15].encode(), 0, *about_types
            self.descriptor = bpf(_MAP_CREATE, _CREATE.pack(*attributes))
            self.is_mapped = bool(flags & _MMAPABLE)
            """Whether mmap(2) works on the descriptor."""
            if self.descriptor >= 0:
                break
        if is_storage:
            os.close(types)
        if self.descriptor < 0:
            raise ProbeError(f"cannot create the map {name}: {why(ctypes.get_errno())}")
        size = shape.value or 1
        if shape.type in _PERCPU:
            # One value for each possible CPU, padded to a multiple of eight bytes.
            size = (size + 7) // 8 * 8 * len(cpus("possible"))
        self._value = ctypes.create_string_buffer(size)

    def close(self) -> None:
        """Close the descriptor; the kernel keeps the map while a program uses it."""
        os.close(self.descriptor)

    def read(self, key: bytes) -> bytes | None:
        """Return the value at ``key``, or ``None``; for a per-CPU map, all CPUs' values."""
        return self._value.raw if self._call(_LOOKUP, key) == 0 else None

    def write(self, key: bytes, value: bytes) -> None:
        """Set the value at ``key``. Raises ProbeError if the kernel refuses it."""
        self._value.raw = value
        if self._call(_UPDATE, key) < 0:
            raise ProbeError(f"cannot write to a map: {why(ctypes.get_errno())}")

    def delete(self, key: bytes) -> None:
        """Delete the entry at ``key``, if there is one."""
        self._call(_DELETE, key)

    def _call(self, command: int, key: bytes, flags: int = 0) -> int:
        buffer = ctypes.create_string_buffer(key, len(key))
        value = ctypes.addressof(self._value)
        return bpf(command, _ELEMENT.pack(self.descriptor, ctypes.addressof(buffer), value, flags))
