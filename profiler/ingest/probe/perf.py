# SPDX-License-Identifier: Apache-2.0
"""Reads the perf buffer, for kernels without a BPF ring buffer (before Linux 5.8).

Each CPU has its own part: a page with two positions, followed by a ring of pages
(``struct perf_event_mmap_page``, perf_event_open(2)).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import struct
import threading

from profiler.errors import ProbeError
from profiler.ingest.probe.kernel import (
    PERF_EVENT_IOC_ENABLE,
    cpus,
    ioctl,
    perf_event,
    why,
    words,
)
from profiler.ingest.probe.maps import Map

PAGE = mmap.PAGESIZE

# include/uapi/linux/perf_event.h
_TYPE_SOFTWARE = 1
_COUNT_SW_BPF_OUTPUT = 10
_SAMPLE_RAW = 1 << 10
_RECORD_SAMPLE = 9
_DATA_HEAD, _DATA_TAIL = 1024, 1032  # offsets in the first page

# Native mode reads and writes all eight bytes in one access, not byte by byte.
_POSITION = struct.Struct("@Q")
# struct perf_event_header, and the size that precedes a raw sample.
_HEADER = struct.Struct("=IHH")
_SIZE = struct.Struct("=I")


class PerfBuffer:
    """Reads the parts of all CPUs; each has ``size`` bytes, a power of two.

    ``table`` is the map of type PERF_EVENT_ARRAY. Raises ProbeError if the kernel
    refuses a part.
    """

    def __init__(self, table: Map, size: int) -> None:
        self._descriptors: list[int] = []
        self._parts: list[Part] = []
        self._epoll = select.epoll()
        for cpu in cpus("online"):
            descriptor = perf_event(
                _TYPE_SOFTWARE,
                _COUNT_SW_BPF_OUTPUT,
                cpu=cpu,
                sample_type=_SAMPLE_RAW,
                wakeup_events=1,
            )
            if descriptor < 0:
                number = ctypes.get_errno()
                self.close()
                raise ProbeError(f"cannot open the perf buffer of CPU {cpu}: {why(number)}")
            self._descriptors.append(descriptor)
            self._parts.append(Part(mmap.mmap(descriptor, PAGE + size)))
            table.write(struct.pack("=I", cpu), struct.pack("=i", descriptor))
            ioctl(descriptor, PERF_EVENT_IOC_ENABLE, 0)
            self._epoll.register(descriptor, select.EPOLLIN)

    def close(self) -> None:
        """Free the memory."""
        self._epoll.close()
        for part in self._parts:
            part.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    def poll(self, milliseconds: int) -> list[bytes]:
        """Wait at most ``milliseconds`` for records; return them, ordered by CPU.

        They are padded: a record's header contains its true size.
        """
        if milliseconds:
            self._epoll.poll(milliseconds / 1000)
        return [record for part in self._parts for record in part.take()]


class Part:
    """One CPU's ring, in the memory after the page with its positions."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self._words = words(memory)
        self._size = len(memory) - PAGE
        self._barrier = threading.Lock()

    def close(self) -> None:
        """Free the memory."""
        self._words.release()
        self.memory.close()

    def take(self) -> list[bytes]:
        """Return the available records, and free their space in the ring."""
        records = []
        memory = self.memory
        (head,) = _POSITION.unpack_from(memory, _DATA_HEAD)
        tail = self._words[_DATA_TAIL // _POSITION.size]
        # A read barrier: on some CPUs, a record could otherwise be read before the head.
        with self._barrier:
            size = self._size
        while tail < head:
            # A header never wraps around: positions and sizes are multiples of its size.
            kind, _, length = _HEADER.unpack_from(memory, PAGE + tail % size)
            if kind == _RECORD_SAMPLE:
                sample = self._copy(tail + _HEADER.size, length - _HEADER.size)
                (raw_size,) = _SIZE.unpack_from(sample)
                records.append(sample[_SIZE.size : _SIZE.size + raw_size])
            tail += length
        self._words[_DATA_TAIL // _POSITION.size] = tail
        return records

    def _copy(self, position: int, length: int) -> bytes:
        start = position % self._size
        first = self.memory[PAGE + start : PAGE + min(start + length, self._size)]
        return first + self.memory[PAGE : PAGE + length - len(first)]
