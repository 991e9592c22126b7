"""Puts lines together to exchanges while they come: for who looks on.

The same rules as ``exchanges.py``, which has all lines at hand, within bounds of memory and
time. An exchange is told once, when it is over:

- with its response, at each end that was seen;
- without one, where there will be none: the request itself was broken off, the capture has
  ended, or more requests are open than can be kept.

What may yet come has ``GRACE``: the response at the other end, the other end itself where both
have one address, the request behind an early response.

A request that waits for more than ``PATIENCE`` is told before that, as one that waits.

What the other end says of an exchange that was told is left out, unless something is missing
of it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from profiler.exchanges.read import nanoseconds
from profiler.exchanges.store import Exchange, Side, is_interim
from profiler.ingest.record import Record

GRACE = 500_000_000
PATIENCE = 5_000_000_000
OPEN_MAX = 10_000
HELD_MAX = 64 * 1024 * 1024
_TOLD_MAX = 20_000
# Behind these no more of the request comes, and so, but for an early one, no response.
_BROKEN = frozenset({"closed_early", "reset", "exited"})

_Key = tuple[object, ...]


OVER, WAITS, LATE = "over", "waits", "late"


class Told(NamedTuple):
    """An exchange, and how it stands.

    ``OVER``: nothing more comes. ``WAITS``: its request waits for a response. ``LATE``: a message
    that is incomplete, of an exchange that was told before it.
    """

    exchange: Exchange
    state: str


class _End:
    """What one process has said and heard of an exchange so far."""

    __slots__ = (
        "held",
        "interim",
        "key",
        "other",
        "request",
        "response",
        "role",
        "shared",
        "state",
    )

    def __init__(self, role: str, key: _Key) -> None:
        self.role = role
        self.key = key
        self.shared: tuple[_Key, ...] = ()
        self.request: Record | None = None
        self.interim: tuple[Record, ...] = ()
        self.response: Record | None = None
        self.other: _End | None = None
        self.state = ""
        """``WAITS`` once that was told, ``OVER`` once this was; else empty."""
        self.held = 0

    def side(self) -> Side:
        return Side(self.request, self.interim, self.response)


class Pairing:
    """Takes records in the order in which they were written; gives what is to be told."""

    def __init__(self, max_body: int) -> None:
        """Keep ``max_body`` characters of each body, and no ``raw_payload``."""
        self._max_body = max_body
        self._open: OrderedDict[_Key, _End] = OrderedDict()
        self._ends: dict[_Key, _End] = {}
        # Exchanges that were told, and whether their request was known.
        self._told: OrderedDict[_Key, bool] = OrderedDict()
        self._graced: deque[tuple[int, _End]] = deque()
        self._asked: deque[tuple[int, _End]] = deque()
        self._held = 0
        self.now = 0
        """The latest time that was heard of, nanoseconds since 1970."""

    def add(self, record: Record) -> list[Told]:
        """Take a record; return what is to be told now."""
        record = self._kept(record)
        time = nanoseconds(record["timestamp"])
        if time > self.now:
            self.now = time
        told = self._add(record)
        if self._graced or self._asked or len(self._open) > OPEN_MAX:
            told += self.expire(self.now)
        return told

    def expire(self, now: int) -> list[Told]:
        """Return what has waited for long enough; ``now`` is nanoseconds since 1970."""
        self.now = max(self.now, now)
        told = []
        while self._graced and self._graced[0][0] <= self.now:
            end = self._graced.popleft()[1]
            if end.state != OVER:
                told.append(self._end(end))
        while self._asked and self._asked[0][0] <= self.now:
            end = self._asked.popleft()[1]
            if not end.state and end.response is None:
                told.append(Told(_exchange(end), WAITS))
                end.state = WAITS
                if end.other is not None:
                    end.other.state = WAITS
        while self._open and (len(self._open) > OPEN_MAX or self._held > HELD_MAX):
            told.append(self._end(next(iter(self._open.values()))))
        return told

    def finish(self) -> list[Told]:
        """Return what is still open: nothing more comes."""
        told = []
        while self._open:
            told.append(self._end(next(iter(self._open.values()))))
        return told

    def _add(self, record: Record) -> list[Told]:
        role = record.get("role", "client")
        if "exchange" not in record:
            return [_alone(role, record, OVER)]
        key: _Key = (record["exchange"], record.get("netns"), role)
        end = self._open.get(key)
        is_request = record["type"] == "request"
        told = []
        if end is not None and is_request and end.request is not None:
            # A number that comes again.
            told.append(self._end(end))
            end = None
        elif end is None and not is_request and key in self._told:
            return [_alone(role, record, LATE)] if "incomplete" in record else []
        if end is None:
            end = _End(role, key)
            shared = _shared(record, role)
            early = is_request and self._told.get(key) is False
            if early or (shared is not None and self._told.pop(shared, False)):
                # Of an exchange that was told: by an early response, or by the other end.
                self._remember(key, True)
                return [*told, *([_alone(role, record, LATE)] if "incomplete" in record else [])]
            self._open[key] = end
        else:
            shared = _shared(record, role)
        if end.other is None and shared is not None:
            self._join(end, shared)
        self._put(end, record)
        if is_request and end.response is None:
            self._asked.append((self.now + PATIENCE, end))
        return told + self._settle(end)

    def _put(self, end: _End, record: Record) -> None:
        if record["type"] == "request":
            end.request = record
        elif is_interim(record):
            end.interim += (record,)
        else:
            end.response = record
        # The objects of a record, the head, and what is kept of the body.
        held = 3000 + min(record.get("captured", 0), 65536) + len(record.get("body", ""))
        end.held += held
        self._held += held

    def _join(self, end: _End, shared: _Key) -> None:
        other = self._ends.get(_other(shared))
        if other is None or other.other is not None:
            self._ends[shared] = end
            end.shared += (shared,)
        else:
            end.other, other.other = other, end
            end.state = other.state

    def _settle(self, end: _End) -> list[Told]:
        if _is_complete(end) and (
            _is_complete(end.other) if end.other is not None else not _is_local(end.response)
        ):
            return [self._end(end)]
        if end.response is None and not _is_broken(end.request):
            return []
        self._graced.append((self.now + GRACE, end))
        return []

    def _end(self, end: _End) -> Told:
        told = Told(_exchange(end), OVER)
        for one in (end, end.other):
            if one is None:
                continue
            one.state = OVER
            self._open.pop(one.key, None)
            self._held -= one.held
            self._remember(one.key, one.request is not None)
            # The queues hold it for a while.
            one.request = one.response = None
            one.interim = ()
            for shared in one.shared:
                self._ends.pop(shared, None)
                if end.other is None:
                    self._remember(_other(shared), True)
        other, end.other = end.other, None
        if other is not None:
            other.other = None
        return told

    def _remember(self, key: _Key, request_is_known: bool) -> None:
        self._told[key] = request_is_known
        if len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)

    def _kept(self, record: Record) -> Record:
        kept = dict(record)
        kept.pop("raw_payload", None)
        kept.pop("raw_payload_encoding", None)
        body = kept.get("body", "")
        if len(body) > self._max_body:
            keep = self._max_body
            if kept.get("body_encoding") == "base64":
                keep -= keep % 4
            kept["body"], kept["body_length"] = body[:keep], len(body)
        return kept


def _exchange(end: _End) -> Exchange:
    client = end if end.role == "client" else end.other
    server = end if end.role == "server" else end.other
    return Exchange(client.side() if client else None, server.side() if server else None)


def _alone(role: str, record: Record, state: str) -> Told:
    is_request = record["type"] == "request"
    side = Side(record if is_request else None, (), None if is_request else record)
    return Told(Exchange(side, None) if role == "client" else Exchange(None, side), state)


def _shared(record: Record, role: str) -> _Key | None:
    """Return what both ends call the message, and which end this is."""
    connection = record.get("connection")
    if connection is None:
        return None
    sequence = record.get("sequence")
    if sequence is not None:
        return connection, record["type"], sequence, role
    if record["type"] != "request":
        return None
    number = record["exchange"].rpartition("-")[2]
    return connection, number, record.get("method"), record.get("url"), role


def _other(shared: _Key) -> _Key:
    return (*shared[:-1], "server" if shared[-1] == "client" else "client")


def _is_broken(request: Record | None) -> bool:
    return request is not None and not _BROKEN.isdisjoint(request.get("incomplete", ()))


def _is_complete(end: _End) -> bool:
    return end.request is not None and end.response is not None


def _is_local(record: Record | None) -> bool:
    """Whether the other end is surely on this machine."""
    if record is None:
        return False
    source = record.get("source_ip")
    return source is None or source == record.get("dest_ip") or source.startswith("127.")
