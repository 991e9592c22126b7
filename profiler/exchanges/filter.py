# SPDX-License-Identifier: Apache-2.0
"""Filters records: applies conditions to records as they arrive.

A condition about an exchange keeps or drops the request and responses together, as one process saw
them. A condition about a message (its process, direction or addresses) decides on each message
separately. So a record waits until its conditions are decided: until one can no longer hold, or all
hold. A condition that the request decides delays nothing.

The waiting records are bounded. Beyond the limit, the exchange that has waited longest is decided
with what is known about it. The same happens to all waiting exchanges at the end. A condition that
depends on more then does not hold.

The filter needs nothing but records: live captures, replays and commands that read capture files
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

# The share of the memory for decided exchanges that may still get messages.
_DECIDED_SHARE = 4
# Each record evaluates all of them, so they are bounded, or a peer could make that take forever.
_INTERIM_MAX = 20


class _Open(End["Record"]):
    """What one process has seen of an exchange that has not ended."""

    __slots__ = ("dropped", "held", "role", "size")

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role
        self.held: list[Record] = []
        """Its waiting records, in the order of their lines."""
        self.size = 0
        self.dropped = ""
        """The option that dropped it before it ended."""

    def put(self, record: Record, kept: Record) -> None:
        """Take a record. If there are more interim responses than any server sends, the oldest are
        kept.
        """
        super().put(record, kept)
        del self.interim[_INTERIM_MAX:]

    def exchange(self) -> Exchange:
        side = Side(self.request, tuple(self.interim), self.response)
        return Exchange(side, None) if self.role == "client" else Exchange(None, side)


class Filter:
    """Takes records in the order of their lines, and returns those that match."""

    def __init__(
        self, conditions: Conditions, *, open_max: int = OPEN_MAX, held_max: int = HELD_MAX
    ) -> None:
        """At most ``open_max`` exchanges wait, and they hold at most ``held_max`` bytes."""
        self._conditions = conditions.named
        self._open_max = open_max
        self._held_max = held_max
        self._held = self._decided_held = 0
        # Oldest first.
        self._waiting: OrderedDict[Key, _Open] = OrderedDict()
        self._decided: OrderedDict[Key, _Open] = OrderedDict()
        self.sockets: dict[int, int] = {}
        """Socket, as ``exchange`` begins with it -> number of its exchanges that are known."""
        self.dropped: dict[str, int] = {}
        """Option -> number of messages that it dropped."""
        self.given_up = 0
        """Exchanges that were decided before they ended, because too many were waiting."""

    def feed(self, record: Record) -> list[Record]:
        """Take a record; return those records, new or waiting, that are now known to match."""
        if not self._conditions:
            return [record]
        key, role = key_of(record), record.get("role", "client")
        if key is None:
            # Nothing identifies its exchange, so it stands alone.
            alone = _Open(role)
            alone.put(record, record)
            return self._decide(alone, [record], over=True) or []
        wanted: list[Record] = []
        end = self._resumed(key)
        if end is not None and not end.takes(record):
            # The socket's number was reused: nothing more of the earlier exchange follows.
            wanted += self._release(key, end, over=True)
            self._forget(key)
            end = None
        if end is None:
            end = self._begin(key, role)
        end.put(record, record)
        end.held.append(record)
        size = size_of(record)
        end.size += size
        self._held += size
        wanted += self._release(key, end, over=end.is_whole)
        while len(self._waiting) > self._open_max or self._held > self._held_max:
            self.given_up += 1
            wanted += self._decide_oldest()
        self._bound_decided()
        return wanted

    def resume(self, request: Record, is_open: bool) -> list[Record]:
        """Continue an exchange whose request was fed elsewhere, to a filter of these conditions.

        ``is_open``: it waits for its response. Return records as :meth:`feed`.
        """
        key, role = key_of(request), request.get("role", "client")
        if is_open or key is None:
            return self.feed(request)
        end = self._begin(key, role)
        end.put(request, request)
        del self._waiting[key]
        self._keep_heads(key, end)
        self._bound_decided()
        return []

    @property
    def held(self) -> int:
        """Bytes of memory of the waiting records, and of the heads of decided exchanges."""
        return self._held + self._decided_held

    def finish(self) -> Iterator[Record]:
        """The capture has ended: decide all waiting records, and yield those that match."""
        while self._waiting:
            yield from self._decide_oldest()

    def _decide_oldest(self) -> list[Record]:
        key, end = next(iter(self._waiting.items()))
        return self._release(key, end, over=True)

    def _resumed(self, key: Key) -> _Open | None:
        """Return what is known about an end; it waits again if it was already decided."""
        end = self._pop_decided(key)
        if end is not None:
            self._waiting[key] = end
            self._held += end.size
        return end or self._waiting.get(key)

    def _begin(self, key: Key, role: str) -> _Open:
        end = self._waiting[key] = _Open(role)
        socket = _socket_of(key)
        self.sockets[socket] = self.sockets.get(socket, 0) + 1
        return end

    def _release(self, key: Key, end: _Open, over: bool) -> list[Record]:
        """Return the waiting records that match, if they are decided.

        The heads are kept, to decide on later messages of the end.
        """
        wanted = self._decide(end, end.held, over)
        if wanted is None:
            return []
        del self._waiting[key]
        self._held -= end.size
        if end.is_whole:
            self._leave(key)
        else:
            self._keep_heads(key, end)
        return wanted

    def _keep_heads(self, key: Key, end: _Open) -> None:
        """Keep what later messages of a decided exchange need."""
        end.held = []
        if end.request is not None:
            end.request = without_payload(end.request, 0)
        end.interim = [without_payload(record, 0) for record in end.interim]
        if end.response is not None:
            end.response = without_payload(end.response, 0)
        end.size = sum(map(size_of, end.exchange().side.records))
        self._decided[key] = end
        self._decided_held += end.size

    def _bound_decided(self) -> None:
        decided_max = self._held_max // _DECIDED_SHARE
        while self._decided_held > decided_max:
            # Later messages of this exchange are then decided separately.
            self._forget(next(iter(self._decided)))

    def _decide(self, end: _Open, records: list[Record], over: bool) -> list[Record] | None:
        """Return the records of an end that match; ``None`` while that is not known."""
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
        """Return the option that drops a record; empty if none does, ``None`` if undecided."""
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

    def _forget(self, key: Key) -> None:
        if self._pop_decided(key) is not None:
            self._leave(key)

    def _pop_decided(self, key: Key) -> _Open | None:
        end = self._decided.pop(key, None)
        if end is not None:
            self._decided_held -= end.size
        return end

    def _leave(self, key: Key) -> None:
        socket = _socket_of(key)
        self.sockets[socket] -= 1
        if not self.sockets[socket]:
            del self.sockets[socket]


def _socket_of(key: Key) -> int:
    """Return the socket of an exchange; -1 if a capture file has another form of it."""
    socket = str(key[0]).partition("-")[0]
    return int(socket) if socket.isascii() and socket.isdigit() and len(socket) < 21 else -1


def filtered(records: Iterable[Record], wanted: Filter) -> Iterator[Record]:
    """Yield the ``records`` that match."""
    for record in records:
        yield from wanted.feed(record)
    yield from wanted.finish()
