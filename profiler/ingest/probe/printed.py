# SPDX-License-Identifier: Apache-2.0
"""Parses the output of the bpftrace program into records of the wire. No I/O.

Each line is a JSON object from bpftrace (``-f json``). The program's own text in it
consists of a letter and hexadecimal numbers, defined in ``bpf/probe.bt.j2``. The pieces of
a call come before the call itself, on the CPU where the call ended.

**Order.** bpftrace before 0.18 has one buffer for each CPU, and reads them one after the
other. So lines of different CPUs arrive out of order, while those of one CPU are in order.
Each CPU also prints heartbeats. All lines older than the oldest of the CPUs' latest
heartbeats have arrived. Lines wait until then, and are released in the order of their times.

**Loss.** A line that bpftrace could not deliver is missing. A lost call causes a jump in the
stream's position and in the call's ordinal, and a lost piece a gap in its call. Both appear
in the records. bpftrace counts the lost lines, and the program counts the bytes that it
forwarded. The bytes that did not arrive are reported as lost.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import NamedTuple

import orjson

from profiler.accounting import FILTERED, LOST, Count, Direction, KernelAccount
from profiler.ingest.probe.generate_bpftrace import FATES, FORWARDED, RECV_FATES, SEEN, SWAPPED
from profiler.ingest.wire import (
    AF_INET6,
    CHUNK,
    FLAG_AFTER_LOSS,
    FLAG_CONTINUED,
    FLAG_JOINED,
    FLAG_LIMIT,
    FLAG_UNREADABLE,
    RECV,
    SEND,
    Chunk,
    End,
    encode,
)

# A heartbeat may interrupt a call on its CPU: the call then reads the time before the
# heartbeat, and is printed after it. No call takes this long (nanoseconds).
_SLACK = 1_000_000

# A CPU without a heartbeat for this long (seconds) is treated as offline.
_SILENCE = 2.0

# Directions whose ordinals are stored. Without a limit, one whose end was lost would never leave.
_ORDINALS_MAX = 65536

_WORDS = struct.Struct("=QQ")

_ESCAPED = re.compile(rb"\\x([0-9a-fA-F]{2})")
_CALL_LIMIT, _NOT_HTTP, _RING_FULL, _UNREADABLE = (
    "call_limit",
    "not_http",
    "ring_full",
    "unreadable",
)


class Caller(NamedTuple):
    """One line ``B``; addresses are the integers as the program read them."""

    start_time: int
    netns: int
    local: tuple[int, int]
    remote: tuple[int, int]
    comm: bytes


class Call(NamedTuple):
    """Lines ``B`` and ``C``; ``done`` of the ``size`` bytes were printed before, as pieces."""

    direction: int
    syscall: int
    time: int
    pid: int
    tid: int
    start_time: int
    socket: int
    position: int
    ordinal: int
    size: int
    done: int
    joined: int
    family: int
    local_port: int
    remote_port: int
    netns: int
    local: bytes
    remote: bytes
    comm: bytes


class Piece(NamedTuple):
    """Bytes of a call from ``offset`` on; ``None`` if the printed text is ambiguous."""

    offset: int
    size: int
    payload: bytes | None


def read_hex(text: str, size: int) -> bytes | None:
    """Parse the output of ``%rh``, two digits a byte; ``None`` if it is not ``size`` bytes."""
    try:
        payload = bytes.fromhex(text)
    except ValueError:
        return None
    return payload if len(payload) == size else None


def read_escaped(text: str, size: int) -> bytes | None:
    r"""Parse the output of ``%r``: printable bytes unchanged, others as ``\xNN``.

    A backslash is not escaped, so four characters of the text may be one byte or
    four. The result is ``None`` if ``size`` does not resolve the ambiguity.
    """
    raw = text.encode("latin-1", errors="replace")
    # bpftrace escapes only bytes that are not printable.
    escapes = [m for m in _ESCAPED.finditer(raw) if not 32 <= int(m[1], 16) <= 126]
    if len(raw) == size:
        return raw
    if len(raw) - 3 * len(escapes) != size:
        return None
    return _ESCAPED.sub(
        lambda m: m[0] if 32 <= int(m[1], 16) <= 126 else bytes([int(m[1], 16)]), raw
    )


class Printed:
    """Turns lines into records; holds the state of one run of bpftrace."""

    def __init__(self, processors: int, *, hexadecimal: bool) -> None:
        """``processors`` is the number of online CPUs; ``hexadecimal``: pieces use ``%rh``."""
        self._began: float | None = None
        self._processors = processors
        self._read = read_hex if hexadecimal else read_escaped
        self._heartbeats: dict[int, tuple[int, float]] = {}
        # By thread and time, the lines of a call that precede its last line.
        self._pieces: dict[tuple[int, int], list[Piece]] = {}
        self._callers: dict[tuple[int, int], Caller] = {}
        self._waiting: list[tuple[int, int, Call | End, list[Piece]]] = []
        self._arrivals = 0
        self._ordinals: dict[int, int] = {}
        self._maps: dict[str, dict[str, int]] = {}
        self._counted: dict[str, dict[str, int]] = {}
        self._has_counted = False
        self._received = [[0, 0], [0, 0]]
        self._refused = [[0, 0], [0, 0]]
        self._ignored: set[int] = set()
        self._unwanted = [[0, 0], [0, 0]]
        self.clock_offset = 0
        """Nanoseconds from the program's clock to CLOCK_MONOTONIC."""
        self.lost_lines = 0
        """Lines that bpftrace reports as lost."""
        self._met: dict[tuple[int, int], None] = {}
        self.other_lines: list[str] = []
        """bpftrace's own output: lines that the program did not print."""

    @property
    def attached(self) -> bool:
        """Whether the first and the last probe of the program have printed something."""
        return bool(self._heartbeats) and self._has_counted

    def feed(self, line: bytes, now: float) -> None:
        """Parse one line of output; ``now`` is a monotonic time in seconds."""
        try:
            document = orjson.loads(line)
            kind, data = document["type"], document["data"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            if line.strip():
                self.other_lines.append(line.decode(errors="replace").strip())
            return
        if kind == "printf":
            self._take_text(data, now)
        elif kind == "map":
            self._maps.update(data)
        elif kind == "lost_events":
            self.lost_lines += int(data["events"])
        elif kind != "attached_probes":
            self.other_lines.append(line.decode(errors="replace").strip())

    def met(self) -> list[tuple[int, int]]:
        """Return pid and start time of the processes whose calls arrived since the last call.

        Their records may have to wait, and a process may end in the meantime.
        """
        met, self._met = list(self._met), {}
        return met

    def take(self, now: float) -> list[bytes]:
        """Return the records of all lines that no older line can precede."""
        if self._began is None:
            self._began = now
        alive = [time for time, heard in self._heartbeats.values() if now - heard < _SILENCE]
        # At first, wait for a heartbeat of each CPU.
        if len(self._heartbeats) < self._processors and now - self._began < _SILENCE:
            return []
        return self._release(min(alive) - _SLACK) if alive else []

    def finish(self) -> list[bytes]:
        """Return the records of all remaining lines, after the program has ended."""
        return self._release(None)

    def ignore(self, inode: int) -> None:
        """Drop the calls of the socket with this inode until it ends."""
        self._ignored.add(inode)

    def account(self) -> KernelAccount:
        """Return the counts that the program printed last; lines that did not arrive are lost."""
        return KernelAccount(self._direction(SEND), self._direction(RECV))

    def _take_text(self, text: str, now: float) -> None:
        kind, *words = text.split()
        if kind == "P":
            tid, time, offset, size = _numbers(words[:4])
            # The rest of the line: with %r, a piece may contain spaces.
            payload = text.rstrip("\n").split(" ", 5)[5]
            piece = Piece(offset, size, self._read(payload, size))
            self._pieces.setdefault((tid, time), []).append(piece)
        elif kind == "B":
            tid, time = _numbers(words[:2])
            self._callers[tid, time] = _caller(words[2:])
        elif kind == "C":
            tid, time = _numbers(words[:2])
            pieces = self._pieces.pop((tid, time), [])
            caller = self._callers.pop((tid, time), None)
            if caller is not None:  # else line B was lost, and so the call is too
                call = _call(words, caller)
                self._met[call.pid, call.start_time] = None
                self._wait(time, call, pieces)
        elif kind == "E":
            direction, time, inode, position = _numbers(words)
            self._wait(time, End(direction, time, inode, position), [])
        elif kind == "T":
            cpu, time = _numbers(words)
            self._heartbeats[cpu] = (time, now)
        elif kind == "S":
            self._counted, self._maps = self._maps, {}
            self._has_counted = True

    def _wait(self, time: int, item: Call | End, pieces: list[Piece]) -> None:
        # The arrival number keeps lines with equal times in order, so items are never compared.
        self._waiting.append((time, self._arrivals, item, pieces))
        self._arrivals += 1

    def _release(self, until: int | None) -> list[bytes]:
        """Return the waiting records up to the time ``until``; all of them if it is ``None``."""
        if until is None:
            ready, self._waiting = self._waiting, []
        else:
            ready = [entry for entry in self._waiting if entry[0] <= until]
            self._waiting = [entry for entry in self._waiting if entry[0] > until]
            # Pieces whose call has not arrived by now: the call was lost.
            for table in (self._pieces, self._callers):
                for key in [key for key in table if key[1] <= until]:
                    del table[key]
        records: list[bytes] = []
        for _, _, item, pieces in sorted(ready, key=lambda entry: entry[:2]):
            if isinstance(item, Call):
                records += map(encode, self._chunks(item, pieces))
            else:
                records.append(encode(self._end(item)))
        return records

    def _end(self, end: End) -> End:
        self._ordinals.pop(end.socket << 1 | end.direction, None)
        if end.direction == RECV:  # the second of the two ends at a close
            self._ignored.discard(end.socket)
        return end._replace(time=end.time + self.clock_offset)

    def _chunks(self, call: Call, pieces: list[Piece]) -> list[Chunk]:
        """Return the chunks of one call: a single one unless pieces are missing."""
        key = call.socket << 1 | call.direction
        flags = FLAG_JOINED if call.joined else 0
        if call.ordinal != self._ordinals.get(key, 0):
            flags |= FLAG_AFTER_LOSS
        self._ordinals[key] = call.ordinal + 1
        if len(self._ordinals) > _ORDINALS_MAX:
            del self._ordinals[next(iter(self._ordinals))]
        runs = _runs(pieces)
        self._count(call, pieces, runs)
        if call.socket in self._ignored:
            return []
        chunks = []
        at = 0
        starts = [start for start, _ in runs] + [call.done]
        if not runs or runs[0][0] > 0:
            runs, starts = [(0, b""), *runs], [0, *starts]
        for (start, payload), following in zip(runs, starts[1:]):
            size = following - start
            if size:
                chunks.append(self._chunk(call, start, size, payload, flags))
                flags = flags & ~FLAG_AFTER_LOSS | FLAG_CONTINUED
            at = following
        beyond = call.size - at
        if beyond:
            reason = FLAG_LIMIT if call.done else FLAG_UNREADABLE
            last = chunks[-1] if chunks else None
            if last is not None and last.captured == last.size:
                chunks[-1] = last._replace(size=last.size + beyond, flags=last.flags | reason)
            else:
                chunks.append(self._chunk(call, at, beyond, b"", flags | reason))
        return chunks

    def _chunk(self, call: Call, at: int, size: int, payload: bytes, flags: int) -> Chunk:
        return Chunk(
            CHUNK, call.direction, call.family, flags, call.syscall, call.time + self.clock_offset,
            call.pid, call.tid, call.start_time, call.socket, call.position + at, size,
            len(payload), call.netns, 0, call.local_port, call.remote_port, call.local, call.remote,
            call.comm, payload,
        )  # fmt: skip

    def _count(self, call: Call, pieces: list[Piece], runs: list[tuple[int, bytes]]) -> None:
        if not call.done:
            return
        arrived = sum(len(payload) for _, payload in runs)
        refused = sum(piece.size for piece in pieces if piece.payload is None)
        counted = self._unwanted if call.socket in self._ignored else self._received
        counted[call.direction][1] += arrived
        self._refused[call.direction][1] += refused
        if refused:
            self._refused[call.direction][0] += 1
        elif arrived == call.done:
            counted[call.direction][0] += 1

    def _direction(self, direction: int) -> Direction:
        calls, sizes = self._counted.get("@calls", {}), self._counted.get("@bytes", {})

        def count(code: int) -> Count:
            key = str(code + RECV_FATES * direction)
            return Count(calls.get(key, 0), sizes.get(key, 0))

        filtered = {name: count(FATES[name]) for name in FILTERED}
        lost = {name: count(FATES[name]) for name in LOST}
        received, unwanted, refused = (
            Count(*each[direction]) for each in (self._received, self._unwanted, self._refused)
        )
        filtered[_NOT_HTTP] += unwanted
        lost[_UNREADABLE] += refused
        # Count a loss only if bpftrace reports lost lines. Any other difference is a bug, and
        # must stay visible as an account that does not add up.
        if self.lost_lines:
            lost[_RING_FULL] += count(FORWARDED) - received - refused - unwanted
        return Direction(count(SEEN), received, filtered, lost)


def _runs(pieces: list[Piece]) -> list[tuple[int, bytes]]:
    """Join adjacent pieces; return (offset, payload) in order."""
    runs: list[tuple[int, bytes]] = []
    for offset, _, payload in sorted(pieces, key=lambda piece: piece.offset):
        if payload is None:
            continue
        if runs and runs[-1][0] + len(runs[-1][1]) == offset:
            start, before = runs[-1]
            runs[-1] = (start, before + payload)
        else:
            runs.append((offset, payload))
    return runs


def _numbers(words: list[str]) -> list[int]:
    return [int(word, 16) for word in words]


def _caller(words: list[str]) -> Caller:
    """Parse the fields of a line ``B`` after its key, in the order of the template's printf."""
    start_time, netns, local, local_rest, remote, remote_rest, comm, rest = _numbers(words)
    return Caller(
        start_time, netns, (local, local_rest), (remote, remote_rest),
        # Bytes after the NUL are left over from a longer name.
        _WORDS.pack(comm, rest).partition(b"\0")[0].ljust(_WORDS.size, b"\0"),
    )  # fmt: skip


def _call(words: list[str], caller: Caller) -> Call:
    """Parse the fields of a line ``C``, in the order of the template's printf."""
    (tid, time, pid, number, inode, position, ordinal, size, done, family_joined,
     local_port, remote_port) = _numbers(words)  # fmt: skip
    family = family_joined >> 3
    # The program reads an IPv6 address as two 64-bit integers, an IPv4 address as one of 32 bits.
    pack = _pack_ipv6 if family == AF_INET6 else _pack_ipv4
    return Call(
        number & 1, number >> 1, time, pid, tid, caller.start_time, inode, position, ordinal, size,
        done, family_joined & 7, family, _local_port(local_port), socket.ntohs(remote_port),
        caller.netns, pack(*caller.local), pack(*caller.remote), caller.comm,
    )  # fmt: skip


def _local_port(printed: int) -> int:
    return socket.ntohs(printed - SWAPPED) if printed >= SWAPPED else printed


def _pack_ipv4(address: int, _: int) -> bytes:
    return struct.pack("=I", address).ljust(16, b"\0")


def _pack_ipv6(address: int, rest: int) -> bytes:
    return _WORDS.pack(address, rest)
