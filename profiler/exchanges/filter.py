# SPDX-License-Identifier: Apache-2.0
"""Which records are wanted: conditions, applied to records while they come.

A condition about an exchange keeps or drops request and responses together, as one process saw
them; one about a message - its process, direction, addresses - decides on each by itself. So a
record waits until the conditions are decided for it: as soon as one cannot hold any more, or all
do. What the request decides holds nothing up.

What waits is bounded. Beyond that the exchange that has waited for longest is decided by what is
known of it, as is what still waits at the end: a condition that depends on more does not hold.

It takes nothing but records: a live capture, a replay and the commands that read capture files
use the same object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from profiler.exchanges.conditions import Conditions
from profiler.exchanges.fields import View
from profiler.exchanges.model import Exchange, Side
from profiler.exchanges.pair import (
    HELD_MAX,
    OPEN_MAX,
    End,
    Key,
    key_of,
    size_of,
    without_payload,
)

if TYPE_CHECKING:
    from profiler.schema import Record

# What may still come of exchanges that were decided gets this share of the memory.
_DECIDED_SHARE = 4
# Each record asks for all of them; they are bounded, or a peer could make that take forever.
_INTERIM_MAX = 20


class _Open(End["Record"]):
    """What one process has seen of an exchange that is not over."""

    __slots__ = ("dropped", "held", "role", "size")

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role
        self.held: list[Record] = []
        """Those of its records that wait, in the order of their lines."""
        self.size = 0
        self.dropped = ""
        """The option that dropped it before it was over."""

    def put(self, record: Record, kept: Record) -> None:
        """Take a record. Of more interim responses than any server sends the oldest count."""
        super().put(record, kept)
        del self.interim[_INTERIM_MAX:]

    def exchange(self) -> Exchange:
        side = Side(self.request, tuple(self.interim), self.response)
        return Exchange(side, None) if self.role == "client" else Exchange(None, side)


class Filter:
    """Takes records in the order of their lines, gives back those that are wanted."""

    def __init__(
        self, conditions: Conditions, *, open_max: int = OPEN_MAX, held_max: int = HELD_MAX
    ) -> None:
        """At most ``open_max`` exchanges wait, which hold ``held_max`` bytes at most."""
        self._conditions = conditions.named
        self._open_max = open_max
        self._held_max = held_max
        self._held = self._decided_held = 0
        # Oldest first.
        self._waiting: OrderedDict[Key, _Open] = OrderedDict()
        self._decided: OrderedDict[Key, _Open] = OrderedDict()
        self.dropped: dict[str, int] = {}
        """Option -> messages for which it did not hold."""
        self.given_up = 0
        """Exchanges that were decided before they were over, since too much waited."""

    def feed(self, record: Record) -> list[Record]:
        """Take a record; return what is wanted of it and of those that waited."""
        if not self._conditions:
            return [record]
        key, role = key_of(record), record.get("role", "client")
        if key is None:
            # Nothing tells which request it answers, so it is all there is.
            alone = _Open(role)
            alone.put(record, record)
            return self._decide(alone, [record], over=True) or []
        wanted: list[Record] = []
        end = self._resumed(key)
        if end is not None and not end.takes(record):
            # A socket's number has come again: nothing more comes of the other one.
            wanted += self._release(key, end, over=True)
            self._forget(key)
            end = None
        if end is None:
            end = self._waiting[key] = _Open(role)
        end.put(record, record)
        end.held.append(record)
        size = size_of(record)
        end.size += size
        self._held += size
        wanted += self._release(key, end, over=end.is_whole)
        while len(self._waiting) > self._open_max or self._held > self._held_max:
            self.given_up += 1
            wanted += self._decide_oldest()
        decided_max = self._held_max // _DECIDED_SHARE
        while self._decided_held > decided_max:
            # What still comes of it is then decided by itself.
            self._forget(next(iter(self._decided)))
        return wanted

    @property
    def held(self) -> int:
        """Bytes of memory that records take: those that wait, and heads of decided exchanges."""
        return self._held + self._decided_held

    def finish(self) -> Iterator[Record]:
        """The capture is over: decide what still waits, and yield what is wanted of it."""
        while self._waiting:
            yield from self._decide_oldest()

    def _decide_oldest(self) -> list[Record]:
        key, end = next(iter(self._waiting.items()))
        return self._release(key, end, over=True)

    def _resumed(self, key: Key) -> _Open | None:
        """Return what is known of an end, which waits again if it was decided."""
        end = self._forget(key)
        if end is not None:
            self._waiting[key] = end
            self._held += end.size
        return end or self._waiting.get(key)

    def _release(self, key: Key, end: _Open, over: bool) -> list[Record]:
        """Return what is wanted of the records that wait, if they are decided.

        What may still come of the end is decided with its heads, which are kept.
        """
        wanted = self._decide(end, end.held, over)
        if wanted is None:
            return []
        del self._waiting[key]
        self._held -= end.size
        if not end.is_whole:
            end.held = []
            if end.request is not None:
                end.request = without_payload(end.request, 0)
            end.interim = [without_payload(record, 0) for record in end.interim]
            if end.response is not None:
                end.response = without_payload(end.response, 0)
            end.size = sum(map(size_of, end.exchange().side.records))
            self._decided[key] = end
            self._decided_held += end.size
        return wanted

    def _decide(self, end: _Open, records: list[Record], over: bool) -> list[Record] | None:
        """Return those of an end's records that are wanted; ``None`` while that is not known."""
        exchange = end.exchange()
        decided: list[tuple[Record, str]] = []
        for record in records:
            option = self._dropped_by(end, exchange, record, over)
            if option is None:
                return None
            decided.append((record, option))
        for _, option in decided:
            if option:
                self.dropped[option] = self.dropped.get(option, 0) + 1
                if over and not end.is_whole:
                    end.dropped = option
        return [record for record, option in decided if not option]

    def _dropped_by(self, end: _Open, exchange: Exchange, record: Record, over: bool) -> str | None:
        """Return the option that drops a record; empty if none does, ``None`` if that is open."""
        if end.dropped:
            return end.dropped
        view = View(exchange, end.role, (record,), over)
        open_ = False
        for option, condition in self._conditions:
            holds = condition.evaluate(view)
            if holds is False:
                return option
            open_ = open_ or holds is None
        return None if open_ else ""

    def _forget(self, key: Key) -> _Open | None:
        end = self._decided.pop(key, None)
        if end is not None:
            self._decided_held -= end.size
        return end


def filtered(records: Iterable[Record], wanted: Filter) -> Iterator[Record]:
    """Yield those of ``records`` that are wanted."""
    for record in records:
        yield from wanted.feed(record)
    yield from wanted.finish()
