# SPDX-License-Identifier: Apache-2.0
"""Makes messages for the stages after the HTTP stage."""

from __future__ import annotations

from profiler.ingest.http import Message, Messages
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Streams
from profiler.ingest.wire import Chunk, End
from tests.unit.wires import Wire


def read(*items: Chunk | End) -> list[Message]:
    """Return the messages in ``items``, including those still open at the end of the capture."""
    streams, messages = Streams(), Messages(Settings())
    out = [m for item in items for event in streams.feed(item) for m in messages.feed(event)]
    return [
        m
        for m in [*out, *(m for s in messages.sockets() for m in messages.finish(s))]
        if isinstance(m, Message)
    ]


def request(data: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", **fields: object) -> Message:
    """The request in ``data``, sent in one chunk."""
    (message,) = read(Wire().send(data, **fields))
    return message


def response(data: bytes = b"HTTP/1.1 204 No Content\r\n\r\n", **fields: object) -> Message:
    """The response in ``data``, received in one chunk; its request was not seen."""
    (message,) = read(Wire().recv(data, **fields))
    return message
