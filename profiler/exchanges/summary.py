"""An exchange in a few words, as one line of a terminal has room for."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from profiler.exchanges.model import authority, program
from profiler.exchanges.pair import LATE, OVER, WAITS, Told
from profiler.exchanges.read import nanoseconds
from profiler.exchanges.redact import Redactor
from profiler.exchanges.store import Exchange, Side

_WITHOUT = {OVER: "none", WAITS: "wait", LATE: "late"}


class Summary(NamedTuple):
    """Texts are as they were said, but for secrets: make them ``visible`` before showing."""

    time: int
    """The first byte that was seen of it, nanoseconds since 1970."""
    client: str | None
    """The program that asked, if it was seen."""
    server: str | None
    """The program that answered, if it was seen."""
    method: str
    """Of a request that was not seen, ``?``; likewise ``target``."""
    host: str
    """What the request says of it, else the address where it went."""
    target: str
    status: int | None
    """Of the final response; ``None`` if there is none."""
    state: str
    """How it stands, see :class:`~profiler.exchanges.pair.Told`."""
    size: int | None
    """Bytes of the final response."""
    latency: float | None
    """Milliseconds from the request's first byte to the response's; at the client, if seen."""
    notes: tuple[str, ...]
    """Why something of it is missing, and what HTTP/2 said of it."""

    @property
    def url(self) -> str:
        """The request target, behind the host if it is a path."""
        return self.host + self.target if self.target[:1] in ("/", "*", "?") else self.target

    @property
    def process(self) -> str:
        """Who asked whom: ``client→server``, of which one may be empty."""
        return f"{self.client or ''}→{self.server or ''}"

    @property
    def status_text(self) -> str:
        """The status, or a word that says why there is none; at most four characters."""
        if self.status is None:
            return _WITHOUT[self.state]
        return str(self.status or "?")

    @property
    def clock(self) -> str:
        """The time of day where the reader is, with milliseconds."""
        second, rest = divmod(self.time, 1_000_000_000)
        return f"{_second(second)}.{rest // 1_000_000:03d}"


def summary(told: Told, redactor: Redactor | None) -> Summary:
    """Return what a line says of an exchange; secrets are left to the ``redactor``."""
    exchange, state = told
    asked, answered = exchange.asked, exchange.answered or {}
    first = exchange.side.records[0]
    target = asked.get("url", "?")
    return Summary(
        time=nanoseconds(first["timestamp"]),
        client=_program(exchange.client),
        server=_program(exchange.server),
        method=asked.get("method", "?"),
        # Of a request that was not seen itself there is no Host header.
        host=authority(asked, first),
        target=target if redactor is None else redactor.url(target),
        # One whose response has no readable status has a response all the same.
        status=answered.get("status_code", 0) if answered else None,
        state=state,
        size=answered.get("bytes"),
        latency=answered.get("latency_ms"),
        notes=_notes(exchange),
    )


def _program(side: Side | None) -> str | None:
    return None if side is None else program(side.records[0])


def _notes(exchange: Exchange) -> tuple[str, ...]:
    notes = exchange.incomplete
    for side in exchange.sides:
        for record in side.records:
            for name in ("error_code", "upgrade"):
                if name in record and record[name] not in notes:
                    notes += (record[name],)
    return notes


_last: tuple[int, str] = (0, "")


def _second(second: int) -> str:
    global _last
    if _last[0] != second:
        _last = second, datetime.fromtimestamp(second).strftime("%H:%M:%S")
    return _last[1]
