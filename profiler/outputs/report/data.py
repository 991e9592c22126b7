# SPDX-License-Identifier: Apache-2.0
"""The data of a page: columns of numbers for all exchanges, and details in blocks.

A column has one value per exchange, in order of time. Texts repeat, so a column has the number of
an entry in a table. Details (the records without ``raw_payload``) are JSON lines in separately
compressed blocks; the page decompresses a block when the reader opens an exchange in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import orjson

from profiler.exchanges.endpoint import endpoint
from profiler.exchanges.model import (
    Exchange,
    Side,
    host,
    local,
    nanoseconds,
    outcome,
    program,
    remote,
    service,
    without_port,
)
from profiler.exchanges.pair import without_payload

if TYPE_CHECKING:
    from profiler.schema import Record

_Detail = dict[str, Any]
"""A record as stored in the page: without what the other end's record repeats."""
_BLOCK = 256 * 1024
# Fields that are equal at both ends are stored once.
_SAME = ("headers", "trailers", "body", "body_length", "body_encoding", "body_charset")

_COLUMNS = [
    "time",
    "client",
    "server",
    "method",
    "host",
    "target",
    "endpoint",
    "service",
    "status",
    "interim",
    "outcome",
    "latency",
    "duration",
    "requestBytes",
    "responseBytes",
    "incomplete",
    "clientThread",
    "serverThread",
    "serverAfter",
    "serverLatency",
    "serverDuration",
    "flags",
]
# Numbers of the columns `outcome` and `flags`; data.js has the same.
OUTCOMES = ("ok", "failed", "unknown")
NO_REQUEST, CUT_BODY, CLIENT_SEEN, SERVER_SEEN, TLS = 1, 2, 4, 8, 16
_TABLES = ("method", "host", "target", "endpoint", "service", "interim", "incomplete")


class Table:
    """Values and their numbers, in order of first appearance."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}

    def number(self, value: object) -> int:
        """Return the number of a value."""
        return self._numbers.setdefault(value, len(self._numbers))

    def values(self) -> list[Any]:
        """Return the values in the order of their numbers."""
        return list(self._numbers)


@dataclass
class Node:
    """A node of the map: a program, or an address whose process was not seen."""

    name: str
    kind: str
    """``process`` or ``address``."""

    detail: str = ""
    """A process's cgroup, or the host name that requests to the address used."""

    pids: set[int] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """Return the form that the page reads."""
        pids = sorted(self.pids)
        return {"name": self.name, "kind": self.kind, "detail": self.detail, "pids": pids[:20]} | (
            {"processes": len(pids)} if pids else {}
        )


class Data:
    """Collects exchanges, in order of time."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self.columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        """A value for each exchange."""
        self._tables = {name: Table() for name in _TABLES}
        self._threads = Table()
        self._nodes: dict[tuple[str, ...], int] = {}
        self._node_list: list[Node] = []
        self._by_connection: dict[tuple[str, str], int] = {}
        self._unknown: list[tuple[int, str, str]] = []
        self._start: int | None = None
        self._starts: list[int] = []
        self._incomplete: dict[str, int] = {}
        self._cut = 0

    def blocks(self, exchanges: Iterable[Exchange]) -> Iterator[bytes]:
        """Add exchanges; yield the compressed blocks of their details (raw DEFLATE)."""
        lines: list[bytes] = []
        size = first = 0
        for row, exchange in enumerate(exchanges):
            if not lines:
                first = row
            line = self._add(exchange, row)
            lines.append(line)
            size += len(line)
            if size >= _BLOCK:
                self._starts.append(first)
                yield _compressed(b"\n".join(lines))
                lines, size = [], 0
        if lines:
            self._starts.append(first)
            yield _compressed(b"\n".join(lines))

    def summary(self, about: dict[str, Any]) -> bytes:
        """Return the columns and tables, compressed; call it after ``blocks``."""
        for row, role, connection in self._unknown:
            node = self._by_connection.get((connection, role))
            if node is not None:
                self.columns[role][row] = node
        document = {
            **about,
            "start": (self._start or 0) / 1e6,
            "count": len(self.columns["time"]),
            "nodes": [node.to_json() for node in self._node_list],
            "tables": {name: table.values() for name, table in self._tables.items()},
            "columns": self.columns,
            "blocks": self._starts,
            "incompleteMessages": self._incomplete,
            "cutBodies": self._cut,
        }
        return _compressed(orjson.dumps(document))

    def _add(self, exchange: Exchange, row: int) -> bytes:
        first, asked = exchange.first, exchange.asked
        request, response = exchange.request, exchange.response or {}
        start = nanoseconds(first["timestamp"])
        if self._start is None:
            self._start = start
        named = host(exchange)
        served = (exchange.server.response if exchange.server else None) or {}
        interim = (one["status_code"] for one in exchange.side.interim if "status_code" in one)
        detail, cut = self._detail(exchange)
        seen = (CLIENT_SEEN if exchange.client else 0) | (SERVER_SEEN if exchange.server else 0)
        seen |= TLS if exchange.is_tls else 0
        texts = {
            "method": asked.get("method", ""),
            "host": named,
            "target": asked.get("url", ""),
            "endpoint": endpoint(exchange),
            "service": service(exchange),
            "interim": " ".join(map(str, interim)),
            "incomplete": ", ".join(exchange.incomplete),
        }
        values = {
            "time": round((start - self._start) / 1e6, 3),
            "client": self._node(exchange.client, "client", first, named, row),
            "server": self._node(exchange.server, "server", first, named, row),
            **{name: self._tables[name].number(text) for name, text in texts.items()},
            "status": response.get("status_code", 0),
            "outcome": OUTCOMES.index(outcome(exchange)),
            "latency": _rounded(response.get("latency_ms")),
            "duration": _rounded(response.get("duration_ms")),
            "requestBytes": request.get("bytes") if request else None,
            "responseBytes": response.get("bytes"),
            "clientThread": self._thread(exchange.client),
            "serverThread": self._thread(exchange.server),
            "serverAfter": self._server_after(exchange.server, start),
            "serverLatency": _rounded(served.get("latency_ms")),
            "serverDuration": _rounded(served.get("duration_ms")),
            "flags": (0 if asked else NO_REQUEST) | (CUT_BODY if cut else 0) | seen,
        }
        for name, column in self.columns.items():
            column.append(values[name])
        return detail

    @staticmethod
    def _server_after(server: Side | None, start: int) -> float | None:
        """Return when the server saw the request, in milliseconds after ``start``."""
        if server is None or server.request is None:
            return None
        return round((nanoseconds(server.request["timestamp"]) - start) / 1e6, 3)

    def _node(self, side: Side | None, role: str, first: Record, host: str, row: int) -> int:
        connection = first.get("connection")
        if side is not None:
            record = side.records[0]
            name, cgroup = program(record), record.get("cgroup", "")
            if name is not None:
                node = self._number(Node(name, "process", cgroup), ("process", name, cgroup))
                if "pid" in record:
                    self._node_list[node].pids.add(record["pid"])
                if connection is not None:
                    self._by_connection[connection, role] = node
                return node
        elif connection is not None:
            self._unknown.append((row, role, connection))
        # A client's port changes with each connection.
        address = remote(first) if role == "server" else without_port(local(first) or "")
        address = address or "unknown"
        name = host if role == "server" and without_port(address) != without_port(host) else ""
        return self._number(Node(address, "address", name), ("address", address))

    def _number(self, node: Node, key: tuple[str, ...]) -> int:
        if key not in self._nodes:
            self._nodes[key] = len(self._node_list)
            self._node_list.append(node)
        return self._nodes[key]

    def _thread(self, side: Side | None) -> int | None:
        record: Record = side.records[0] if side else {}
        if "pid" not in record or "tid" not in record:
            return None
        return self._threads.number((record["pid"], record["tid"], record.get("process_start")))

    def _detail(self, exchange: Exchange) -> tuple[bytes, bool]:
        sides: dict[str, list[_Detail]] = {}
        for role, side in (("client", exchange.client), ("server", exchange.server)):
            if side is not None:
                sides[role] = [
                    cast("_Detail", without_payload(record, self._max_body))
                    for record in side.records
                ]
                for record in side.records:
                    for reason in record.get("incomplete", ()):
                        self._incomplete[reason] = self._incomplete.get(reason, 0) + 1
        cut = any("body_length" in record for records in sides.values() for record in records)
        self._cut += cut
        if len(sides) == 2:
            for detail in sides["server"]:
                _drop_same(detail, sides["client"])
        return orjson.dumps(sides), cut


def _drop_same(record: _Detail, others: list[_Detail]) -> None:
    for other in others:
        if other["type"] == record["type"] and all(
            record.get(name) == other.get(name) for name in (*_SAME, "status_code", "url")
        ):
            for name in _SAME:
                record.pop(name, None)
            record["same"] = True
            return


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _compressed(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()
