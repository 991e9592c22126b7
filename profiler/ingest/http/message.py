# SPDX-License-Identifier: Apache-2.0
"""What the HTTP stage hands on: whole messages, and sockets that are not HTTP.

A :class:`Message` holds a *prefix*: ``raw`` is its first ``captured`` bytes,
exactly. Bytes behind the first hole, or beyond ``max_body``, are counted in
``bytes`` but not kept, so that nothing is ever glued together that did not
stand together on the wire. ``incomplete`` names each reason once, in the order
in which they arose; it is empty for a message that is whole.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Final, Literal, NamedTuple, Union

from profiler.ingest.http.fields import Fields, fields_of, size_of
from profiler.ingest.wire import Chunk

REQUEST: Final = "request"
RESPONSE: Final = "response"
Type = Literal["request", "response"]

HEAD_LIMIT = "head_limit"
MEMORY_LIMIT = "memory_limit"
UNDECODABLE = "undecodable"
STREAM_LIMIT = "stream_limit"
UNKNOWN_HEADER_STATE = "unknown_header_state"
NO_RESPONSE = "no_response"

# What a request takes besides its method, target, host and payload.
_REQUEST_SIZE = 500


class Request(NamedTuple):
    """What is remembered of a request for its responses.

    ``number`` counts the requests of the connection from 1, in HTTP/2 it is that
    of the stream; ``host`` is what ``:authority`` or Host names. What is not known is
    ``None`` (HTTP/2 whose header state is not). ``origin`` is the chunk of its first byte;
    a long payload has been dropped.
    """

    number: int
    method: str | None
    target: str | None
    host: str | None
    origin: Chunk


def request_size(request: Request) -> int:
    """Return the bytes of memory that a request takes while it is kept."""
    _, method, target, host, origin = request
    method, target, host = method or "", target or "", host or ""
    size = _REQUEST_SIZE + len(method) + len(target) + len(host) + len(origin.payload)
    # Every request is counted, so not by getsizeof(), which costs more than all this.
    if not (target.isascii() and host.isascii() and method.isascii()):
        size += 3 * (len(method) + len(target) + len(host))  # four bytes a character
    return size


class Head(NamedTuple):
    """The start line and the fields of a message.

    ``request`` is, on a request, itself, and on a response the one that it
    answers, if that was seen. ``stream`` is the number of the HTTP/2 stream. A
    response that never came has neither ``version`` nor ``status``.
    """

    type: Type
    version: str | None
    method: str | None
    target: str | None
    status: int | None
    reason: str | None
    fields: Fields
    request: Request | None
    stream: int | None = None

    @property
    def pushed(self) -> bool:
        """Whether this is a request that the server made up (RFC 9113, 8.4)."""
        # RFC 9113, 5.1.1: streams that the server opens have even numbers.
        return self.type == REQUEST and self.stream is not None and self.stream % 2 == 0


def head_size(head: Head) -> int:
    """Return the bytes of memory that a head takes while its message is being read."""
    size = getsizeof(head.method) + getsizeof(head.target) + getsizeof(head.reason)
    size += size_of(head.fields)
    if head.request is not None and head.type == RESPONSE:
        # The request of a response in progress is no longer in flight.
        size += request_size(head.request)
    return size


class Proxy(NamedTuple):
    """The connection that a proxy accepted, as its PROXY header states it (``proxy.py``)."""

    source_ip: str
    source_port: int
    dest_ip: str
    dest_port: int


class Message(NamedTuple):
    """One HTTP message, as far as it was seen.

    ``origin`` is the chunk of its first byte: who moved it, between which
    addresses, and when; ``position`` is that of this byte, and the payload may
    have been dropped. ``raw`` is the
    captured prefix, ``body`` the content in it: without the chunked framing, but
    still in its codings. ``bytes`` is the size on the wire; of a message that was
    cut off, as much as is known to belong to it. ``last_time`` is the time of
    the last byte. ``trailers`` are the fields behind the content (RFC 9110, 6.5);
    ``error_code`` is the name of the error that an HTTP/2 stream or connection was
    ended with.
    """

    origin: Chunk
    head: Head
    raw: bytes
    body: bytes
    bytes: int
    incomplete: tuple[str, ...]
    last_time: int
    trailers: Fields | None = None
    error_code: str | None = None
    proxy: Proxy | None = None


def no_response(
    request: Request, direction: int, time: int, reason: str,
    stream: int | None = None, error_code: str | None = None,
) -> Message:  # fmt: skip
    """Return what stands for the response to ``request``: at ``time`` none could come any more.

    ``direction`` is that of responses; ``reason`` is what ended it, or the stream.
    """
    # Who asked would have got it; no call moved it, so there is no syscall and no sequence.
    origin = request.origin._replace(
        direction=direction, time=time, syscall=-1, sequence=0, payload=b""
    )
    head = Head(RESPONSE, None, None, None, None, None, fields_of(()), request, stream)
    return Message(origin, head, b"", b"", 0, (NO_RESPONSE, reason), time, None, error_code)


class NotHttp(NamedTuple):
    """Nothing more on this socket is HTTP; it need not be forwarded any longer."""

    socket: int


Output = Union[Message, NotHttp]
