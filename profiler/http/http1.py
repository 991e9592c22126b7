"""HTTP/1.0 and 1.1 from the observer's side (RFC 9112): bytes of one direction in, messages out.

A :class:`Reader` reads one direction. Its state is the function that reads
what comes next; such a step takes the bytes at hand and an offset, and returns
the offset behind what it has read, or ``None`` if its line is cut off: then the
rest waits in ``_pending`` for the next chunk. A message that lies whole in one
chunk is made in a single step; any other grows in a :class:`Draft`.

Nothing raises. Where the bytes cannot be followed (a hole that is not inside
data of known length, or bytes that break the rules) the message is handed out
as far as it is known, with the reason, and the reader skips ahead to the next
*sure start*: a syscall whose first chunk begins with a whole start line, since
programs begin a message with a syscall.

The chunks of RFC 9112, 7.1 are called *parts* here: a chunk is what crossed the wire.
"""

from __future__ import annotations

import re
from typing import Callable, Optional

from profiler.http.classify import REQUEST_LINE, may_become_start_line, start_line
from profiler.http.connection import Connection
from profiler.http.draft import Draft
from profiler.http.fields import CHUNKED, FAULTY, UNTIL_CLOSE, decode, parse_fields
from profiler.http.message import (
    CLOSED_EARLY,
    REQUEST,
    RESPONSE,
    UNDECODABLE,
    Head,
    Message,
    Output,
)
from profiler.settings import Settings
from profiler.stream import Gap
from profiler.wire import FLAG_CONTINUED, FLAG_JOINED, Chunk

# The LF of a line and the empty line behind it; RFC 9112, 2.2 allows a bare LF.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_EMPTY_LINES = (b"\n", b"\r\n")
_CR, _LF = b"\r\n"

# RFC 9112, 7.1: chunk-size [ chunk-ext ] CRLF
_PART_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")

# A line that is cut off is tried again with every chunk while it is this short,
# to tell early what is no HTTP; later only when a chunk brings an LF.
_SHORT_LINE = 64

Step = Callable[["Reader", bytes, int], Optional[int]]


def body_length(head: Head) -> int:
    """Return the length of the body behind ``head``, or UNTIL_CLOSE, CHUNKED or FAULTY.

    RFC 9112, 6.3; rules 3 to 6 are settled by the fields alone (``fields.py``).
    """
    length = head.fields.length
    if head.type == REQUEST:
        # 7. A request that says nothing of a body has none.
        if length is None:
            return 0
        # 4. A request cannot last until the close: nobody could answer it.
        return FAULTY if length == UNTIL_CLOSE else length
    # 1. No body in 1xx, 204, 304 and in the answer to HEAD, whatever the fields say.
    # 2. Nor in a 2xx answer to CONNECT.
    status = head.status or 0
    if status < 200 or status in (204, 304) or switches_protocol(head):
        return 0
    if head.request is not None and head.request.method == "HEAD":
        return 0
    # 8. Any other response that says nothing lasts until the close.
    return UNTIL_CLOSE if length is None else length


def switches_protocol(head: Head) -> bool:
    """Whether both directions carry something else behind this response."""
    # RFC 9110, 15.2.2: 101 Switching Protocols
    if head.status == 101:
        return True
    # RFC 9110, 9.3.6: a 2xx response to CONNECT opens a tunnel.
    connect = head.request is not None and head.request.method == "CONNECT"
    return connect and head.status is not None and 200 <= head.status < 300


class Reader:
    """One direction of one connection.

    ``over`` is set once nothing on the connection is HTTP/1 any more, ``rest`` is
    what the last chunk holds of what it is then, ``finished`` is set once the
    direction has ended.
    """

    __slots__ = (
        "_chunk", "_connection", "_direction", "_draft", "_max_body", "_max_head", "_origin",
        "_out", "_pending", "_pending_origin", "_remaining", "_searched", "_step", "_step_if_body",
        "finished", "over", "rest",
    )  # fmt: skip

    def __init__(self, direction: int, connection: Connection, settings: Settings) -> None:
        self.finished = False
        self.over = False
        self.rest = b""
        self._direction = direction
        self._connection = connection
        self._max_head = settings.max_head
        self._max_body = settings.max_body
        self._step: Step = Reader._read_head
        self._step_if_body: Step = Reader._read_body
        self._draft: Draft | None = None
        self._remaining = 0  # bytes that the body, or the current part, still lacks
        self._pending = bytearray()
        self._searched = 0  # of _pending, in vain, for the end of a head
        # Set by feed(); _origin is the chunk of the first of the bytes at hand.
        self._chunk: Chunk
        self._origin: Chunk
        self._pending_origin: Chunk
        self._out: list[Output]

    @property
    def undecided(self) -> bool:
        """Whether the connection has not shown yet that it is HTTP/1."""
        return self._connection.requests is None

    # ---- what comes from the stream

    def feed(self, chunk: Chunk, out: list[Output]) -> None:
        """Read the bytes of ``chunk``; append to ``out`` the messages that they complete."""
        self._out = out
        self._chunk = self._origin = chunk
        data = chunk.payload
        if self._pending:
            self._pending += data
            if _SHORT_LINE < len(self._pending) <= self._max_head and b"\n" not in data:
                return
            data = bytes(self._pending)
            self._pending.clear()
            self._origin = self._pending_origin
        at = 0
        while at < len(data):
            behind = self._step(self, data, at)
            if behind is None:
                self._pending_origin = self._origin_at(at)
                self._pending += data[at:]
                return
            at = behind

    def gap(self, gap: Gap, out: list[Output]) -> None:
        """Bytes were not seen: stay in step where their place is known, else start anew."""
        self._out = out
        self._expect_body()
        draft, size = self._draft, gap.size
        if draft is None or size is None:
            self._give_up(gap.reason)
        elif self._step is Reader._read_until_close:
            draft.lose(size, gap.reason, gap.time)
        elif self._step in (Reader._read_body, Reader._read_part) and size <= self._remaining:
            draft.lose(size, gap.reason, gap.time)
            self._advance(size)
        elif self._step is Reader._read_body:
            draft.lose(self._remaining, gap.reason, gap.time)
            self._give_up(gap.reason)
        else:
            self._give_up(gap.reason)

    def finish(self, out: list[Output], closed: bool = True) -> None:
        """The direction has ended: it was ``closed``, or the capture ends."""
        self._out = out
        self.finished = True
        self._expect_body()
        if closed and self._step is Reader._read_until_close:
            self._complete()
        else:
            self._give_up(CLOSED_EARLY)

    # ---- steps: the head

    def _read_head(self, data: bytes, at: int) -> int | None:
        # RFC 9112, 2.2: empty lines before a start line are ignored.
        if data[at] in (_CR, _LF):
            return at + 1
        connection = self._connection
        type_ = connection.type_in(self._direction)
        start = start_line(data, at, type_)
        if type_ is None and self._chunk.flags & FLAG_JOINED and not self._is_sure(start):
            # Not the beginning of the connection: it may be the middle of a body.
            self._start_anew()
            return len(data)
        if start is None:
            if len(data) - at <= self._max_head and may_become_start_line(data, at, type_):
                return None
            if type_ is None:
                self.over = True
            else:
                self._start_anew()
            return len(data)
        if type_ is None:
            is_request = start.re is REQUEST_LINE
            connection.requests = self._direction if is_request else 1 - self._direction
        end = _END_OF_HEAD.search(data, max(start.end() - 1, self._searched))
        body = len(data) if end is None else end.end()
        self._searched = 0
        if body - at > self._max_head:
            self._start_anew()
            return len(data)
        if end is None:
            # The last two bytes may be part of the empty line.
            self._searched = body - at - 2
            return None
        origin = self._origin_at(at)
        head = self._head(start, data[start.end() : body], origin)
        return self._begin(head, origin, data, at, body)

    def _head(self, start: re.Match[bytes], block: bytes, origin: Chunk) -> Head:
        fields = parse_fields(block)
        if start.re is REQUEST_LINE:
            method, target, version = map(decode, start.groups())
            request = self._connection.ask(method, target, origin.time)
            return Head(REQUEST, version, method, target, None, None, fields, request)
        version, code, reason = map(decode, start.groups(b""))
        status = int(code)
        answered = self._connection.answer(status, origin.time)
        return Head(RESPONSE, version, None, None, status, reason.strip(), fields, answered)

    def _begin(self, head: Head, origin: Chunk, data: bytes, at: int, body: int) -> int:
        """A head stands in ``data`` from ``at`` to ``body``: make the message, or its draft."""
        length = body_length(head)
        # A response whose request was not seen may answer HEAD, and a client
        # that expects 100 may be told to keep its body (RFC 9110, 10.1.1).
        doubtful = head.request is None or "expect" in head.fields.by_name
        end = body + length
        if length == 0 or (0 < length <= self._max_body and end <= len(data) and not doubtful):
            time = self._chunk.time
            self._out.append(
                Message(origin, head, data[at:end], data[body:end], end - at, (), time)
            )
            self.over = head.type == RESPONSE and switches_protocol(head)
            self.rest = data[end:] if self.over else b""
            return len(data) if self.over else end
        self._draft = Draft(
            origin, head, data[at:body], self._chunk.time, self._max_body, length == CHUNKED
        )
        if length == FAULTY:
            return self._malformed(data)
        self._step = _STEPS.get(length, Reader._read_body)
        self._remaining = length
        if doubtful:
            self._step_if_body, self._step = self._step, Reader._read_body_or_head
        return body

    def _read_body_or_head(self, data: bytes, at: int) -> int:
        """Where the body should begin a start line may stand: then there is no body."""
        self._expect_body()
        if self._start_line(data, at) is not None:
            self._complete()
        return at

    def _expect_body(self) -> None:
        if self._step is Reader._read_body_or_head:
            self._step = self._step_if_body

    # ---- steps: the body

    def _read_body(self, data: bytes, at: int) -> int:
        return self._take(data, at, min(len(data), at + self._remaining))

    def _read_until_close(self, data: bytes, at: int) -> int:
        self._add(data, at, len(data))
        return len(data)

    # RFC 9112, 7.1: size line, that many bytes, CRLF; ...; size 0, trailers, empty line

    def _read_part_size(self, data: bytes, at: int) -> int | None:
        line = _PART_SIZE.match(data, at)
        if line is None:
            return self._incomplete_line(data, at)
        self._add(data, at, line.end(), framing=True)
        self._remaining = int(line[1], 16)
        self._step = Reader._read_part if self._remaining else Reader._read_trailer
        return line.end()

    def _read_part(self, data: bytes, at: int) -> int:
        return self._take(data, at, min(len(data), at + self._remaining))

    def _read_part_end(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\n", at, at + 2) + 1
        if data[at:end] not in _EMPTY_LINES:
            return self._malformed(data) if data[at:] != b"\r" else None
        self._add(data, at, end, framing=True)
        self._step = Reader._read_part_size
        return end

    def _read_trailer(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\n", at) + 1
        if not end:
            return self._incomplete_line(data, at)
        self._add(data, at, end, framing=True)
        if data[at:end] in _EMPTY_LINES:
            self._complete()
        return end

    # ---- the step that finds the way back

    def _skip(self, data: bytes, at: int) -> int:
        """Nothing is known of what comes: wait for a chunk that begins with a sure start line."""
        start = self._start_line(data, at)
        if start is None or not self._is_sure(start):
            return len(data)
        if start.re is REQUEST_LINE:
            self._connection.missed_requests()
        else:
            self._connection.missed_responses()
        self._step = Reader._read_head
        return at

    # ---- what the steps have in common

    def _start_line(self, data: bytes, at: int) -> re.Match[bytes] | None:
        return start_line(data, at, self._connection.type_in(self._direction))

    def _is_sure(self, start: re.Match[bytes] | None) -> bool:
        """Whether a message begins at this start line of the chunk at hand."""
        # The segment of a call before this one may have held the true beginning.
        if start is None or self._chunk.flags & FLAG_CONTINUED:
            return False
        # Words of a text may precede what looks like a request line.
        return not (start.re is REQUEST_LINE and b" " in start[2])

    def _origin_at(self, at: int) -> Chunk:
        return self._chunk if at else self._origin

    def _add(self, data: bytes, start: int, stop: int, framing: bool = False) -> None:
        assert self._draft is not None
        self._draft.add(data, start, stop, self._chunk.time, framing)

    def _take(self, data: bytes, start: int, stop: int) -> int:
        self._add(data, start, stop)
        self._advance(stop - start)
        return stop

    def _advance(self, size: int) -> None:
        self._remaining -= size
        if self._remaining == 0:
            if self._step is Reader._read_part:
                self._step = Reader._read_part_end
            else:
                self._complete()

    def _incomplete_line(self, data: bytes, at: int) -> int | None:
        if data.find(b"\n", at) >= 0 or len(data) - at > self._max_head:
            return self._malformed(data)
        return None

    def _malformed(self, data: bytes) -> int:
        self._give_up(UNDECODABLE)
        return len(data)

    def _complete(self) -> None:
        assert self._draft is not None
        self._out.append(self._draft.message())
        self._draft = None
        self._step = Reader._read_head

    def _give_up(self, reason: str) -> None:
        """Hand out what there is of a message, if any, and start anew."""
        pending = bytes(self._pending)
        if self._draft is not None:
            if pending:
                self._add(pending, 0, len(pending), framing=True)
            self._draft.note(reason)
            self._complete()
        elif pending:
            # Only a whole start line says that this is a message.
            start = self._start_line(pending, 0)
            if start is not None:
                block = pending[start.end() : pending.rfind(b"\n") + 1]
                origin = self._pending_origin
                head = self._head(start, block, origin)
                time = self._chunk.time
                self._out.append(Message(origin, head, pending, b"", len(pending), (reason,), time))
        self._start_anew()

    def _start_anew(self) -> None:
        self._pending.clear()
        self._searched = 0
        self._step = Reader._skip


_STEPS: dict[int, Step] = {
    UNTIL_CLOSE: Reader._read_until_close,
    CHUNKED: Reader._read_part_size,
}
