"""Puts the lines of a capture together to exchanges: a request, its responses, both ends.

A line belongs with others of the same ``exchange`` at the same socket; they may come
in any order, and a socket's number may come again, of another boot or after four
billion sockets: a second request, or a second final response, is of another exchange.
What client and server said of one exchange is joined by ``connection`` and ``sequence``
of the request (of the response where the request was not seen). Where there is no
``sequence`` (Unix sockets, ``--engine bpftrace``) requests are taken for one if they are
the same by connection, number, method and target, and the server's came while the
client waited: numbers are of what was seen, and the two ends may not have seen the same.

Records wait in a file without a name, so that memory holds a few hundred bytes of an
exchange, however long its bodies are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from profiler.errors import OutputError
from profiler.exchanges.read import nanoseconds
from profiler.ingest.record import Record

_Key = tuple[object, ...]
_Place = tuple[int, int]  # offset and size in the file


@dataclass(frozen=True)
class Side:
    """What one process said and heard of an exchange."""

    request: Record | None
    interim: tuple[Record, ...]
    """Responses before the last one: 1xx."""

    response: Record | None
    """The final response."""

    @property
    def records(self) -> tuple[Record, ...]:
        """All of them in the order of the exchange; at least one."""
        request = (self.request,) if self.request else ()
        return (*request, *self.interim, *((self.response,) if self.response else ()))


@dataclass(frozen=True)
class Exchange:
    """One request and what came of it, as seen from the client, the server or both."""

    client: Side | None
    server: Side | None

    @property
    def side(self) -> Side:
        """The client's, if it was seen: it has waited for all of it."""
        side = self.client or self.server
        assert side is not None, "an exchange has a record"
        return side

    @property
    def sides(self) -> tuple[Side, ...]:
        """The ends that were seen."""
        return tuple(side for side in (self.client, self.server) if side is not None)

    @property
    def asked(self) -> Record:
        """What is known of the request: its record, else what a response tells of it."""
        for side in self.sides:
            if side.request is not None:
                return side.request
        for side in self.sides:
            for response in (side.response, *side.interim):
                if response is not None and "request" in response:
                    request: Record = response["request"]
                    return request
        return {}

    @property
    def answered(self) -> Record | None:
        """The final response, from the client's side if it has one."""
        return next((side.response for side in self.sides if side.response is not None), None)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Why something of it is missing, at either end, each reason once."""
        reasons = (
            reason
            for side in self.sides
            for record in side.records
            for reason in record.get("incomplete", ())
        )
        return tuple(dict.fromkeys(reasons))


class _Open:
    """An exchange at one socket, as places in the file."""

    __slots__ = ("end", "final", "interim", "key", "other", "request", "role", "time")

    def __init__(self, role: str, time: int) -> None:
        self.role = role
        self.time = self.end = time
        self.key: _Key | None = None
        """What joins both ends where there is no sequence number."""
        self.request: _Place | None = None
        self.interim: tuple[_Place, ...] = ()
        self.final: _Place | None = None
        self.other: _Open | None = None
        """The other end; the server's is reached by the client's."""


class Exchanges:
    """Collects records, then yields their exchanges in the order of time."""

    def __init__(self) -> None:
        # The default is /tmp, or what TMPDIR names.
        self._file = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115
        self._size = 0
        self._open: dict[_Key, _Open] = {}
        self._all: list[_Open] = []
        self._ends: dict[_Key, _Open] = {}

    def add_all(self, records: Iterable[Record]) -> None:
        """Add records, which are all. Raises OutputError if there is no room to keep them."""
        for record in records:
            self.add(record)
        self.complete()

    def add(self, record: Record) -> None:
        """Add a record; behind the last one comes :meth:`complete`. Raises OutputError."""
        try:
            self._add(record)
        except OSError as error:
            raise _no_room(error) from error

    def complete(self) -> None:
        """Join what belongs together: there are no more records. Raises OutputError."""
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        self._join_without_sequence()

    def __len__(self) -> int:
        return sum(not self._is_joined(one) for one in self._all)

    def __iter__(self) -> Iterator[Exchange]:
        for one in sorted(self._all, key=lambda one: one.time):
            if self._is_joined(one):
                continue
            other = self._side(one.other) if one.other else None
            if one.role == "client":
                yield Exchange(self._side(one), other)
            else:
                yield Exchange(other, self._side(one))

    @staticmethod
    def _is_joined(one: _Open) -> bool:
        return one.role != "client" and one.other is not None

    def _add(self, record: Record) -> None:
        line = orjson.dumps(record)
        self._file.write(line)
        place = self._size, len(line)
        self._size += len(line)
        role = record.get("role", "client")
        if "exchange" in record:
            key: _Key = (record["exchange"], record.get("netns"), role)
            one = self._open.get(key)
        else:
            # Nothing tells which request it answers.
            key, one = (place,), None
        is_request = record["type"] == "request"
        if one is None or (one.request if is_request else one.final) is not None:
            one = _Open(role, nanoseconds(record["timestamp"]))
            self._all.append(one)
            if "exchange" in record:
                self._open[key] = one
        time = nanoseconds(record["timestamp"])
        one.time, one.end = min(one.time, time), max(one.end, time)
        if is_request:
            one.request = place
        elif is_interim(record):
            one.interim += (place,)
        else:
            one.final = place
        self._join(one, record)

    def _join(self, one: _Open, record: Record) -> None:
        if "sequence" not in record or "connection" not in record:
            if record["type"] == "request" and "exchange" in record:
                number = record["exchange"].rpartition("-")[2]
                one.key = (_link(record), number, record.get("method"), record.get("url"))
            return
        if one.other is not None:
            return
        key = (record["connection"], record["type"], record["sequence"])
        other = self._ends.get(key)
        if other is None or other.role == one.role:
            self._ends[key] = one
        elif other.other is None:
            del self._ends[key]
            one.other, other.other = other, one

    def _join_without_sequence(self) -> None:
        clients = {one.key: one for one in self._all if one.key and one.role == "client"}
        for one in self._all:
            client = clients.get(one.key) if one.key and one.role == "server" else None
            if (
                client is not None
                and client.other is None
                and one.other is None
                # A client without a response has no end, but nothing came after it either.
                and client.time <= one.time
                and (client.final is None or one.time <= client.end)
            ):
                one.other, client.other = client, one

    def _side(self, one: _Open) -> Side:
        return Side(
            None if one.request is None else self._read(one.request),
            tuple(self._read(place) for place in one.interim),
            None if one.final is None else self._read(one.final),
        )

    def _read(self, place: _Place) -> Record:
        offset, size = place
        record: Record = orjson.loads(os.pread(self._file.fileno(), size, offset))
        return record


def is_interim(response: Record) -> bool:
    """Whether another response to the same request follows: 1xx, but for 101."""
    return 100 <= response.get("status_code", 200) < 200 and response.get("status_code") != 101


def _no_room(error: OSError) -> OutputError:
    return OutputError(
        f"cannot keep the capture in {tempfile.gettempdir()}: {error.strerror}; "
        "free space there, or name another directory with TMPDIR"
    )


def _link(record: Record) -> object:
    """What names the connection; captures of old versions have addresses only."""
    if "connection" in record:
        return record["connection"]
    ends = ((record.get(f"{end}_ip"), record.get(f"{end}_port")) for end in ("source", "dest"))
    return frozenset(ends)
