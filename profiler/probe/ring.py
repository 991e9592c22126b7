"""The BPF ring buffer, read through its memory (Documentation/bpf/ringbuf.rst, Linux 5.8).

The kernel's part of the agreement: it writes a record's length last, and until
then the length says BUSY; the reader's position, which it sets when it is done,
tells what may be written over. Nothing is called for a record: what is there is
copied in a few steps.
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


class RingBuffer:
    """The reader of a map of type RINGBUF with ``size`` bytes."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._mask = size - 1
        self._most = size // 8  # is taken at once, so that there is room again soon
        self._consumer = mmap.mmap(descriptor, PAGE)
        # The data lies there twice, one after the other, so that no record is ever cut.
        self._producer = mmap.mmap(descriptor, PAGE + 2 * size, prot=mmap.PROT_READ, offset=PAGE)
        self._epoll = select.epoll()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._barrier = threading.Lock()

    def close(self) -> None:
        """Give the memory back."""
        self._epoll.close()
        self._consumer.close()
        self._producer.close()

    def poll(self, milliseconds: int) -> list[bytes]:
        """Wait until there are records, at most so long, and return them."""
        records = self._take()
        if not records and milliseconds:
            self._epoll.poll(milliseconds / 1000)
            records = self._take()
        return records

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
