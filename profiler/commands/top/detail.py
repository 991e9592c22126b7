"""One exchange as a text: what both ends said of it, its headers and its bodies."""

from __future__ import annotations

from collections.abc import Iterator

from profiler.commands.top.lines import Line, Span
from profiler.exchanges.model import local, remote
from profiler.exchanges.redact import Redactor
from profiler.exchanges.store import Exchange, Side
from profiler.ingest.record import Record
from profiler.outputs.terminal import size_text, time_text, visible, wrap


def detail(exchange: Exchange, redactor: Redactor | None, width: int) -> list[Line]:
    """Return an exchange as lines of at most ``width`` cells, without its secrets."""
    lines: list[Line] = []
    for text, style in _texts(exchange, redactor):
        for part in text.split("\n"):
            pieces = wrap(visible(part.rstrip("\r").replace("\t", "    ")), width)
            lines += [[Span(piece, style)] for piece in pieces]
    return lines


def _texts(exchange: Exchange, redactor: Redactor | None) -> Iterator[tuple[str, str]]:
    def shown(record: Record) -> Record:
        return record if redactor is None else redactor.record(record)

    for role, side in (("client", exchange.client), ("server", exchange.server)):
        if side is not None:
            yield from _end(role, side, shown(side.records[0]))
    if exchange.incomplete:
        yield f"incomplete   {', '.join(exchange.incomplete)}", "lost"
    request = next((side.request for side in exchange.sides if side.request is not None), None)
    if request is None:
        asked = shown({"type": "request", "request": exchange.asked}).get("request", {})
        yield "", ""
        yield f"{asked.get('method', '?')} {asked.get('url', '?')}", "bold"
        yield "(the request was not seen)", "dim"
    else:
        yield from _message(shown(request))
    for response in (*exchange.side.interim, *([exchange.answered] if exchange.answered else ())):
        yield from _message(shown(response))
    if exchange.answered is None:
        yield "", ""
        yield "no response was seen", "failed"


def _end(role: str, side: Side, first: Record) -> Iterator[tuple[str, str]]:
    # The client's address on its own line, and the server's.
    address = local(first) if role == "client" else remote(first)
    said = [address or "", f"pid {first['pid']}" if "pid" in first else "", first.get("comm", "")]
    for name in ("latency", "duration"):
        if side.response is not None and f"{name}_ms" in side.response:
            said.append(f"{name} {time_text(side.response[f'{name}_ms'])}")
    yield f"{role:<13}{'  '.join(filter(None, said))}", "bold"
    for name in ("timestamp", "cmdline", "cgroup", "exchange", "connection"):
        if name in first:
            yield f"  {name:<11}{first[name]}", "dim"


def _message(record: Record) -> Iterator[tuple[str, str]]:
    yield "", ""
    version = f"HTTP/{record.get('http_version', '?')}"
    if record["type"] == "request":
        start = f"{record.get('method', '?')} {record.get('url', '?')} {version}"
    else:
        start = f"{version} {record.get('status_code', '?')} {record.get('reason', '')}"
    yield f"{start}   ({size_text(record.get('bytes', 0))})", "bold"
    for fields in ("headers", "trailers"):
        for name, value in record.get(fields, {}).items():
            for one in value if isinstance(value, list) else [value]:
                yield f"{name}: {one}", "moved" if fields == "headers" else "refused"
    body = record.get("body", "")
    if not body:
        return
    yield "", ""
    if "body_encoding" in record:
        yield "(not text: base64)", "dim"
    yield body, ""
    if "body_length" in record:
        yield f"(the first {len(body)} of {record['body_length']} characters)", "dim"
