# SPDX-License-Identifier: Apache-2.0
"""The data of ``top``: groups of exchanges with their figures, and the latest exchanges of each.

Everything is bounded. Each kind keeps the ``GROUPS_MAX`` groups that were active last, and each
group its last ``LATEST`` exchanges. Headers and bodies are kept up to ``HELD_MAX`` bytes of memory
in all; the oldest are dropped first, and only the first ``_NAME_MAX`` characters of their columns
are left. A paused view keeps what it shows, so then there may be twice as much.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from sys import getsizeof

from profiler.exchanges.endpoint import endpoint
from profiler.exchanges.latencies import Latencies
from profiler.exchanges.model import Exchange, Side, local, remote
from profiler.exchanges.pair import Paired, size_of
from profiler.exchanges.redact import Redactor
from profiler.exchanges.summary import Summary, summary

KINDS = ("endpoint", "process", "connection")
GROUPS_MAX = 1000
LATEST = 50
HELD_MAX = 32 * 1024 * 1024
WINDOW = 10
_SECOND = 1_000_000_000
_NAME_MAX = 300
# What an entry takes besides its records and its columns.
_ENTRY_SIZE = 500


class Entry:
    """A listed exchange; ``exchange`` is ``None`` once it has been dropped."""

    __slots__ = ("exchange", "groups", "held", "number", "seen")

    def __init__(self, number: int, seen: Summary, exchange: Exchange) -> None:
        self.number = number
        self.seen = seen
        self.exchange: Exchange | None = exchange
        self.groups = 0
        """The number of groups that list it among their latest."""
        self.held = _ENTRY_SIZE + sum(map(getsizeof, seen))
        self.held += sum(size_of(record) for side in exchange.sides for record in side.records)


class Group:
    """Exchanges that have something in common."""

    __slots__ = (
        "bytes",
        "count",
        "failed",
        "key",
        "latencies",
        "latest",
        "name",
        "pids",
        "refused",
        "seconds",
    )

    def __init__(self, key: object, name: str) -> None:
        self.key = key
        self.name = name
        self.count = 0
        self.refused = 0
        """Responses with a status of 4xx."""
        self.failed = 0
        """Exchanges that failed (``exchanges/model.py``)."""
        self.bytes = 0
        self.latencies = Latencies()
        self.latest: deque[Entry] = deque()
        self.pids: set[int] = set()
        """Process ids, for a group of a process; at most 100."""
        # Exchanges per second: a ring indexed by the second modulo its size.
        self.seconds = [(0, 0)] * (WINDOW + 2)

    def add(self, seen: Summary, size: int, latency: float | None, second: int) -> None:
        """Count an exchange, in ``second`` since 1970."""
        self.count += 1
        self.bytes += size
        if seen.outcome == "failed":
            self.failed += 1
        elif 400 <= (seen.status or 0) < 500:
            self.refused += 1
        if latency is not None:
            self.latencies.add(latency)
        place = second % len(self.seconds)
        when, count = self.seconds[place]
        self.seconds[place] = (second, count + 1 if when == second else 1)

    def recent(self, second: int) -> int:
        """Return how many there were in the ``WINDOW`` whole seconds before ``second``."""
        return sum(count for when, count in self.seconds if second - WINDOW <= when < second)


class Model:
    """Takes exchanges as they are reported, and keeps the figures and the latest of them."""

    def __init__(self, redactor: Redactor | None, is_live: bool) -> None:
        """The rate of a live capture covers the last seconds, that of a file all of it."""
        self.redactor = redactor
        self.is_live = is_live
        self.now = 0
        """Nanoseconds since 1970."""
        self.clear()

    def clear(self) -> None:
        """Start again from nothing."""
        self.all = Group(None, "all")
        self.groups: dict[str, OrderedDict[object, Group]] = {kind: OrderedDict() for kind in KINDS}
        self.left_out = Counter[str]()
        """Groups of each kind that are no longer kept."""
        self.incomplete = Counter[str]()
        """Incomplete messages, by reason."""
        self._first: int | None = None
        self._kept: OrderedDict[int, Entry] = OrderedDict()
        self._held = 0

    def add(self, paired: Paired) -> None:
        """Take an exchange."""
        exchange = paired.exchange
        if paired.state == "waiting":
            return
        for side in exchange.sides:
            for record in side.records:
                self.incomplete.update(record.get("incomplete", ()))
        if paired.state == "late":
            return
        seen = summary(paired, self.redactor)
        self.now = max(self.now, seen.time)
        if self._first is None or seen.time < self._first:
            self._first = seen.time
        entry = Entry(self.all.count, seen, exchange)
        self._kept[entry.number] = entry
        self._held += entry.held
        second = self.now // _SECOND
        size = sum(record.get("bytes", 0) for record in exchange.side.records)
        self.all.add(seen, size, seen.latency, second)
        self._list(self.all, entry)
        for kind, key, name, side in _groups_of(exchange, seen):
            group = self._group(kind, key, name)
            response = side.response
            group.add(seen, size, response.get("latency_ms") if response else None, second)
            if kind == "process" and len(group.pids) < 100:
                group.pids.add(side.records[0].get("pid", 0))
            self._list(group, entry)
        while self._held > HELD_MAX:
            self._forget(next(iter(self._kept.values())))

    def rate(self, group: Group) -> float:
        """Return exchanges per second."""
        second, first = self.now // _SECOND, (self._first or 0) // _SECOND
        if self.is_live:
            return group.recent(second) / min(max(second - first, 1), WINDOW)
        return group.count / max((self.now - (self._first or 0)) / _SECOND, 1.0)

    def frozen(self) -> Model:
        """Return a copy that no longer changes."""
        entries: dict[int, Entry] = {}

        def still(group: Group) -> Group:
            one = copy.copy(group)
            one.latencies = group.latencies.copy()
            one.seconds = list(group.seconds)
            one.latest = deque(
                entries.setdefault(entry.number, copy.copy(entry)) for entry in group.latest
            )
            return one

        frozen = copy.copy(self)
        frozen.all = still(self.all)
        frozen.groups = {
            kind: OrderedDict((key, still(group)) for key, group in groups.items())
            for kind, groups in self.groups.items()
        }
        frozen.incomplete, frozen.left_out = self.incomplete.copy(), self.left_out.copy()
        return frozen

    def _group(self, kind: str, key: object, name: str) -> Group:
        groups = self.groups[kind]
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(key, name)
            if len(groups) > GROUPS_MAX:
                self.left_out[kind] += 1
                for entry in groups.popitem(last=False)[1].latest:
                    self._unlist(entry)
        else:
            groups.move_to_end(key)
        return group

    def _list(self, group: Group, entry: Entry) -> None:
        group.latest.append(entry)
        entry.groups += 1
        if len(group.latest) > LATEST:
            self._unlist(group.latest.popleft())

    def _unlist(self, entry: Entry) -> None:
        entry.groups -= 1
        if not entry.groups and entry.exchange is not None:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        del self._kept[entry.number]
        self._held -= entry.held
        entry.exchange = None
        # Only its line is left, which shows no more than this of a long text.
        seen = entry.seen
        entry.seen = seen._replace(
            method=seen.method[:_NAME_MAX],
            host=seen.host[:_NAME_MAX],
            target=seen.target[:_NAME_MAX],
        )


def _groups_of(exchange: Exchange, seen: Summary) -> Iterator[tuple[str, object, str, Side]]:
    """Yield kind, key and name of each group, and the side whose figures it counts."""
    first = exchange.first
    asked = endpoint(exchange)[:_NAME_MAX]
    yield "endpoint", asked, asked, exchange.side
    for role, side, name in (
        ("client", exchange.client, seen.client),
        ("server", exchange.server, seen.server),
    ):
        if side is not None:
            name = f"{name or '?'} ({role})"[:_NAME_MAX]
            yield "process", name, name, side
    link = first.get("connection") or (first.get("netns"), first.get("socket"))
    ends = f"{seen.client or ''} {local(first) or ''} → {remote(first) or ''} {seen.server or ''}"
    yield "connection", link, ends.strip()[:_NAME_MAX], exchange.side
