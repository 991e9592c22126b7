# SPDX-License-Identifier: Apache-2.0
"""The BPF ring buffer, read through its memory (Documentation/bpf/ringbuf.rst, Linux 5.8).

The kernel's part of the agreement: it writes a record's length last, and until
then the length says BUSY; the reader's position, which it sets when it is done,
shows what may be overwritten. Nothing is called for a record: what is there is
copied in a few steps.

The probe wakes the reader when a batch has come together (``output()`` in
``bpf/call.h``). Fewer records wait until the reader looks by itself, as long as
it was told to wait: waking it costs the process that was captured more than
capturing does, and a batch costs the reader little more than one record.
"""

from __future__ import annotations

import mmap
import select
import struct
import threading

PAGE = mmap.PAGESIZE
# A record's header: its length, and its page, of no interest here.
_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8

# Native ones: they are read and written at once, not byte by byte.
_LENGTH = struct.Struct("@I")
_POSITION = struct.Struct("@Q")


_BATCH = 64 * 1024


def batch_bytes(size: int) -> int:
    """Return how many bytes in a ring buffer of ``size`` wake its reader."""
    return min(_BATCH, size // 4)


class RingBuffer:
    """The reader of a map of type RINGBUF with ``size`` bytes."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._mask = size - 1
        # Is taken at once, so that what is taken is little beside the ring.
        self._most = size // 32
        self._batch = batch_bytes(size)
        self.found = 0
        """Bytes of records that were there when the ring was polled last."""
        self._consumer = mmap.mmap(descriptor, PAGE)
        # The data lies there twice, one after the other, so that no record is ever cut.
        self._producer = mmap.mmap(descriptor, PAGE + 2 * size, prot=mmap.PROT_READ, offset=PAGE)
        self._epoll = select.epoll()
        # At an edge: when the probe says so, not whenever there is a record.
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self._barrier = threading.Lock()

    def close(self) -> None:
        """Give the memory back."""
        self._epoll.close()
        self._consumer.close()
        self._producer.close()

    def poll(self, milliseconds: int) -> list[bytes]:
        """Wait until there is a batch, at most so long, and return the records that are there."""
        if milliseconds and self._waiting() < self._batch:
            self._epoll.poll(milliseconds / 1000)
        self.found = self._waiting()
        return self._take()

    def _waiting(self) -> int:
        (position,) = _POSITION.unpack_from(self._consumer)
        (end,) = _POSITION.unpack_from(self._producer)
        return int(end - position)

    def _take(self) -> list[bytes]:
        records = []
        memory = self._producer
        (position,) = _POSITION.unpack_from(self._consumer)
        (end,) = _POSITION.unpack_from(memory)
        end = min(end, position + self._most)
        while position < end:
            at = PAGE + (position & self._mask)
            (length,) = _LENGTH.unpack_from(memory, at)
            if length & _BUSY:
                break
            # Where a processor may read out of order, not before it has seen the length.
            with self._barrier:
                size = length & ~_DISCARDED
            start = at + _HEADER
            if not length & _DISCARDED:
                records.append(memory[start : start + size])
            position += (_HEADER + size + 7) & ~7
        _POSITION.pack_into(self._consumer, 0, position)
        return records
