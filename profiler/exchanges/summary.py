# SPDX-License-Identifier: Apache-2.0
"""A summary of an exchange: the columns of a line, and one readable line."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from profiler.exchanges.model import (
    NO_RESPONSE,
    Exchange,
    Outcome,
    Side,
    authority,
    nanoseconds,
    outcome,
    program,
    url,
)
from profiler.exchanges.pair import Paired, State
from profiler.exchanges.redact import Redactor
from profiler.exchanges.text import visible

_WITHOUT: dict[State, str] = {"over": "none", "waiting": "wait", "late": "late"}


class Summary(NamedTuple):
    """The columns of a line. Texts are as captured, except for secrets: show them ``visible``."""

    time: int
    """The time of the first byte that was seen, nanoseconds since 1970."""
    client: str | None
    """The client's program, if it was seen."""
    server: str | None
    """The server's program, if it was seen."""
    method: str
    """``?`` if the request was not seen; likewise ``target``."""
    is_tls: bool
    host: str
    """The host that the request names, else the server's address."""
    target: str
    status: int | None
    """The status of the final response; 0 if it is unreadable, ``None`` without a response."""
    state: State
    """The state, see :class:`~profiler.exchanges.pair.Paired`."""
    outcome: Outcome
    size: int | None
    """Bytes of the final response."""
    latency: float | None
    """Milliseconds from the request's first byte to the response's, at the client if seen."""
    notes: tuple[str, ...]
    """Why something of it is missing, and what HTTP/2 reported."""

    @property
    def url(self) -> str:
        """The request target, after the host if it is a path; after ``https://`` with TLS."""
        if self.target[:1] not in ("/", "*", "?"):
            return self.target
        return f"{'https://' if self.is_tls else ''}{self.host}{self.target}"

    @property
    def process(self) -> str:
        """The programs: ``client→server``; either may be empty."""
        return f"{self.client or ''}→{self.server or ''}"

    @property
    def status_text(self) -> str:
        """The status, or a word for why there is none; at most four characters."""
        if self.status is None:
            return _WITHOUT[self.state]
        return str(self.status or "?")

    @property
    def clock(self) -> str:
        """The local time of day, with milliseconds."""
        second, rest = divmod(self.time, 1_000_000_000)
        return f"{_second(second)}.{rest // 1_000_000:03d}"


def summary(paired: Paired, redactor: Redactor | None) -> Summary:
    """Return the columns of an exchange, redacted by ``redactor``."""
    exchange, state = paired
    asked, response = exchange.asked, exchange.response
    if response is not None and NO_RESPONSE in response.get("incomplete", ()):
        response = None
    target = asked.get("url", "?")
    return Summary(
        time=nanoseconds(exchange.first["timestamp"]),
        client=_program(exchange.client),
        server=_program(exchange.server),
        method=asked.get("method", "?"),
        is_tls=exchange.is_tls,
        host=_redacted_host(authority(asked, exchange.first), redactor),
        target=target if redactor is None else redactor.url(target),
        status=None if response is None else response.get("status_code", 0),
        state=state,
        outcome=outcome(exchange),
        size=None if response is None else response.get("bytes"),
        latency=None if response is None else response.get("latency_ms"),
        notes=_notes(exchange),
    )


def _redacted_host(host: str, redactor: Redactor | None) -> str:
    return host if redactor is None else redactor.header("host", host)


def _program(side: Side | None) -> str | None:
    return None if side is None else program(side.records[0])


def _notes(exchange: Exchange) -> tuple[str, ...]:
    records = [record for side in exchange.sides for record in side.records]
    codes = [record["error_code"] for record in records if "error_code" in record]
    upgrades = [record["upgrade"] for record in records if "upgrade" in record]
    return tuple(dict.fromkeys((*exchange.incomplete, *codes, *upgrades)))


_last: tuple[int, str] = (0, "")


def _second(second: int) -> str:
    global _last
    if _last[0] != second:
        _last = second, datetime.fromtimestamp(second).strftime("%H:%M:%S")
    return _last[1]


def describe(exchange: Exchange, redactor: Redactor) -> str:
    """Return an exchange in one line: the request, the response, and both ends."""
    asked, response = exchange.asked, exchange.response
    target = redactor.url(url(exchange)) if "url" in asked else "(request not seen)"
    words = [asked.get("method", ""), target]
    if response is None or NO_RESPONSE in response.get("incomplete", ()):
        words.append("no response seen" if response is None else "no response")
    else:
        words.append(str(response.get("status_code", "")))
        if "latency_ms" in response:
            words.append(f"{response['latency_ms']:.1f} ms")
    ends = [
        f"{role} {side.records[0].get('comm', '?')}[{side.records[0].get('pid', '?')}]"
        for role, side in (("client", exchange.client), ("server", exchange.server))
        if side is not None
    ]
    words.append(f"({', '.join(ends)}, {exchange.first['timestamp']})")
    if exchange.incomplete:
        words.append(f"incomplete: {' '.join(exchange.incomplete)}")
    return visible(" ".join(word for word in words if word))
