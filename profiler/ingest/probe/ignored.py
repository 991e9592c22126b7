# SPDX-License-Identifier: Apache-2.0
"""Writes which connections the probe ignores, because they proved not to be HTTP.

The entry of a connection is its inode, at the index given by the inode's low bits
(``bpf/connection.h``). The memory of the map is mapped here, and an entry is written in one store.
So the probe sees either the old entry or the new one, and no system call is needed. Kernels before
5.5 cannot map it. There, bpf(2) writes the entry, which needs privileges.
"""

from __future__ import annotations

import mmap
import struct

from profiler.ingest.probe.kernel import words
from profiler.ingest.probe.maps import Map

_INODE = struct.Struct("=Q")
_PLACE = struct.Struct("=I")


class IgnoredConnections:
    """The probe's map of ignored connections; its number of entries is a power of two."""

    def __init__(self, target: Map) -> None:
        self._map = target
        self._entries = target.shape.entries
        self._memory: mmap.mmap | None = None
        if target.is_mapped:
            size = self._entries * _INODE.size
            pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
            self._memory = mmap.mmap(target.descriptor, pages * mmap.PAGESIZE)
            self._inodes = words(self._memory)

    @property
    def needs_privileges(self) -> bool:
        """Whether :meth:`add` calls bpf(2)."""
        return self._memory is None

    def add(self, socket: int) -> None:
        """Ignore the connection with this inode, until its socket is closed."""
        place = socket % self._entries
        if self._memory is None:
            self._map.write(_PLACE.pack(place), _INODE.pack(socket))
        else:
            self._inodes[place] = socket

    def close(self) -> None:
        """Free the memory."""
        if self._memory is not None:
            self._inodes.release()
            self._memory.close()
