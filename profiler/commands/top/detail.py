# SPDX-License-Identifier: Apache-2.0
"""One exchange as text: what both ends saw of it, its headers and its bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from profiler.commands.top.lines import Line, Span
from profiler.exchanges.model import NO_RESPONSE, Exchange, Side, local, remote
from profiler.exchanges.redact import Redactor
from profiler.exchanges.text import visible
from profiler.outputs.terminal import size_text, time_text, wrap

if TYPE_CHECKING:
    from profiler.schema import CutRecord, Record


def detail(exchange: Exchange, redactor: Redactor | None, width: int) -> list[Line]:
    """Return an exchange as lines of at most ``width`` cells, without its secrets."""
    lines: list[Line] = []
    for text, style in _texts(exchange, redactor):
        for part in text.split("\n"):
            pieces = wrap(visible(part.rstrip("\r").replace("\t", "    ")), width)
            lines += [[Span(piece, style)] for piece in pieces]
    return lines


def _texts(exchange: Exchange, redactor: Redactor | None) -> Iterator[tuple[str, str]]:
    def shown(record: Record) -> CutRecord:
        return cast("CutRecord", record if redactor is None else redactor.record(record))

    for role, side in (("client", exchange.client), ("server", exchange.server)):
        if side is not None:
            yield from _end(role, side, shown(side.records[0]))
    if exchange.incomplete:
        yield f"incomplete   {', '.join(exchange.incomplete)}", "lost"
    request = exchange.request
    if request is None:
        asked = shown(exchange.asked)
        yield "", ""
        yield f"{asked.get('method', '?')} {asked.get('url', '?')}", "bold"
        yield "(the request was not seen)", "dim"
    else:
        yield from _message(shown(request))
    for response in (*exchange.side.interim, *([exchange.response] if exchange.response else ())):
        yield from _message(shown(response))
    if exchange.response is None:
        yield "", ""
        yield "no response was seen", "failed"


def _end(role: str, side: Side, first: Record) -> Iterator[tuple[str, str]]:
    # Each end's line has that end's address.
    address = local(first) if role == "client" else remote(first)
    words = [address or "", f"pid {first['pid']}" if "pid" in first else "", first.get("comm", "")]
    response = side.response or {}
    if "latency_ms" in response:
        words.append(f"latency {time_text(response['latency_ms'])}")
    if "duration_ms" in response:
        words.append(f"duration {time_text(response['duration_ms'])}")
    yield f"{role:<13}{'  '.join(filter(None, words))}", "bold"
    facts = cast("dict[str, object]", first)
    for name in ("tls", "container", "pod"):
        if name in facts:
            parts = cast("dict[str, object]", facts[name]).values()
            yield f"  {name:<11}{'  '.join(map(str, parts))}", "dim"
    for name in ("timestamp", "cmdline", "cgroup", "service", "exchange", "connection"):
        if name in facts:
            yield f"  {name:<11}{facts[name]}", "dim"


def _message(record: CutRecord) -> Iterator[tuple[str, str]]:
    yield "", ""
    if NO_RESPONSE in record.get("incomplete", ()):
        yield "the connection ended without a response", "failed"
        return
    version = f"HTTP/{record.get('http_version', '?')}"
    if record["type"] == "request":
        start = f"{record.get('method', '?')} {record.get('url', '?')} {version}"
    else:
        start = f"{version} {record.get('status_code', '?')} {record.get('reason', '')}"
    yield f"{start}   ({size_text(record.get('bytes', 0))})", "bold"
    for fields, style in ((record.get("headers"), "moved"), (record.get("trailers"), "refused")):
        for name, value in (fields or {}).items():
            for one in value if isinstance(value, list) else [value]:
                yield f"{name}: {one}", style
    body = record.get("body", "")
    if not body:
        return
    yield "", ""
    if "body_encoding" in record:
        yield "(not text: base64)", "dim"
    yield body, ""
    if "body_length" in record:
        yield f"(the first {len(body)} of {record['body_length']} characters)", "dim"
