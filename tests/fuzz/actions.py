# SPDX-License-Identifier: Apache-2.0
"""Turns any bytes into a script: what two ends send, and what the profiler sees of it.

An action is one byte, two bytes of length and, for a piece of a stream, that many bytes.
So a mutation of a case is usually a valid case again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from profiler.ingest.wire import (
    FLAG_AFTER_LOSS,
    FLAG_CONTINUED,
    FLAG_EXIT,
    FLAG_JOINED,
    FLAG_LIMIT,
    FLAG_PASSED_OVER,
    FLAG_RESET,
    Chunk,
    End,
)
from tests.replay.script import Call, Ended, Lost, Step
from tests.unit.wires import SOCKET, chunk

_HEAD = struct.Struct("<BH")

# The low bits of the first byte; the others are the direction, and one of four sockets.
PIECE, CONTINUED, BEYOND, LOST, UNKNOWN_LOSS, EARLY, END, JOINED = range(8)
# Its high bits: the lost bytes were unwanted (body, --max-body), and how a stream ends.
PASSED_OVER = IS_RESET = 1 << 6
IS_EXIT = 1 << 7


def encode(steps: Iterable[Step], joined: bool, passed_over: bool = False) -> bytes:
    """Return a case as actions; with ``passed_over`` bytes are unwanted instead of lost."""
    out = [_HEAD.pack(JOINED, 0)] if joined else []
    for step in steps:
        who = step.direction << 3 | (step.socket - SOCKET & 3) << 4
        if isinstance(step, Lost):
            out.append(_HEAD.pack(LOST | who | PASSED_OVER * passed_over, step.size))
        elif isinstance(step, Ended):
            out.append(_HEAD.pack(END | who, 0))
        else:
            assert isinstance(step, Call)
            out.append(_HEAD.pack(PIECE | who, len(step.payload)) + step.payload)
            if step.beyond:
                out.append(_HEAD.pack(BEYOND | who, step.beyond))
    return b"".join(out)


def decode(data: bytes) -> Iterator[Chunk | End]:
    """Yield what the kernel would report for the actions in ``data``."""
    position: dict[tuple[int, int], int] = {}
    flags_next: dict[tuple[int, int], int] = {}
    always = time = at = 0
    early: Chunk | None = None
    while at + _HEAD.size <= len(data):
        code, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        time += 1000
        kind, direction, socket = code & 7, code >> 3 & 1, SOCKET + (code >> 4 & 3)
        key = socket, direction
        start = position.get(key, 0)
        if kind == JOINED:
            always ^= FLAG_JOINED
        elif kind == LOST:
            position[key] = start + size
            # Some of the unwanted bytes may be lost too.
            flag = FLAG_PASSED_OVER if code & PASSED_OVER else FLAG_AFTER_LOSS
            flags_next[key] = flags_next.get(key, 0) | flag
        elif kind == UNKNOWN_LOSS:
            position[key] = 0
            flags_next[key] = FLAG_AFTER_LOSS
        elif kind == END:
            flags = flags_next.pop(key, 0) & FLAG_PASSED_OVER
            flags |= FLAG_RESET * bool(code & IS_RESET) | FLAG_EXIT * bool(code & IS_EXIT)
            yield End(direction, time, socket, start, flags)
        else:
            payload = b"" if kind == BEYOND else data[at : at + size]
            at += len(payload)
            size = max(size, 1) if kind == BEYOND else len(payload)
            if not size:
                continue
            flags = always | flags_next.pop(key, 0)
            flags |= {CONTINUED: FLAG_CONTINUED, BEYOND: FLAG_LIMIT}.get(kind, 0)
            position[key] = start + size
            item = chunk(
                payload, socket=socket, direction=direction, time=time, position=start,
                size=size, flags=flags,
            )  # fmt: skip
            if kind == EARLY and early is None:
                early = item
                continue
            yield item
            if early is not None:
                yield early
                early = None
