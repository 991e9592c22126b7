"""An exchange as a row of a table: the columns of CSV, Parquet and of ``query``'s ``exchanges``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from profiler.exchanges.criteria import path_of
from profiler.exchanges.model import authority, header, local, program, remote
from profiler.exchanges.store import Exchange, Side

Row = dict[str, Any]

# Name and SQL type of each column, in order.
COLUMNS = {
    "time": "TIMESTAMP_NS",
    "client": "VARCHAR",
    "client_pid": "BIGINT",
    "client_address": "VARCHAR",
    "server": "VARCHAR",
    "server_pid": "BIGINT",
    "server_address": "VARCHAR",
    "method": "VARCHAR",
    "host": "VARCHAR",
    "url": "VARCHAR",
    "path": "VARCHAR",
    "http_version": "VARCHAR",
    "status_code": "INTEGER",
    "content_type": "VARCHAR",
    "request_bytes": "BIGINT",
    "response_bytes": "BIGINT",
    "latency_ms": "DOUBLE",
    "duration_ms": "DOUBLE",
    "server_latency_ms": "DOUBLE",
    "incomplete": "VARCHAR",
    "exchange": "VARCHAR",
    "connection": "VARCHAR",
}
# Not in CSV, which is read by people.
CONTENT_COLUMNS = {
    "request_headers": "JSON",
    "request_body": "VARCHAR",
    "response_headers": "JSON",
    "response_body": "VARCHAR",
}
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row(exchange: Exchange) -> Row:
    """Return an exchange's columns. What is not known is ``None``."""
    first = exchange.side.records[0]
    asked, answered = exchange.asked, exchange.answered or {}
    request = next((side.request for side in exchange.sides if side.request is not None), {})
    client, server = _first(exchange.client), _first(exchange.server)
    served = exchange.server.response if exchange.server else None
    return {
        "time": first["timestamp"],
        "client": program(client) if client else None,
        "client_pid": client.get("pid"),
        "client_address": local(first),
        "server": program(server) if server else None,
        "server_pid": server.get("pid"),
        "server_address": remote(first),
        "method": asked.get("method"),
        "host": authority(request, first) if request else None,
        "url": asked.get("url"),
        "path": path_of(asked["url"]) if "url" in asked else None,
        "http_version": first.get("http_version"),
        "status_code": answered.get("status_code"),
        "content_type": header(answered, "content-type"),
        "request_bytes": request.get("bytes"),
        "response_bytes": answered.get("bytes"),
        "latency_ms": answered.get("latency_ms"),
        "duration_ms": answered.get("duration_ms"),
        "server_latency_ms": served.get("latency_ms") if served else None,
        "incomplete": " ".join(exchange.incomplete) or None,
        "exchange": first.get("exchange"),
        "connection": first.get("connection"),
        "request_headers": request.get("headers"),
        "request_body": request.get("body"),
        "response_headers": answered.get("headers"),
        "response_body": answered.get("body"),
    }


def csv_lines(exchanges: Iterable[Exchange]) -> Iterator[str]:
    """Yield CSV (RFC 4180), header first.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    line = io.StringIO()
    writer = csv.writer(line)
    writer.writerow(COLUMNS)
    for exchange in exchanges:
        columns = row(exchange)
        writer.writerow([_cell(columns[name]) for name in COLUMNS])
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _first(side: Side | None) -> Row:
    return side.records[0] if side else {}
