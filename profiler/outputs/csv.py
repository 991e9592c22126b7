# SPDX-License-Identifier: Apache-2.0
"""An exchange as a row (``schema.Row``), for CSV, Parquet and the table ``exchanges``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from profiler.exchanges.endpoint import endpoint
from profiler.exchanges.headers import header
from profiler.exchanges.model import (
    Exchange,
    Side,
    grpc_status,
    host,
    local,
    outcome,
    path_of,
    program,
    remote,
    service,
)
from profiler.exchanges.text import visible_lines
from profiler.schema import Row, fields

if TYPE_CHECKING:
    from profiler.schema import Record

# Columns that CSV omits, because people read it.
CONTENT_COLUMNS = ("request_headers", "request_body", "response_headers", "response_body")
# The beginning of a text that a spreadsheet would run as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def row(exchange: Exchange) -> Row:
    """Return an exchange's columns. An unknown value is ``None``."""
    first, asked = exchange.first, exchange.asked
    request: Record = exchange.request or {}
    response: Record = exchange.response or {}
    client, server = _first(exchange.client), _first(exchange.server)
    served = exchange.server.response if exchange.server else None
    tls = first.get("tls", {})
    found = outcome(exchange)
    return {
        "time": first["timestamp"],
        "client": program(client) if client else None,
        "client_pid": client.get("pid"),
        "client_address": local(first),
        "server": program(server) if server else None,
        "server_pid": server.get("pid"),
        "server_address": remote(first),
        "service": service(exchange) or None,
        "method": asked.get("method"),
        "host": host(exchange) or None,
        "url": asked.get("url"),
        "path": path_of(asked["url"]) if "url" in asked else None,
        "endpoint": endpoint(exchange) if "url" in asked else None,
        "http_version": first.get("http_version"),
        "status_code": response.get("status_code"),
        "grpc_status": grpc_status(response) if response else None,
        "outcome": found,
        "failed": found == "failed",
        "content_type": header(response, "content-type"),
        "request_bytes": request.get("bytes"),
        "response_bytes": response.get("bytes"),
        "latency_ms": response.get("latency_ms"),
        "duration_ms": response.get("duration_ms"),
        "server_latency_ms": served.get("latency_ms") if served else None,
        "incomplete": " ".join(exchange.incomplete) or None,
        "exchange": first.get("exchange"),
        "connection": first.get("connection"),
        "tls_library": tls.get("library"),
        "tls_version": tls.get("version"),
        "tls_sni": tls.get("sni"),
        "tls_alpn": tls.get("alpn"),
        "tls_cipher": tls.get("cipher"),
        "request_headers": request.get("headers"),
        "request_body": request.get("body"),
        "response_headers": response.get("headers"),
        "response_body": response.get("body"),
    }


def csv_lines(exchanges: Iterable[Exchange]) -> Iterator[str]:
    """Yield CSV (RFC 4180), header first.

    An apostrophe is put before a text that a spreadsheet would run as a formula.
    """
    line = io.StringIO()
    writer = csv.writer(line)
    columns = [field.name for field in fields(Row) if field.name not in CONTENT_COLUMNS]
    writer.writerow(columns)
    for exchange in exchanges:
        values: dict[str, object] = {**row(exchange)}
        writer.writerow([_cell(values[name]) for name in columns])
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str):
        text = visible_lines(value)
        return f"'{text}" if value.startswith(_FORMULA) else text
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def _first(side: Side | None) -> Record:
    return side.records[0] if side else {}
