"""Which records are wanted: the filters applied to finished messages.

The rule: what is about an exchange - its method, host, path, status, headers, latency -
keeps or drops request and responses together, as one process saw them; what is about one
message - who moved it, which way, between which ends - is asked of each by itself.
So a record waits until its exchange is decided: as soon as one filter cannot be
satisfied any more, or all of them are. Filters that the request satisfies hold nothing up.

What waits is bounded. Beyond that the exchange that has waited for longest is decided by
what is known of it, and so is what still waits at the end: a filter that has no answer
then is not satisfied, so it is left out, with what comes of it later.

It takes nothing but records: a live capture, a replay and the commands that read lines
use the same object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator

from profiler.exchanges.criteria import Known, exchange_tests, is_final, message_tests
from profiler.exchanges.filters import Filters
from profiler.ingest.record import Record

WAITING_MAX = 10_000
"""Exchanges that wait at once."""

WAITING_BYTES = 64 * 1024 * 1024
"""What they hold."""

# What a record holds besides its bodies, about.
_RECORD_BYTES = 4096
# Those that are decided and may still go on: a number for each, so there may be more.
_DECIDED_MAX = 65_536


class _Exchange:
    """One that is not over."""

    __slots__ = ("answered", "asked", "held", "size", "unsatisfied", "wanted")

    def __init__(self) -> None:
        self.held: list[Record] = []
        self.size = 0
        self.asked = self.answered = False
        """Request and final response are there."""
        self.wanted: bool | None = None
        self.unsatisfied = ""
        """The filter because of which it is not wanted."""

    @property
    def over(self) -> bool:
        return self.asked and self.answered

    def add(self, record: Record) -> None:
        if record["type"] == "request":
            self.asked = True
        elif is_final(record):
            self.answered = True


class Selection:
    """Takes records in the order of their lines, gives back those that are wanted."""

    def __init__(
        self,
        filters: Filters,
        applied: Collection[str] = (),
        *,
        waiting_max: int = WAITING_MAX,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        """``applied`` are the filters that need not be applied again: the kernel has."""
        left = [name for name in filters.given() if name not in applied]
        of_messages, of_exchanges = message_tests(filters), exchange_tests(filters)
        self._of_messages = [(name, of_messages[name]) for name in left if name in of_messages]
        self._of_exchanges = [(name, of_exchanges[name]) for name in left if name in of_exchanges]
        self._waiting_max = waiting_max
        self._waiting_bytes = waiting_bytes
        self._held = 0
        # Oldest first.
        self._waiting: OrderedDict[object, _Exchange] = OrderedDict()
        self._decided: OrderedDict[object, _Exchange] = OrderedDict()
        self.dropped: dict[str, int] = {}
        """Filter -> messages that did not satisfy it."""
        self.given_up = 0
        """Exchanges that were decided before they were over, since too much waited."""

    def feed(self, record: Record) -> list[Record]:
        """Take a record; return what is wanted of it and of those that waited."""
        if not self._of_exchanges:
            return self._wanted([record])
        if "exchange" not in record:
            # Nothing tells which request it answers, so it is all there is.
            alone = _Exchange()
            alone.held.append(record)
            self._judge(alone, over=True)
            return self._answer(alone, [record])
        return self._in_exchange(record)

    def finish(self) -> Iterator[Record]:
        """The capture is over: decide what still waits, and yield what is wanted of it."""
        while self._waiting:
            yield from self._decide_oldest()

    def _in_exchange(self, record: Record) -> list[Record]:
        key = record["exchange"], record.get("netns"), record.get("role")
        exchange = self._waiting.get(key) or self._decided.get(key)
        before: list[Record] = []
        if exchange is not None and exchange.asked and record["type"] == "request":
            # A socket's number has come again: nothing more comes of the other one.
            before = self._end(key, exchange)
            exchange = None
        if exchange is None:
            exchange = self._waiting[key] = _Exchange()
        exchange.add(record)
        if exchange.wanted is not None:
            wanted = self._answer(exchange, [record])
        else:
            self._hold(exchange, record)
            self._judge(exchange, over=exchange.over)
            wanted = self._release(key, exchange)
        if exchange.over:
            self._decided.pop(key, None)
        return [*before, *wanted, *self._within_bounds()]

    def _hold(self, exchange: _Exchange, record: Record) -> None:
        size = _RECORD_BYTES + len(record.get("raw_payload", "")) + len(record.get("body", ""))
        exchange.held.append(record)
        exchange.size += size
        self._held += size

    def _judge(self, exchange: _Exchange, over: bool) -> None:
        """Decide an exchange, if that can be done yet; it can if it is ``over``."""
        request = next((each for each in exchange.held if each["type"] == "request"), None)
        responses = tuple(each for each in exchange.held if each["type"] == "response")
        known = Known(request, responses)
        open_ = False
        for name, test in self._of_exchanges:
            satisfied = test(known)
            if satisfied is False or (satisfied is None and over):
                exchange.wanted, exchange.unsatisfied = False, name
                return
            open_ = open_ or satisfied is None
        exchange.wanted = None if open_ else True

    def _release(self, key: object, exchange: _Exchange) -> list[Record]:
        """What waits of an exchange, if it is decided."""
        if exchange.wanted is None:
            return []
        del self._waiting[key]
        self._held -= exchange.size
        self._decided[key] = exchange
        if len(self._decided) > _DECIDED_MAX:
            self._decided.popitem(last=False)
        held, exchange.held = exchange.held, []
        return self._answer(exchange, held)

    def _end(self, key: object, exchange: _Exchange) -> list[Record]:
        """Nothing more comes of an exchange."""
        records: list[Record] = []
        if exchange.wanted is None:
            self._judge(exchange, over=True)
            records = self._release(key, exchange)
        self._decided.pop(key, None)
        return records

    def _within_bounds(self) -> list[Record]:
        records: list[Record] = []
        while len(self._waiting) > self._waiting_max or self._held > self._waiting_bytes:
            self.given_up += 1
            records += self._decide_oldest()
        return records

    def _decide_oldest(self) -> list[Record]:
        key, exchange = next(iter(self._waiting.items()))
        self._judge(exchange, over=True)
        return self._release(key, exchange)

    def _answer(self, exchange: _Exchange, records: list[Record]) -> list[Record]:
        if exchange.wanted:
            return self._wanted(records)
        self._drop(exchange.unsatisfied, len(records))
        return []

    def _wanted(self, records: list[Record]) -> list[Record]:
        wanted = []
        for record in records:
            for name, test in self._of_messages:
                if not test(record):
                    self._drop(name, 1)
                    break
            else:
                wanted.append(record)
        return wanted

    def _drop(self, name: str, messages: int) -> None:
        self.dropped[name] = self.dropped.get(name, 0) + messages


def selected(records: Iterable[Record], selection: Selection) -> Iterator[Record]:
    """Yield those of ``records`` that are wanted."""
    for record in records:
        yield from selection.feed(record)
    yield from selection.finish()


def left_out(dropped: dict[str, int], given_up: int) -> list[str]:
    """What the user has to know of a selection, as lines."""
    lines = []
    if dropped:
        reasons = ", ".join(
            f"--{name.replace('_', '-')} {number}" for name, number in dropped.items()
        )
        lines.append(f"left out {sum(dropped.values())} messages ({reasons})")
    if given_up:
        lines.append(
            f"{given_up} exchanges were left out before they were over, since too many waited: "
            "they may have been wanted"
        )
    return lines
