# SPDX-License-Identifier: Apache-2.0
"""Turns records into streams: bytes in order, with explicit gaps.

The kernel forwards pieces of a stream with their positions. This stage stores the
next expected position for each direction of each socket, and turns every mismatch
into a :class:`Gap`. Later stages need no positions. :meth:`Streams.feed` returns
events of three types:

* a :class:`~profiler.ingest.wire.Chunk`: its ``payload`` continues the stream,
* a :class:`Gap`: bytes moved that were not captured,
* a :class:`Finish`: the stream has ended.

The first chunk of a direction sets its base position. Bytes before it are not
reported as a gap.

If the kernel had no room to remember a connection, its positions restart. Then TCP's
sequence numbers reveal how many bytes moved meanwhile, usually none.

If several threads use one socket at the same time, their records may arrive out of
order. A record ahead of its position is held until the missing records arrive. It is
released early if the kernel reports a loss, or if too many records are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, Union

from profiler.ingest.wire import (
    FLAG_AFTER_LOSS,
    FLAG_EXIT,
    FLAG_LIMIT,
    FLAG_PASSED_OVER,
    FLAG_RESET,
    Chunk,
    End,
)

# Chunks of one direction that are held for an earlier one, at most.
_HELD_MAX = 64

# TCP's sequence numbers have 32 bits (RFC 9293, 3.4).
_SEQUENCES = 1 << 32

# The kernel reports that the bytes missing before the chunk will not arrive.
_AFTER_HOLE = FLAG_AFTER_LOSS | FLAG_PASSED_OVER

# Bytes of memory that a chunk takes besides its payload.
_CHUNK_SIZE = 800

BODY_LIMIT = "body_limit"
LOST = "lost"
CLOSED_EARLY = "closed_early"
RESET = "reset"
EXITED = "exited"


class Gap(NamedTuple):
    """``size`` bytes of a direction were not captured; ``None`` if the number is unknown.

    ``reason`` is :data:`LOST` or :data:`BODY_LIMIT`. ``time`` is the time of the
    record that revealed the gap.
    """

    socket: int
    direction: int
    time: int
    size: int | None
    reason: str


class Finish(NamedTuple):
    """This direction carries no more bytes.

    ``reason`` is why an open message is incomplete: :data:`CLOSED_EARLY`, :data:`RESET`
    or :data:`EXITED`. ``unseen``: it carried, or may have carried, bytes without any chunk.
    """

    socket: int
    direction: int
    time: int
    reason: str = CLOSED_EARLY
    unseen: bool = False


Event = Union[Chunk, Gap, Finish]


class Positions(NamedTuple):
    """The state of both directions of a socket.

    ``next`` is the next expected position, ``None`` before the first chunk. ``sequences`` are
    TCP's sequence numbers of position 0; 0 if unknown.
    """

    next: Sequence[int | None]
    sequences: Sequence[int]


class Streams:
    """The expected position of every open direction."""

    def __init__(self, sees_all: bool = True) -> None:
        """If ``sees_all`` is false, bytes may move that the probe does not count."""
        self._sees_all = sees_all
        # The key is one integer (see _key), because every chunk is looked up here.
        self._expected: dict[int, int] = {}
        # TCP's sequence number of position 0, by direction; 0 if unknown.
        self._sequences: dict[int, int] = {}
        # Chunks ahead of their position, by direction; usually empty.
        self._held: dict[int, list[Chunk]] = {}

    def feed(self, item: Chunk | End) -> Sequence[Event]:
        """Return the events that ``item`` causes in its stream."""
        if isinstance(item, End):
            return self._end(item)
        key = _key(item.socket, item.direction)
        position, size = item.position, item.size
        expected = self._expected.get(key)
        in_order = expected == position or (expected is None and not item.flags & FLAG_AFTER_LOSS)
        if in_order and item.captured == size > 0 and not self._held:
            if expected is None:
                self._sequences[key] = item.sequence
            self._expected[key] = position + size
            return (item,)
        return self._chunk(key, item, expected)

    def finish(self) -> Iterator[Event]:
        """End the capture: yield what is still held, one direction at a time."""
        for key in list(self._held):
            yield from self._release(key)

    def forget(self, socket: int) -> None:
        """Drop the state of ``socket``: its bytes are no longer needed."""
        for direction in (0, 1):
            key = _key(socket, direction)
            for table in (self._expected, self._sequences, self._held):
                table.pop(key, None)

    def positions(self, socket: int) -> Positions | None:
        """Return the state of ``socket``; ``None`` if chunks are held."""
        keys = _key(socket, 0), _key(socket, 1)
        if self._held and any(key in self._held for key in keys):
            return None
        return Positions(
            [self._expected.get(key) for key in keys],
            [self._sequences.get(key, 0) for key in keys],
        )

    def resume(self, socket: int, positions: Positions) -> None:
        """Set the state of ``socket``."""
        for direction, (position, sequence) in enumerate(zip(*positions)):
            if position is not None:
                key = _key(socket, direction)
                self._expected[key], self._sequences[key] = position, sequence

    def held(self, socket: int) -> int:
        """Return the bytes of memory that the held chunks of ``socket`` take."""
        if not self._held:
            return 0
        return sum(
            _CHUNK_SIZE + chunk.captured
            for direction in (0, 1)
            for chunk in self._held.get(_key(socket, direction), ())
        )

    def __len__(self) -> int:
        """The number of open directions."""
        return len(self._expected)

    def _chunk(self, key: int, chunk: Chunk, expected: int | None) -> Sequence[Event]:
        """Take a chunk that may be out of order, truncated or empty."""
        if expected is not None and chunk.position < expected:
            expected = self._restart(key, chunk, expected)
        held = self._held.get(key, [])
        early = expected is not None and chunk.position > expected
        # What is missing before a restart never arrives: its positions would be negative.
        waits = expected is not None and 0 <= expected < chunk.position
        if waits and not chunk.flags & _AFTER_HOLE and len(held) < _HELD_MAX:
            self._held.setdefault(key, []).append(chunk)
            return ()
        if early and held:
            self._held[key].append(chunk)
            return self._release(key)
        events = [*self._take(key, chunk, expected)]
        while held:
            following = min(held, key=attrgetter("position"))
            if following.position > self._expected[key]:
                break
            held.remove(following)
            events += self._take(key, following, self._expected[key])
        if not held:
            self._held.pop(key, None)
        return events

    def _release(self, key: int) -> Sequence[Event]:
        """Release the held chunks of a direction in order: the missing ones will not arrive."""
        events: list[Event] = []
        for chunk in sorted(self._held.pop(key, ()), key=attrgetter("position")):
            events += self._take(key, chunk, self._expected.get(key))
        return events

    def _restart(self, key: int, chunk: Chunk, expected: int) -> int:
        """Return the expected position as the kernel counts now, if TCP's numbers reveal it."""
        known, sequence = self._sequences.get(key), chunk.sequence
        if not known or not sequence or known == sequence:
            return expected
        self._sequences[key] = sequence
        missing = (sequence + chunk.position - known - expected) % _SEQUENCES
        return chunk.position - missing if missing < _SEQUENCES // 2 else expected

    def _take(self, key: int, chunk: Chunk, expected: int | None) -> Sequence[Event]:
        if expected is None:
            self._sequences[key] = chunk.sequence
        self._expected[key] = chunk.position + chunk.size
        return self._events_of(chunk, expected)

    @staticmethod
    def _events_of(chunk: Chunk, expected: int | None) -> Sequence[Event]:
        """Return a chunk with the gaps before and after it."""
        events: list[Event] = []
        if expected is not None:
            if chunk.position != expected:
                events.append(_hole(chunk, expected))
        elif chunk.flags & FLAG_AFTER_LOSS:
            events.append(Gap(chunk.socket, chunk.direction, chunk.time, None, LOST))
        if chunk.payload:
            events.append(chunk)
        missing = chunk.size - chunk.captured
        if missing:
            reason = BODY_LIMIT if chunk.flags & FLAG_LIMIT else LOST
            events.append(Gap(chunk.socket, chunk.direction, chunk.time, missing, reason))
        return events

    def _end(self, end: End) -> Sequence[Event]:
        key = _key(end.socket, end.direction)
        events = [*self._release(key)] if key in self._held else []
        expected = self._expected.pop(key, None)
        self._sequences.pop(key, None)
        # At position 0, nothing has moved since the kernel restarted its count.
        if expected is not None and expected != end.position and end.position:
            events.append(_hole(end, expected))
        reason = CLOSED_EARLY
        if end.flags & FLAG_RESET:
            reason = RESET
        elif end.flags & FLAG_EXIT:
            reason = EXITED
        unseen = not self._sees_all or (expected is None and end.position > 0)
        events.append(Finish(end.socket, end.direction, end.time, reason, unseen))
        return events


def _key(socket: int, direction: int) -> int:
    return socket << 1 | direction


def _hole(item: Chunk | End, expected: int) -> Gap:
    # If the position is lower than expected, the kernel evicted its state of the
    # socket and restarted the count, so the number of missing bytes is unknown.
    size = item.position - expected if item.position > expected else None
    # LOST unless all missing bytes were skipped on purpose.
    reason = BODY_LIMIT if item.flags & _AFTER_HOLE == FLAG_PASSED_OVER else LOST
    return Gap(item.socket, item.direction, item.time, size, reason)
