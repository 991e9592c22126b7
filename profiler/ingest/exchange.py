"""A response and its request: the id that they share, and the time between them.

Which request a response answers is found where responses are framed
(``http/connection.py``), since a response cannot be read without it; here it is
put into words. Nothing is remembered: a response brings along what is to be
known of its request, so it does not matter which of the two completes first.

An interim response (1xx) belongs to the exchange like the final one.
"""

from __future__ import annotations

from typing import NamedTuple

from profiler.ingest.http.message import RESPONSE, Message, Request

# NamedTuple's own way goes through Python.
_new = tuple.__new__


class Exchange(NamedTuple):
    """``id`` is the same on a request and its responses as seen at one socket.

    The rest is for responses: the request, and the milliseconds from its first
    byte to the first (``latency_ms``) and the last byte of the response.
    """

    id: str
    request: Request | None
    latency_ms: float | None
    duration_ms: float | None


def exchange_of(message: Message) -> Exchange | None:
    """Return the exchange that ``message`` is part of; ``None`` if its request was not seen."""
    origin, head = message.origin, message.head
    request = head.request
    if request is None:
        return None
    name = f"{origin.socket}-{request.number}"
    if head.type != RESPONSE:
        return _new(Exchange, (name, None, None, None))
    asked = request.time
    return _new(
        Exchange, (name, request, (origin.time - asked) / 1e6, (message.last_time - asked) / 1e6)
    )
