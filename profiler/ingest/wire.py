# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes the records of the wire.

The *wire* is the sequence of records that the kernel emits. User space adds five kinds
(:class:`Clock`, :class:`Cgroup`, :class:`Workload`, :class:`Counters`, :class:`Keys`), so that the
sequence is self-contained: a recording consists of these bytes, and a replay needs neither the
machine's clock nor its files.

Layouts are structs in ``bpf/event.h``: ``struct event`` for :class:`Chunk` and
:class:`End`, ``struct process_event`` for :class:`Process`, and ``struct names_event``
for :class:`Names`. All integers are in host byte order.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Union

from profiler.errors import CaptureFileError

CHUNK, END, CLOCK, PROCESS, COUNTERS, NAMES, CGROUP = 1, 2, 3, 4, 5, 6, 7
SESSION, HANDSHAKE, KEYS, HELLO, WORKLOAD = 8, 9, 10, 11, 12

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

# Names a TLS session's stream in ``Chunk.socket``, where no inode has this bit.
TLS_STREAM = 1 << 63
# enum tls_library of bpf/event.h
LIBRARIES = {1: "openssl", 2: "gnutls", 3: "go"}

# More than any stream carries; sums of such numbers still fit JSON's 64-bit integers.
_POSITION_MAX = 2**62

EVENT = struct.Struct("=BBBBiQIIQQQIIIIHH16s16s16s")
_EVENT_OF_HELLO = struct.Struct("=xB30xQQII60x")  # only the fields of Hello
_EVENT_OF_END = struct.Struct("=xBxB4xQ16xQQ68x")  # only the fields of End
CLOCK_RECORD = struct.Struct("=B7xQQ")
PROCESS_RECORD = struct.Struct("=B3xIQQII")
NAMES_RECORD = struct.Struct("=BBB5xQQ108s108s")
CGROUP_RECORD = struct.Struct("=B7xQ")
HANDSHAKE_RECORD = struct.Struct("=BB2xI16s")
SESSION_RECORD = struct.Struct("=BB6xQQ")


class Chunk(NamedTuple):
    """A piece of one direction of one connection.

    It covers ``size`` bytes of the stream from ``position`` on. ``payload`` holds the
    first ``captured`` bytes, fewer than ``size`` if the per-call limit or a fault
    truncated it (see ``flags``). ``time`` and ``start_time`` are nanoseconds of the
    kernel's clock (see :class:`Clock`). ``local`` and ``remote`` are packed addresses of
    16 bytes: AF_INET uses the first four, AF_UNIX none (see :class:`Names`).
    ``sequence`` is the TCP sequence number of the byte at position 0, modulo 2**32; it
    is 0 if the socket is not plain TCP. ``comm`` is padded with NULs.
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
    """The direction ends at ``position``: end of file, or the socket was closed.

    ``flags`` may contain FLAG_RESET (a call failed because the connection was reset),
    FLAG_EXIT (the process was exiting) and FLAG_PASSED_OVER.
    """

    direction: int
    time: int
    socket: int
    position: int
    flags: int = 0


class Clock(NamedTuple):
    """The clock of the kernel's records and CLOCK_REALTIME, read at one moment, in ns.

    ``kernel`` is CLOCK_BOOTTIME, or CLOCK_MONOTONIC on kernels before 5.8.
    """

    kernel: int
    realtime: int


class Process(NamedTuple):
    """The identity of a pid from now on; ``start_time`` distinguishes reuses of the pid.

    ``cgroup`` is the inode of its directory in the cgroup2 hierarchy. ``uid`` is the
    user in the initial user namespace. ``cmdline`` is the arguments, each terminated
    by a NUL as in ``/proc/PID/cmdline``; empty if they could not be read.
    """

    pid: int
    start_time: int
    cgroup: int
    uid: int
    cmdline: bytes


class Names(NamedTuple):
    """The paths of both ends of a Unix socket (``sun_path``, unix(7)); empty if unnamed.

    The path of an abstract socket begins with a NUL. ``peer`` is the inode of the
    socket at the other end; it is 0 until the connection is accepted.
    """

    socket: int
    peer: int
    local: bytes
    remote: bytes


class Session(NamedTuple):
    """A TLS session, whose plain text is the stream ``stream`` (see TLS_STREAM).

    ``library`` is a key of :data:`LIBRARIES`. ``socket`` is the inode of the socket that carries
    its records; 0: no evidence shows which one. A later record replaces an earlier one.
    """

    library: int
    stream: int
    socket: int


class Hello(NamedTuple):
    """Bytes of a direction that begins with a TLS handshake, at ``position``; the first 4 KiB."""

    direction: int
    socket: int
    position: int
    payload: bytes


class Cgroup(NamedTuple):
    """The path of the directory with inode ``id`` in the cgroup2 hierarchy."""

    id: int
    path: bytes


class Workload(NamedTuple):
    """What runs in the cgroup with inode ``id``: fields of a record, as a JSON object."""

    id: int
    document: bytes


class Counters(NamedTuple):
    """The kernel's account at the end of a capture, as a JSON document (``accounting.py``)."""

    document: bytes


class Keys(NamedTuple):
    """Lines of a key log (``decryption/keylog.py``), with secrets of TLS connections."""

    lines: bytes


Item = Union[Chunk, End, Clock, Process, Names, Session, Hello, Cgroup, Workload, Counters, Keys]

# construct(Chunk, values) makes a NamedTuple from all its values, for types that every message
# needs. The class's own constructor is a Python function: with it a message takes 4.6 % more
# instructions (benchmarks.replay --kept --instructions).
construct = tuple.__new__


def decode(record: bytes) -> Item:
    """Decode ``record``.

    Raises :class:`~profiler.errors.CaptureFileError` if its kind is unknown, it is
    shorter than its kind requires, or its values are impossible.
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
                    f"a chunk of {fields[12]} captured bytes contains only {len(payload)}"
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
        if kind == SESSION:
            session = Session(*SESSION_RECORD.unpack_from(record)[1:])
            if session.library not in LIBRARIES or not session.stream & TLS_STREAM:
                raise CaptureFileError("a TLS session contradicts itself")
            return session
        if kind == HELLO:
            direction, socket, position, _, size = _EVENT_OF_HELLO.unpack_from(record)
            payload = record[EVENT.size : EVENT.size + size]
            if direction > RECV or position > _POSITION_MAX or len(payload) != size:
                raise CaptureFileError("a hello contradicts itself")
            return Hello(direction, socket, position, payload)
        if kind == CGROUP:
            return Cgroup(CGROUP_RECORD.unpack_from(record)[1], record[CGROUP_RECORD.size :])
        if kind == WORKLOAD:
            return Workload(CGROUP_RECORD.unpack_from(record)[1], record[CGROUP_RECORD.size :])
        if kind == COUNTERS:
            return Counters(record[1:])
        if kind == KEYS:
            return Keys(record[1:])
    except (struct.error, IndexError):
        raise CaptureFileError(f"a record of {len(record)} bytes is too short") from None
    raise CaptureFileError(f"a record has the unknown kind {kind}")


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
    if isinstance(item, Session):
        return SESSION_RECORD.pack(SESSION, *item)
    if isinstance(item, Hello):
        zeros, size = bytes(16), len(item.payload)
        return EVENT.pack(
            HELLO, item.direction, 0, 0, -1, 0, 0, 0, 0, item.socket, item.position,
            size, size, 0, 0, 0, 0, zeros, zeros, zeros,
        ) + item.payload  # fmt: skip
    if isinstance(item, Cgroup):
        return CGROUP_RECORD.pack(CGROUP, item.id) + item.path
    if isinstance(item, Workload):
        return CGROUP_RECORD.pack(WORKLOAD, item.id) + item.document
    if isinstance(item, Keys):
        return bytes([KEYS]) + item.lines
    return bytes([COUNTERS]) + item.document
