"""One record of the wire, as bytes and as a value.

The *wire* is the sequence of records that leaves the kernel, to which user
space adds three kinds of its own (:class:`Clock`, :class:`Process`,
:class:`Counters`) so that the sequence explains itself: a recorded capture is
exactly these bytes, and replaying them needs neither the machine's clock nor
its ``/proc``.

The layout of :class:`Chunk` and :class:`End` is ``struct event`` in
``bpf/event.h``. All integers are in host byte order.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Union

from profiler.errors import CaptureFileError

CHUNK, END, CLOCK, PROCESS, COUNTERS = 1, 2, 3, 4, 5

SEND, RECV = 0, 1

AF_INET, AF_INET6 = 2, 10

FLAG_JOINED = 1
FLAG_AFTER_LOSS = 2
FLAG_UNREADABLE = 4
FLAG_LIMIT = 8
FLAG_CONTINUED = 16

EVENT = struct.Struct("=BBBBiQIIQQQIIIHH16s16s16s")
CLOCK_RECORD = struct.Struct("=B7xQQ")
PROCESS_RECORD = struct.Struct("=B3xIQ")


class Chunk(NamedTuple):
    """A piece of one direction of one connection.

    ``size`` bytes of the stream from ``position`` on; ``payload`` holds the
    first ``captured`` of them (fewer than ``size`` if the per-call limit or a
    fault cut it off; see ``flags``). ``time`` is CLOCK_MONOTONIC in
    nanoseconds. ``local`` and ``remote`` are packed addresses of 16 bytes, of
    which AF_INET uses the first four. ``comm`` is padded with NULs.
    """

    kind: int
    direction: int
    family: int
    flags: int
    syscall: int
    time: int
    pid: int
    tid: int
    start_time: int
    socket: int
    position: int
    size: int
    captured: int
    netns: int
    local_port: int
    remote_port: int
    local: bytes
    remote: bytes
    comm: bytes
    payload: bytes


class End(NamedTuple):
    """No byte of this direction comes after ``position``: end of file, or the socket was closed."""

    direction: int
    time: int
    socket: int
    position: int


class Clock(NamedTuple):
    """What CLOCK_REALTIME and CLOCK_MONOTONIC said at one moment, in nanoseconds."""

    monotonic: int
    realtime: int


class Process(NamedTuple):
    """Who a pid was: ``start_time`` (CLOCK_BOOTTIME, ns) tells reuses of the pid apart.

    ``cmdline`` is the arguments, each ended by a NUL, as in ``/proc/PID/cmdline``.
    """

    pid: int
    start_time: int
    cmdline: bytes


class Counters(NamedTuple):
    """The kernel's account at the end of a capture, as a JSON document (``probe/counters.py``)."""

    document: bytes


Item = Union[Chunk, End, Clock, Process, Counters]


def decode(record: bytes) -> Item:
    """Return the item that ``record`` holds.

    Raises :class:`~profiler.errors.CaptureFileError` if it holds none: an
    unknown kind, or fewer bytes than its kind needs.
    """
    try:
        kind = record[0]
        if kind == CHUNK:
            fields = EVENT.unpack_from(record)
            payload = record[EVENT.size : EVENT.size + fields[12]]
            if len(payload) != fields[12]:
                raise CaptureFileError(
                    f"a chunk of {fields[12]} captured bytes holds {len(payload)}"
                )
            return Chunk._make((*fields, payload))
        if kind == END:
            fields = EVENT.unpack_from(record)
            return End(fields[1], fields[5], fields[9], fields[10])
        if kind == CLOCK:
            return Clock(*CLOCK_RECORD.unpack_from(record)[1:])
        if kind == PROCESS:
            _, pid, start_time = PROCESS_RECORD.unpack_from(record)
            return Process(pid, start_time, record[PROCESS_RECORD.size :])
        if kind == COUNTERS:
            return Counters(record[1:])
    except (struct.error, IndexError):
        raise CaptureFileError(f"a record of {len(record)} bytes is too short") from None
    raise CaptureFileError(f"a record is of the unknown kind {kind}")


def encode(item: Item) -> bytes:
    """Return the bytes of ``item``; the inverse of :func:`decode`."""
    if isinstance(item, Chunk):
        return EVENT.pack(*item[:-1]) + item.payload
    if isinstance(item, End):
        zeros = bytes(16)
        return EVENT.pack(
            END, item.direction, 0, 0, -1, item.time, 0, 0, 0, item.socket, item.position,
            0, 0, 0, 0, 0, zeros, zeros, zeros,
        )  # fmt: skip
    if isinstance(item, Clock):
        return CLOCK_RECORD.pack(CLOCK, *item)
    if isinstance(item, Process):
        return PROCESS_RECORD.pack(PROCESS, item.pid, item.start_time) + item.cmdline
    return bytes([COUNTERS]) + item.document
