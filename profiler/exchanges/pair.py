# SPDX-License-Identifier: Apache-2.0
"""Pairs records: a request with its responses, and what both ends saw of them.

This is the only place that does so. Three rules decide:

- Records of one *end* share ``exchange``, ``netns`` and ``role``, in any order. A socket's number
  can be reused: a second request, or a second final response, belongs to another exchange. - Two
  ends are joined by ``connection``, ``type`` and ``sequence`` of a message. Without a ``sequence``
  (Unix sockets, ``--engine bpftrace``), two requests are the same if connection, number, method and
  target are equal, and the server saw its request while the client waited. The number alone does
  not suffice: it counts what an end saw, and the two ends may have seen different messages. - An
  exchange is *over* when each end that was seen has its response, or when none can follow.

:class:`Pairing` works while records arrive, in bounded memory. :class:`Exchanges` works on all
records of a capture, which it keeps in a file.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from sys import getsizeof
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar, cast

import orjson

from profiler.errors import OutputError
from profiler.exchanges.model import Exchange, Side, is_final, nanoseconds

if TYPE_CHECKING:
    from profiler.schema import CutRecord, Record

GRACE = 500_000_000
"""How long a finished exchange waits for late messages, in nanoseconds."""
PATIENCE = 5_000_000_000
"""The time after which a request without a response is reported as waiting, in nanoseconds."""
UPLOAD = 60_000_000_000
"""How long an early response waits for the end of its request, where each side counts alone."""
OPEN_MAX = 10_000
"""Exchanges that are open at once."""
HELD_MAX = 64 * 1024 * 1024
"""Bytes of memory that their records take."""

_DONE_MAX = 20_000
# Entries of a queue after which those of exchanges that are over are removed.
_QUEUE_MAX = 2 * OPEN_MAX
# What an open exchange takes besides its records, with its keys and its places in tables.
_OPEN_SIZE = 1000
# After these, no more of the request follows, and so no response, except an early one.
_BROKEN = frozenset({"closed_early", "reset", "exited"})

Key = tuple[object, ...]
State = Literal["over", "waiting", "late"]
Kept = TypeVar("Kept")
"""How a record is kept: the record itself, or its place in a file."""


def key_of(record: Record) -> Key | None:
    """Return what the records of one end share; ``None`` for a record that stands alone."""
    if "exchange" not in record:
        return None
    return record["exchange"], record.get("netns"), record.get("role", "client")


def size_of(record: Record) -> int:
    """Return the bytes of memory that a record takes, with everything in it."""
    size = getsizeof(record)
    for value in record.values():
        size += getsizeof(value)
        if isinstance(value, dict):
            for name, inner in value.items():
                size += getsizeof(name) + getsizeof(inner)
                if isinstance(inner, list):
                    size += sum(map(getsizeof, inner))
        elif isinstance(value, list):
            size += sum(map(getsizeof, value))
    return size


class End(Generic[Kept]):
    """What one process has seen of an exchange so far."""

    __slots__ = ("interim", "request", "response")

    def __init__(self) -> None:
        self.request: Kept | None = None
        self.interim: list[Kept] = []
        self.response: Kept | None = None

    def takes(self, record: Record) -> bool:
        """Whether a record can belong to this exchange: its place is free."""
        if record["type"] == "request":
            return self.request is None
        return self.response is None or not is_final(record)

    def put(self, record: Record, kept: Kept) -> None:
        """Take a record."""
        if record["type"] == "request":
            self.request = kept
        elif is_final(record):
            self.response = kept
        else:
            self.interim.append(kept)

    @property
    def is_whole(self) -> bool:
        """Whether request and final response were seen."""
        return self.request is not None and self.response is not None


class Paired(NamedTuple):
    """An exchange and its state.

    ``over``: nothing more follows. ``waiting``: its request waits for a response. ``late``: an
    incomplete message of an exchange that was over before.
    """

    exchange: Exchange
    state: State


class _Open(End[Kept]):
    """An end, and its link to the other one."""

    __slots__ = (
        "end", "first", "is_broken", "is_graced", "is_local", "is_sure", "key", "other", "role",
        "shared", "size", "state",
    )  # fmt: skip

    def __init__(self, key: Key, role: str, time: int) -> None:
        super().__init__()
        self.key = key
        self.role = role
        self.first = self.end = time
        """Times of its first and its last record."""
        self.shared: tuple[Key, ...] = ()
        """The keys by which the other end can find it."""
        self.other: _Open[Kept] | None = None
        self.is_broken = self.is_local = self.is_graced = False
        self.is_sure = True
        """Whether the other end was joined by a sequence number."""
        self.state = ""
        self.size = 0


class _Joined(Generic[Kept]):
    """Finds for each record its end, and for each end the other one."""

    def __init__(self) -> None:
        self.open: OrderedDict[Key, _Open[Kept]] = OrderedDict()
        self._by_message: dict[Key, _Open[Kept]] = {}

    def add(self, end: _Open[Kept], record: Record, kept: Kept) -> None:
        time = nanoseconds(record["timestamp"])
        end.first, end.end = min(end.first, time), max(end.end, time)
        end.put(record, kept)
        if record["type"] == "request":
            end.is_broken = not _BROKEN.isdisjoint(record.get("incomplete", ()))
        else:
            source = record.get("source_ip")
            # A sequence number proves that the other end is on this machine.
            end.is_local = source in (None, record.get("dest_ip")) or source[:4] == "127."
        shared = shared_key(record, end.role)
        if end.other is None and shared is not None:
            self._join(end, shared)

    def _join(self, end: _Open[Kept], shared: Key) -> None:
        other = self._by_message.get(other_key(shared))
        is_sure = len(shared) == 4
        if other is None or other.other is not None or not (is_sure or _overlap(end, other)):
            self._by_message[shared] = end
            end.shared += (shared,)
        else:
            del self._by_message[other_key(shared)]
            end.other, other.other = other, end
            end.is_sure = other.is_sure = is_sure
            end.state = other.state

    def forget(self, end: _Open[Kept]) -> None:
        """Stop looking for the other end."""
        if self.open.get(end.key) is end:
            del self.open[end.key]
        for shared in end.shared:
            if self._by_message.get(shared) is end:
                del self._by_message[shared]


def shared_key(record: Record, role: str) -> Key | None:
    """Return a key that both ends share for a message, and which end this is."""
    # Captures from old versions have only addresses.
    connection: object = record.get("connection") or frozenset(
        ((record.get("source_ip"), record.get("source_port")),
         (record.get("dest_ip"), record.get("dest_port")))
    )  # fmt: skip
    sequence = record.get("sequence")
    if sequence is not None and "connection" in record:
        return connection, record["type"], sequence, role
    if record["type"] != "request" or "exchange" not in record:
        return None
    number = record["exchange"].rpartition("-")[2]
    # The keys outlive their records, so they have a hash instead of a long target.
    return connection, number, hash((record.get("method"), record.get("url"))), "", role


def other_key(shared: Key) -> Key:
    """Return the key of the same message at the other end."""
    return (*shared[:-1], "server" if shared[-1] == "client" else "client")


def _overlap(end: _Open[Kept], other: _Open[Kept]) -> bool:
    """Whether the server saw its request while the client waited."""
    client, server = (end, other) if end.role == "client" else (other, end)
    return client.first <= server.first and (client.response is None or server.first <= client.end)


_Queue = deque[tuple[int, "_Open[Record]"]]
"""Times, and the ends to look at then."""


class Pairing:
    """Takes records in the order in which they were written; returns exchanges that are over.

    A finished exchange waits :data:`GRACE` for the response at the other end, for the other end
    itself if both have one address, and for the request after an early response. A request that
    waits longer than :data:`PATIENCE` is reported before it is over. After an exchange is over,
    messages of the other end are ignored, unless they are incomplete.
    """

    def __init__(self, max_body: int) -> None:
        """Keep ``max_body`` characters of each body, and no ``raw_payload``."""
        self._max_body = max_body
        self._joined: _Joined[Record] = _Joined()
        # Exchanges that are over -> whether their request was known.
        self._done: OrderedDict[Key, bool] = OrderedDict()
        self._graced: _Queue = deque()
        self._asked: _Queue = deque()
        self.held = 0
        """Bytes of memory that open exchanges take, with their records."""
        self.now = 0
        """The latest time seen so far, nanoseconds since 1970."""

    def add(self, record: Record) -> list[Paired]:
        """Take a record; return the exchanges to report now."""
        record = without_payload(record, self._max_body)
        self.now = max(self.now, nanoseconds(record["timestamp"]))
        found = self._add(record)
        if self._graced or self._asked or self._is_full:
            found += self.expire(self.now)
        return found

    def expire(self, now: int) -> list[Paired]:
        """Return the exchanges that have waited long enough; ``now`` is nanoseconds since 1970."""
        self.now = max(self.now, now)
        found = []
        while self._graced and self._graced[0][0] <= self.now:
            end = self._graced.popleft()[1]
            if end.state != "over":
                found.append(self._end(end))
        while self._asked and self._asked[0][0] <= self.now:
            end = self._asked.popleft()[1]
            if not end.state and end.response is None:
                found.append(Paired(_exchange(end), "waiting"))
                end.state = "waiting"
                if end.other is not None:
                    end.other.state = "waiting"
        while self._is_full:
            found.append(self._end_oldest())
        return found

    def finish(self) -> list[Paired]:
        """Return the exchanges still open: no more records follow."""
        found = []
        while self._joined.open:
            found.append(self._end_oldest())
        return found

    @property
    def _is_full(self) -> bool:
        return len(self._joined.open) > OPEN_MAX or self.held > HELD_MAX

    def _add(self, record: Record) -> list[Paired]:
        key, role = key_of(record), record.get("role", "client")
        if key is None:
            return [_alone(role, record, "over")]
        end = self._joined.open.get(key)
        found = []
        if end is not None and not end.takes(record):
            # The socket's number was reused.
            found.append(self._end(end))
            end = None
        elif end is None and record["type"] == "response" and key in self._done:
            return _late(role, record)
        if end is None:
            shared = shared_key(record, role)
            is_early = record["type"] == "request" and self._done.get(key) is False
            if is_early or (shared is not None and self._done.pop(shared, False)):
                # It ended with an early response, or at the other end.
                self._remember(key, True)
                return [*found, *_late(role, record)]
            end = self._joined.open[key] = _Open(key, role, self.now)
            end.size = _OPEN_SIZE
            self.held += _OPEN_SIZE
        self._joined.add(end, record, record)
        size = size_of(record)
        end.size += size
        self.held += size
        if record["type"] == "request" and end.response is None:
            self._queue(self._asked, PATIENCE, end)
        return found + self._settle(end)

    def _settle(self, end: _Open[Record]) -> list[Paired]:
        is_over = end.other.is_whole if end.other is not None else not end.is_local
        if end.is_whole and is_over:
            return [self._end(end)]
        if (end.response is not None or end.is_broken) and not end.is_graced:
            end.is_graced = True
            self._queue(self._graced, GRACE, end)
        return []

    def _queue(self, queue: _Queue, wait: int, end: _Open[Record]) -> None:
        """Append ``end``; at a high rate, most entries are of exchanges that are over."""
        queue.append((self.now + wait, end))
        if len(queue) > _QUEUE_MAX:
            left = [entry for entry in queue if entry[1].state != "over"]
            queue.clear()
            queue.extend(left)

    def _end_oldest(self) -> Paired:
        return self._end(next(iter(self._joined.open.values())))

    def _end(self, end: _Open[Record]) -> Paired:
        paired = Paired(_exchange(end), "over")
        for one in (end, end.other):
            if one is None:
                continue
            one.state = "over"
            self._joined.forget(one)
            self.held -= one.size
            self._remember(one.key, one.request is not None)
            # The queues still hold a reference to it.
            one.request = one.response = None
            one.interim = []
            if end.other is None:
                for shared in one.shared:
                    self._remember(other_key(shared), True)
        other, end.other = end.other, None
        if other is not None:
            other.other = None
        return paired

    def _remember(self, key: Key, request_is_known: bool) -> None:
        self._done[key] = request_is_known
        if len(self._done) > _DONE_MAX:
            self._done.popitem(last=False)


def without_payload(record: Record, max_body: int) -> CutRecord:
    """Return a copy without ``raw_payload``, and with ``max_body`` characters of its body."""
    kept = cast("CutRecord", {**record})
    kept.pop("raw_payload", None)
    kept.pop("raw_payload_encoding", None)
    body = kept.get("body", "")
    if len(body) > max_body:
        # Base64 may be cut only between groups of four characters.
        keep = max_body - (max_body % 4 if kept.get("body_encoding") == "base64" else 0)
        kept["body"], kept["body_length"] = body[:keep], len(body)
    return kept


def _exchange(end: _Open[Record]) -> Exchange:
    sides = {
        one.role: Side(one.request, tuple(one.interim), one.response)
        for one in (end, end.other)
        if one is not None
    }
    return Exchange(sides.get("client"), sides.get("server"))


def _alone(role: str, record: Record, state: State) -> Paired:
    end: End[Record] = End()
    end.put(record, record)
    side = Side(end.request, tuple(end.interim), end.response)
    return Paired(Exchange(side, None) if role == "client" else Exchange(None, side), state)


def _late(role: str, record: Record) -> list[Paired]:
    return [_alone(role, record, "late")] if "incomplete" in record else []


class Sides:
    """Takes records while they arrive; returns sides of exchanges that are over, each once.

    For outputs that have one entry for each end, such as spans. A side is over when it has its
    request and its final response. A request that broke off waits :data:`GRACE` for an early
    response. A response waits :data:`UPLOAD` for its request, which may still be arriving, or was
    left out by a filter.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Key, _OpenSide] = OrderedDict()
        # Times, keys, and the number of the side, because a key can be reused.
        self._graced: deque[tuple[int, Key, int]] = deque()
        self._early: deque[tuple[int, Key, int]] = deque()
        self._number = 0
        self._held = 0

    def add(self, record: Record, size: int, now: int) -> list[RoleSide]:
        """Take a record that holds ``size`` bytes of memory; return the sides that are over.

        ``now`` is nanoseconds of any clock.
        """
        key, role = key_of(record), record.get("role", "client")
        if key is None:
            alone = _OpenSide(role, 0)
            alone.put(record, record)
            return [alone.side]
        found = []
        end = self._open.get(key)
        if end is not None and not end.takes(record):
            # The socket's number was reused.
            found.append(self._end(key))
            end = None
        if end is None:
            self._number += 1
            end = self._open[key] = _OpenSide(role, self._number)
        end.put(record, record)
        end.size += size
        self._held += size
        if end.is_whole:
            found.append(self._end(key))
        elif end.response is not None:
            self._early.append((now + UPLOAD, key, end.number))
        elif not _BROKEN.isdisjoint(record.get("incomplete", ())):
            self._graced.append((now + GRACE, key, end.number))
        while len(self._open) > OPEN_MAX or self._held > HELD_MAX:
            found.append(self._end(next(iter(self._open))))
        return found

    def expire(self, now: int) -> list[RoleSide]:
        """Return the sides that have waited long enough."""
        found = []
        for queue in (self._graced, self._early):
            while queue and queue[0][0] <= now:
                _, key, number = queue.popleft()
                end = self._open.get(key)
                if end is not None and end.number == number:
                    found.append(self._end(key))
        return found

    def finish(self) -> list[RoleSide]:
        """Return the sides that are still open: no more records follow."""
        return [self._end(key) for key in list(self._open)]

    def _end(self, key: Key) -> RoleSide:
        end = self._open.pop(key)
        self._held -= end.size
        return end.side


class _OpenSide(End["Record"]):
    __slots__ = ("number", "role", "size")

    def __init__(self, role: str, number: int) -> None:
        super().__init__()
        self.role = role
        self.number = number
        self.size = 0

    @property
    def side(self) -> RoleSide:
        return RoleSide(self.role, Side(self.request, tuple(self.interim), self.response))


class RoleSide(NamedTuple):
    """A side, and whether it is the client's or the server's."""

    role: str
    side: Side


_Place = tuple[int, int]  # offset and size in the file


class Exchanges:
    """Collects the records of a capture, then yields their exchanges in order of time.

    Records wait in an unnamed file, so that an exchange takes only some hundred bytes of memory,
    however long its bodies are.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """Add ``records``. Raises OutputError if there is no room to keep them."""
        # A live capture pairs in memory and does not need this module.
        import tempfile

        # In /tmp, or the directory that TMPDIR names.
        self._file = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115
        self._size = 0
        self._joined: _Joined[_Place] = _Joined()
        self._all: list[_Open[_Place]] = []
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Add a record. Raises OutputError."""
        place = self._size, self._write(orjson.dumps(record))
        key = key_of(record) or (place,)
        end = self._joined.open.get(key)
        if end is None or not end.takes(record):
            role, time = record.get("role", "client"), nanoseconds(record["timestamp"])
            end = self._joined.open[key] = _Open(key, role, time)
            self._all.append(end)
        self._joined.add(end, record, place)

    def __len__(self) -> int:
        return sum(one.role == "client" or self._other(one) is None for one in self._all)

    def __iter__(self) -> Iterator[Exchange]:
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        for one in sorted(self._all, key=lambda one: one.first):
            other = self._other(one)
            if one.role == "client":
                yield Exchange(self._side(one), self._side(other) if other else None)
            elif other is None:
                yield Exchange(None, self._side(one))

    @staticmethod
    def _other(one: _Open[_Place]) -> _Open[_Place] | None:
        other = one.other
        # Lines need not be in order of time, so only now is it known when both ended.
        return other if other and (one.is_sure or _overlap(one, other)) else None

    def _side(self, end: _Open[_Place]) -> Side:
        request, response = (
            None if place is None else self._read(place) for place in (end.request, end.response)
        )
        return Side(request, tuple(map(self._read, end.interim)), response)

    def _write(self, line: bytes) -> int:
        try:
            self._file.write(line)
        except OSError as error:
            raise _no_room(error) from error
        self._size += len(line)
        return len(line)

    def _read(self, place: _Place) -> Record:
        offset, size = place
        return cast("Record", orjson.loads(os.pread(self._file.fileno(), size, offset)))


def _no_room(error: OSError) -> OutputError:
    import tempfile

    return OutputError(
        f"cannot keep the capture in {tempfile.gettempdir()}: {error.strerror}; "
        "free space there, or name another directory with TMPDIR"
    )
