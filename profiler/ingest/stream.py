# SPDX-License-Identifier: Apache-2.0
"""Records become streams: bytes in order, with every hole named.

The kernel hands over pieces of a stream with their positions. This stage
remembers, for each direction of each socket, the position that must come next,
and turns every disagreement into a :class:`Gap`: later stages never look at
positions again. What comes out of :meth:`Streams.feed` is

* a :class:`~profiler.ingest.wire.Chunk`: its ``payload`` continues the stream,
* a :class:`Gap`: bytes moved that nobody has seen,
* a :class:`Finish`: the stream is over.

The first chunk of a direction sets the base: whatever came before was never
ours to show.

Threads that move data of one socket at the same time may hand their records
over in another order than that of their positions. So a record that comes too
early is held back until the missing ones have come - unless the kernel says
that it lost some, or too many are held.
"""

from __future__ import annotations

from collections.abc import Sequence
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

# Chunks of one direction that wait for an earlier one.
_HELD_MAX = 64

# The kernel says that what is missing before it will not come.
_AFTER_HOLE = FLAG_AFTER_LOSS | FLAG_PASSED_OVER

# What a chunk takes besides its payload.
_CHUNK_SIZE = 800

BODY_LIMIT = "body_limit"
LOST = "lost"
CLOSED_EARLY = "closed_early"
RESET = "reset"
EXITED = "exited"


class Gap(NamedTuple):
    """``size`` bytes of a direction were not seen; ``None``: nobody knows how many.

    ``reason`` is :data:`LOST` or :data:`BODY_LIMIT`. ``time`` is that of the
    record that revealed the gap.
    """

    socket: int
    direction: int
    time: int
    size: int | None
    reason: str


class Finish(NamedTuple):
    """This direction carries no more bytes.

    ``reason`` is what befalls a message that is open: :data:`CLOSED_EARLY`,
    :data:`RESET` or :data:`EXITED`. ``unseen``: it carried bytes, or may have, of which no chunk
    came.
    """

    socket: int
    direction: int
    time: int
    reason: str = CLOSED_EARLY
    unseen: bool = False


Event = Union[Chunk, Gap, Finish]


class Streams:
    """The expected position of every direction that is open."""

    def __init__(self, sees_all: bool = True) -> None:
        """Without ``sees_all`` bytes may be moved that the probe does not count."""
        self._sees_all = sees_all
        # One integer names a direction (see _key): this table is used for every chunk.
        self._expected: dict[int, int] = {}
        # Chunks that came too early, by direction; hardly ever any.
        self._held: dict[int, list[Chunk]] = {}

    def feed(self, item: Chunk | End) -> Sequence[Event]:
        """Return what ``item`` means for its stream."""
        if isinstance(item, End):
            return self._end(item)
        key = _key(item.socket, item.direction)
        position, size = item.position, item.size
        expected = self._expected.get(key)
        in_order = expected == position or (expected is None and not item.flags & FLAG_AFTER_LOSS)
        if in_order and item.captured == size > 0 and not self._held:
            self._expected[key] = position + size
            return (item,)
        return self._chunk(key, item, expected)

    def finish(self) -> Sequence[Event]:
        """The capture ends: return what is still held back."""
        return [event for key in list(self._held) for event in self._release(key)]

    def forget(self, socket: int) -> None:
        """Drop what is known of ``socket``: nobody wants its bytes any more."""
        for direction in (0, 1):
            self._expected.pop(_key(socket, direction), None)
            self._held.pop(_key(socket, direction), None)

    def held(self, socket: int) -> int:
        """Return the bytes of memory that chunks of ``socket`` take which came too early."""
        if not self._held:
            return 0
        return sum(
            _CHUNK_SIZE + chunk.captured
            for direction in (0, 1)
            for chunk in self._held.get(_key(socket, direction), ())
        )

    def __len__(self) -> int:
        """Directions that are open."""
        return len(self._expected)

    def _chunk(self, key: int, chunk: Chunk, expected: int | None) -> Sequence[Event]:
        """A chunk that may not simply continue its stream."""
        held = self._held.get(key, [])
        early = expected is not None and chunk.position > expected
        if early and not chunk.flags & _AFTER_HOLE and len(held) < _HELD_MAX:
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
        """What is held back of a direction, in order: what it waited for will not come."""
        events: list[Event] = []
        for chunk in sorted(self._held.pop(key, ()), key=attrgetter("position")):
            events += self._take(key, chunk, self._expected.get(key))
        return events

    def _take(self, key: int, chunk: Chunk, expected: int | None) -> Sequence[Event]:
        self._expected[key] = chunk.position + chunk.size
        return self._events_of(chunk, expected)

    @staticmethod
    def _events_of(chunk: Chunk, expected: int | None) -> Sequence[Event]:
        """A chunk, and the gaps before and behind it."""
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
        if expected is not None and expected != end.position:
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
    # A position that goes back means that the kernel had evicted what it knew
    # of the socket and began to count anew: what moved in between is unknown.
    size = item.position - expected if item.position > expected else None
    # What was lost may have been anything.
    reason = BODY_LIMIT if item.flags & _AFTER_HOLE == FLAG_PASSED_OVER else LOST
    return Gap(item.socket, item.direction, item.time, size, reason)
