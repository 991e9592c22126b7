# SPDX-License-Identifier: Apache-2.0
"""The smallest io_uring: one request at a time, through the raw system calls.

Layouts are those of ``include/uapi/linux/io_uring.h`` (Linux 5.1; the four
operations here are of 5.6). The numbers of the two system calls are the same on
every architecture. Without a polling thread in the kernel the call itself orders
memory, so no barriers are needed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from types import TracebackType
from typing import Any

from profiler.commands.doctor.linux import syscall

READ, WRITE, SEND, RECV = 22, 23, 26, 27

_SETUP, _ENTER = 425, 426
_GETEVENTS = 1
_OFFSET_SQ, _OFFSET_CQ, _OFFSET_SQES = 0, 0x8000000, 0x10000000
_SQE_SIZE, _CQE_SIZE = 64, 16

# struct io_uring_params: 10 words, then offsets of the members of either ring
_PARAMS = struct.Struct("=10I 8IQ 8IQ")


class Ring:
    """A ring of one entry; a context manager. Raises OSError if the kernel has none."""

    def __init__(self) -> None:
        params = ctypes.create_string_buffer(_PARAMS.size)
        self._fd = syscall("io_uring_setup", _SETUP, ctypes.c_uint(1), params)
        words = _PARAMS.unpack(params.raw)
        sq_entries, cq_entries = words[0:2]
        self._sq_head, self._sq_tail, self._sq_mask = words[10:13]
        self._sq_array = words[16]
        self._cq_head, self._cq_tail, self._cq_mask = words[19:22]
        self._cqes = words[24]
        try:
            self._sq = self._map(_OFFSET_SQ, self._sq_array + 4 * sq_entries)
            self._cq = self._map(_OFFSET_CQ, self._cqes + _CQE_SIZE * cq_entries)
            self._sqes = self._map(_OFFSET_SQES, _SQE_SIZE * sq_entries)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def send(self, operation: int, fd: int, data: bytes) -> int:
        """SEND or WRITE; return the number of bytes sent."""
        buffer = ctypes.create_string_buffer(data, len(data))
        self.submit(operation, fd, buffer)
        return self.wait()

    def submit(self, operation: int, fd: int, buffer: Any) -> None:
        """Submit a request; ``buffer`` must live until :meth:`wait` returns."""
        tail = self._word(self._sq, self._sq_tail)
        slot = tail & self._word(self._sq, self._sq_mask)
        address = ctypes.addressof(buffer)
        # opcode, flags, ioprio, fd, offset, address, length, the operation's flags
        request = struct.pack("=BBHiQQII", operation, 0, 0, fd, 0, address, len(buffer), 0)
        self._sqes[slot * _SQE_SIZE : (slot + 1) * _SQE_SIZE] = request.ljust(_SQE_SIZE, b"\0")
        struct.pack_into("=I", self._sq, self._sq_array + 4 * slot, slot)
        struct.pack_into("=I", self._sq, self._sq_tail, tail + 1)
        self._enter(submit=1, wait=0)

    def wait(self) -> int:
        """Wait for the request that was submitted; return its result, raise its error."""
        head = self._word(self._cq, self._cq_head)
        while head == self._word(self._cq, self._cq_tail):
            self._enter(submit=0, wait=1)
        slot = head & self._word(self._cq, self._cq_mask)
        _, result, _ = struct.unpack_from("=QiI", self._cq, self._cqes + slot * _CQE_SIZE)
        struct.pack_into("=I", self._cq, self._cq_head, head + 1)
        if result < 0:
            raise OSError(-result, f"io_uring: {os.strerror(-result)}")
        return int(result)

    def _enter(self, submit: int, wait: int) -> None:
        flags = _GETEVENTS if wait else 0
        numbers = [ctypes.c_uint(value) for value in (self._fd, submit, wait, flags)]
        syscall("io_uring_enter", _ENTER, *numbers, None, ctypes.c_size_t(0))

    def _map(self, offset: int, size: int) -> mmap.mmap:
        return mmap.mmap(self._fd, size, mmap.MAP_SHARED, offset=offset)

    @staticmethod
    def _word(area: mmap.mmap, offset: int) -> int:
        return int(struct.unpack_from("=I", area, offset)[0])
