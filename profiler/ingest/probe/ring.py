# SPDX-License-Identifier: Apache-2.0
"""Reads the BPF ring buffer through mapped memory (Documentation/bpf/ringbuf.rst, Linux 5.8).

The kernel writes a record's length last, and the length has the BUSY bit until then. The
reader advances its position when it is done, and the kernel may overwrite everything
before it. No function is called for a record: all available records are copied in one loop.

The probe wakes the reader once a batch is complete (``output()`` in ``bpf/call.h``). Fewer
records wait until the reader's poll times out. A wakeup costs the captured process more
than the capture itself, and a batch costs the reader little more than one record.
"""

from __future__ import annotations

import mmap
import select
import struct
import threading

from profiler.ingest.probe.kernel import words

PAGE = mmap.PAGESIZE
# A record's header: its length, and a page offset that is not used here.
_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8

# Native mode reads a whole integer in one access, not byte by byte.
_LENGTH = struct.Struct("@I")
_POSITION = struct.Struct("@Q")


_BATCH = 64 * 1024


def batch_bytes(size: int) -> int:
    """Return the bytes of records that wake the reader of a ring buffer of ``size`` bytes."""
    return min(_BATCH, size // 4)


class RingBuffer:
    """Reads a map of type RINGBUF with ``size`` bytes."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._mask = size - 1
        # The most that is read at once: little, compared with the ring.
        self._most = size // 32
        self._batch = batch_bytes(size)
        self.found = 0
        """Bytes of records in the ring at the last poll."""
        self._consumer = mmap.mmap(descriptor, PAGE)
        self._positions = words(self._consumer)
        # The data is mapped twice in a row, so that no record wraps around.
        self._producer = mmap.mmap(descriptor, PAGE + 2 * size, prot=mmap.PROT_READ, offset=PAGE)
        self._epoll = select.epoll()
        # Edge-triggered: wake when the probe notifies, not whenever a record is available.
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self._barrier = threading.Lock()

    def close(self) -> None:
        """Free the memory."""
        self._epoll.close()
        self._positions.release()
        self._consumer.close()
        self._producer.close()

    def poll(self, milliseconds: int) -> list[bytes]:
        """Wait at most ``milliseconds`` for a batch; return the available records."""
        if milliseconds and self._waiting() < self._batch:
            self._epoll.poll(milliseconds / 1000)
        self.found = self._waiting()
        return self._take()

    def _waiting(self) -> int:
        position = self._positions[0]
        (end,) = _POSITION.unpack_from(self._producer)
        return int(end - position)

    def _take(self) -> list[bytes]:
        records = []
        memory = self._producer
        position = self._positions[0]
        (end,) = _POSITION.unpack_from(memory)
        end = min(end, position + self._most)
        while position < end:
            at = PAGE + (position & self._mask)
            (length,) = _LENGTH.unpack_from(memory, at)
            if length & _BUSY:
                break
            # A read barrier: on some CPUs, the record could otherwise be read before its length.
            with self._barrier:
                size = length & ~_DISCARDED
            start = at + _HEADER
            if not length & _DISCARDED:
                records.append(memory[start : start + size])
            position += (_HEADER + size + 7) & ~7
        self._positions[0] = position
        return records
