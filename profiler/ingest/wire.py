# SPDX-License-Identifier: Apache-2.0
"""One record of the wire, as bytes and as a value.

The *wire* is the sequence of records that leaves the kernel, to which user
space adds three kinds of its own (:class:`Clock`, :class:`Cgroup`,
:class:`Counters`) so that the sequence explains itself: a recorded capture is
exactly these bytes, and replaying them needs neither the machine's clock nor
its ``/sys``.

The layout of :class:`Chunk` and :class:`End` is ``struct event`` in
``bpf/event.h``, that of :class:`Process` ``struct process_event`` and that of
:class:`Names` ``struct names_event``. All integers are in host byte order.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Union

from profiler.errors import CaptureFileError

CHUNK, END, CLOCK, PROCESS, COUNTERS, NAMES, CGROUP = 1, 2, 3, 4, 5, 6, 7

SEND, RECV = 0, 1

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10

FLAG_JOINED = 1
FLAG_AFTER_LOSS = 2
FLAG_UNREADABLE = 4
FLAG_LIMIT = 8
FLAG_CONTINUED = 16
FLAG_RESET = 32
FLAG_EXIT = 64
FLAG_PASSED_OVER = 128

# More than any stream carries; sums of such numbers still go into a line.
_POSITION_MAX = 2**62

EVENT = struct.Struct("=BBBBiQIIQQQIIIIHH16s16s16s")
_EVENT_OF_END = struct.Struct("=xBxB4xQ16xQQ68x")  # what End keeps of it
CLOCK_RECORD = struct.Struct("=B7xQQ")
PROCESS_RECORD = struct.Struct("=B3xIQQII")
NAMES_RECORD = struct.Struct("=BBB5xQQ108s108s")
CGROUP_RECORD = struct.Struct("=B7xQ")


class Chunk(NamedTuple):
    """A piece of one direction of one connection.

    ``size`` bytes of the stream from ``position`` on; ``payload`` holds the
    first ``captured`` of them (fewer than ``size`` if the per-call limit or a
    fault cut it off; see ``flags``). ``time`` and ``start_time`` are nanoseconds
    of the kernel's clock (see :class:`Clock`). ``local`` and ``remote`` are packed
    addresses of 16 bytes, of which AF_INET uses the first four and AF_UNIX none
    (see :class:`Names`). ``sequence`` is TCP's number of the byte at position 0,
    modulo 2**32; 0 if the socket is no plain TCP. ``comm`` is padded with NULs.
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
    sequence: int
    local_port: int
    remote_port: int
    local: bytes
    remote: bytes
    comm: bytes
    payload: bytes


class End(NamedTuple):
    """No byte of this direction comes after ``position``: end of file, or the socket was closed.

    ``flags`` are FLAG_RESET if a call had failed because the connection was reset,
    FLAG_EXIT if the process was ending, and FLAG_PASSED_OVER.
    """

    direction: int
    time: int
    socket: int
    position: int
    flags: int = 0


class Clock(NamedTuple):
    """What the clock of the kernel's records and CLOCK_REALTIME said at one moment, in ns.

    The former is CLOCK_BOOTTIME, or CLOCK_MONOTONIC on kernels before 5.8.
    """

    kernel: int
    realtime: int


class Process(NamedTuple):
    """Who a pid is from now on: ``start_time`` tells reuses of the pid apart.

    ``cgroup`` is the inode of its directory in the cgroup2 hierarchy; ``uid`` is
    as the initial user namespace sees it; ``cmdline`` is the arguments, each ended
    by a NUL, as in ``/proc/PID/cmdline``, empty if they could not be read.
    """

    pid: int
    start_time: int
    cgroup: int
    uid: int
    cmdline: bytes


class Names(NamedTuple):
    """What the ends of a Unix socket are bound to (``sun_path``, unix(7)); empty: unnamed.

    The path of an abstract socket begins with a NUL. ``peer`` is the inode of the
    socket at the other end, 0 while nobody has accepted the connection.
    """

    socket: int
    peer: int
    local: bytes
    remote: bytes


class Cgroup(NamedTuple):
    """The path, in the cgroup2 hierarchy, of the directory with inode ``id``."""

    id: int
    path: bytes


class Counters(NamedTuple):
    """The kernel's account at the end of a capture, as a JSON document (``accounting.py``)."""

    document: bytes


Item = Union[Chunk, End, Clock, Process, Names, Cgroup, Counters]

# construct(Chunk, values): a NamedTuple of all its values, for those that each message needs. The
# class's own constructor is a Python function: with it a message takes 4.6 % more instructions
# (benchmarks.replay --kept --instructions).
construct = tuple.__new__


def decode(record: bytes) -> Item:
    """Return the item that ``record`` holds.

    Raises :class:`~profiler.errors.CaptureFileError` if it holds none: an
    unknown kind, fewer bytes than its kind needs, or values that cannot be.
    """
    try:
        kind = record[0]
        if kind == CHUNK:
            fields = EVENT.unpack_from(record)
            if fields[1] > RECV or fields[12] > fields[11] or fields[10] > _POSITION_MAX:
                raise CaptureFileError("a chunk contradicts itself")
            payload = record[EVENT.size : EVENT.size + fields[12]]
            if len(payload) != fields[12]:
                raise CaptureFileError(
                    f"a chunk of {fields[12]} captured bytes holds {len(payload)}"
                )
            return construct(Chunk, (*fields, payload))
        if kind == END:
            direction, flags, time, socket, position = _EVENT_OF_END.unpack_from(record)
            end = End(direction, time, socket, position, flags)
            if end.direction > RECV or end.position > _POSITION_MAX:
                raise CaptureFileError("an end contradicts itself")
            return end
        if kind == CLOCK:
            return Clock(*CLOCK_RECORD.unpack_from(record)[1:])
        if kind == PROCESS:
            _, *process, size = PROCESS_RECORD.unpack_from(record)
            start = PROCESS_RECORD.size
            return Process._make((*process, record[start : start + size]))
        if kind == NAMES:
            _, local_size, remote_size, *sockets, local, remote = NAMES_RECORD.unpack_from(record)
            return Names._make((*sockets, local[:local_size], remote[:remote_size]))
        if kind == CGROUP:
            return Cgroup(CGROUP_RECORD.unpack_from(record)[1], record[CGROUP_RECORD.size :])
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
            END, item.direction, 0, item.flags, -1, item.time, 0, 0, 0, item.socket, item.position,
            0, 0, 0, 0, 0, 0, zeros, zeros, zeros,
        )  # fmt: skip
    if isinstance(item, Clock):
        return CLOCK_RECORD.pack(CLOCK, *item)
    if isinstance(item, Process):
        return PROCESS_RECORD.pack(PROCESS, *item[:-1], len(item.cmdline)) + item.cmdline
    if isinstance(item, Names):
        sizes = len(item.local), len(item.remote)
        return NAMES_RECORD.pack(NAMES, *sizes, item.socket, item.peer, item.local, item.remote)
    if isinstance(item, Cgroup):
        return CGROUP_RECORD.pack(CGROUP, item.id) + item.path
    return bytes([COUNTERS]) + item.document
