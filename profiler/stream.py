"""Records become streams: bytes in order, with every hole named.

The kernel hands over pieces of a stream with their positions. This stage
remembers, for each direction of each socket, the position that must come next,
and turns every disagreement into a :class:`Gap`: later stages never look at
positions again. What comes out of :meth:`Streams.feed` is

* a :class:`~profiler.wire.Chunk`: its ``payload`` continues the stream,
* a :class:`Gap`: bytes moved that nobody has seen,
* a :class:`Finish`: the stream is over.

The first chunk of a direction sets the base: whatever came before was never
ours to show.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from profiler.wire import FLAG_AFTER_LOSS, FLAG_LIMIT, Chunk, End

BODY_LIMIT = "body_limit"
LOST = "lost"


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
    """This direction carries no more bytes."""

    socket: int
    direction: int
    time: int


Event = Union[Chunk, Gap, Finish]


class Streams:
    """The expected position of every direction that is open."""

    def __init__(self) -> None:
        # One integer names a direction (see _key): this table is used for every chunk.
        self._expected: dict[int, int] = {}

    def feed(self, item: Chunk | End) -> tuple[Event, ...]:
        """Return what ``item`` means for its stream."""
        if isinstance(item, End):
            return self._end(item)
        key = _key(item.socket, item.direction)
        position, size = item.position, item.size
        expected = self._expected.get(key)
        self._expected[key] = position + size
        if expected == position and item.captured == size:
            return (item,)
        return self._chunk(item, expected)

    def forget(self, socket: int) -> None:
        """Drop what is known of ``socket``: nobody wants its bytes any more."""
        for direction in (0, 1):
            self._expected.pop(_key(socket, direction), None)

    def __len__(self) -> int:
        """Directions that are open."""
        return len(self._expected)

    @staticmethod
    def _chunk(chunk: Chunk, expected: int | None) -> tuple[Event, ...]:
        """The rarer chunks: the first of a stream, one behind a gap, one that is not whole."""
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
        return tuple(events)

    def _end(self, end: End) -> tuple[Event, ...]:
        expected = self._expected.pop(_key(end.socket, end.direction), None)
        finish = Finish(end.socket, end.direction, end.time)
        if expected is None or expected == end.position:
            return (finish,)
        return (_hole(end, expected), finish)


def _key(socket: int, direction: int) -> int:
    return socket << 1 | direction


def _hole(item: Chunk | End, expected: int) -> Gap:
    # A position that goes back means that the kernel had evicted what it knew
    # of the socket and began to count anew: what moved in between is unknown.
    size = item.position - expected if item.position > expected else None
    return Gap(item.socket, item.direction, item.time, size, LOST)
