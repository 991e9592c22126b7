"""What can be asked of an exchange: the names of a condition, and where their values are.

The rule: an exchange is looked at from each end that was seen, and what one end has not
seen is taken from the other. A field may have no value (no response was seen) or several
(a repeated header).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from profiler.exchanges.criteria import path_of
from profiler.exchanges.model import authority
from profiler.exchanges.store import Exchange, Side
from profiler.ingest.record import Record

NUMBER, STATUS, TIME, TEXT, ROLE = "number", "status", "time", "text", "role"
HEADER = "header."


@dataclass(frozen=True)
class View:
    """An exchange as seen from one end."""

    role: str
    side: Side
    request: Record
    """What is known of the request; it may be no more than its method and target."""

    response: Record
    """The final response; empty if none was seen."""

    @property
    def first(self) -> Record:
        """A record of this end."""
        return self.side.records[0]


def views(exchange: Exchange) -> list[View]:
    """Return the exchange as each end saw it; at least one."""
    seen = []
    for role, side in (("client", exchange.client), ("server", exchange.server)):
        if side is not None:
            request = side.request or exchange.asked
            response = side.response or exchange.answered or {}
            seen.append(View(role, side, request, response))
    return seen


@dataclass(frozen=True)
class Field:
    """A name that a condition may ask for; ``values`` are its values, none if it has none."""

    name: str
    kind: str
    values: Callable[[View], Iterable[Any]]


def field_named(name: str) -> Field | None:
    """Return the field of that name; ``None`` if there is none."""
    if name.startswith(HEADER) and len(name) > len(HEADER):
        return Field(name, TEXT, lambda view: _header(view, name[len(HEADER) :].lower()))
    return FIELDS.get(name)


def _of(record: str, key: str) -> Callable[[View], Iterable[Any]]:
    def values(view: View) -> Iterable[Any]:
        value = getattr(view, record).get(key)
        return () if value is None else (value,)

    return values


def _header(view: View, name: str) -> Iterable[str]:
    for record in (view.request, view.response):
        for key, value in record.get("headers", {}).items():
            if key.lower() == name:
                yield from value if isinstance(value, list) else (value,)


def _path(view: View) -> Iterable[str]:
    target = view.request.get("url")
    return () if target is None else (path_of(target),)


def _host(view: View) -> Iterable[str]:
    """The host as the request names it, with its port and without, in lower case."""
    if "headers" not in view.request:
        return ()
    host = authority(view.request, view.first).lower()
    name, colon, port = host.rpartition(":")
    return (host, name) if colon and port.isdigit() else (host,)


def _bytes(view: View) -> Iterable[int]:
    sizes = [record["bytes"] for record in (view.request, view.response) if "bytes" in record]
    return (sum(sizes),) if sizes else ()


def _incomplete(view: View) -> Iterable[str]:
    return (reason for record in view.side.records for reason in record.get("incomplete", ()))


FIELDS = {
    field.name: field
    for field in (
        Field("status", STATUS, _of("response", "status_code")),
        Field("latency", TIME, _of("response", "latency_ms")),
        Field("duration", TIME, _of("response", "duration_ms")),
        Field("method", TEXT, _of("request", "method")),
        Field("url", TEXT, _of("request", "url")),
        Field("path", TEXT, _path),
        Field("host", TEXT, _host),
        Field("comm", TEXT, _of("first", "comm")),
        Field("cmdline", TEXT, _of("first", "cmdline")),
        Field("pid", NUMBER, _of("first", "pid")),
        Field("role", ROLE, lambda view: (view.role,)),
        Field("bytes", NUMBER, _bytes),
        Field("request_bytes", NUMBER, _of("request", "bytes")),
        Field("response_bytes", NUMBER, _of("response", "bytes")),
        Field("incomplete", TEXT, _incomplete),
    )
}
