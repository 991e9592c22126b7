# SPDX-License-Identifier: Apache-2.0
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
from sys import getsizeof
from typing import Callable, Optional

from profiler.ingest.http.classify import (
    REQUEST_LINE,
    Start,
    begins_usual,
    faulty_request,
    faulty_status,
    is_sure,
    may_become_start_line,
    start_line,
    start_of,
)
from profiler.ingest.http.connection import Connection
from profiler.ingest.http.draft import Draft, without_payload
from profiler.ingest.http.fields import CHUNKED, FAULTY, UNTIL_CLOSE, fields_of, parse_fields
from profiler.ingest.http.framing import body_length, switches_to
from profiler.ingest.http.message import (
    HEAD_LIMIT,
    REQUEST,
    RESPONSE,
    UNDECODABLE,
    Head,
    Message,
    Output,
    Request,
    Type,
    no_response,
)
from profiler.ingest.settings import Settings
from profiler.ingest.stream import CLOSED_EARLY, Finish, Gap
from profiler.ingest.wire import FLAG_CONTINUED, Chunk, construct

# The LF of a line and the empty line after it; RFC 9112, 2.2 allows a bare LF.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_EMPTY_LINES = (b"\n", b"\r\n")
_CR, _LF = b"\r\n"

# RFC 9112, 7.1: chunk-size [ chunk-ext ] CRLF. A number of more than 15 digits is longer than any
# stream. Of a line that is cut off, or faulty, the second pattern matches what keeps the rule.
_PART_SIZE = re.compile(rb"0*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_PART_SIZE_BEGINS = re.compile(rb"(?:0*[0-9A-Fa-f]{1,15}(?:[ \t]*;[^\n]*|[ \t]*\r?))?")

# A line that is cut off is tried again with every chunk while it is this short,
# to tell early what is no HTTP; later only when a chunk brings an LF.
_SHORT_LINE = 64

# What is kept of the chunk with which a head began that is cut off.
_ORIGIN_SIZE = 500

# Bytes that are read of a direction that does not begin with HTTP, while the other one is silent.
_UNDECIDED_MAX = 1 << 20

_NO_HEAD = Head(REQUEST, None, None, None, None, None, fields_of(()), None)

Step = Callable[["Reader", bytes, int], Optional[int]]


class Reader:
    """One direction of one connection.

    ``over`` is set once nothing on the connection is HTTP/1 any more: to the
    name of what it carries from then on (see :func:`switches_to`), or to ``""``
    if that is not known. ``rest`` is then what the chunk holds of that.
    ``finished`` is set once the direction has ended.
    """

    __slots__ = (
        "_chunk", "_direction", "_draft", "_max_body", "_max_head", "_origin", "_out", "_pending",
        "_pending_origin", "_position", "_remaining", "_searched", "_step", "_step_if_body",
        "_time", "_unknown_time", "connection", "finished", "over", "rest",
    )  # fmt: skip

    def __init__(self, direction: int, connection: Connection, settings: Settings) -> None:
        self.finished = False
        self.over: str | None = None
        self.rest = b""
        self._direction = direction
        self.connection = connection
        self._max_head = settings.max_head
        self._max_body = settings.max_body
        # What does not begin with the connection may begin in the middle of a body.
        self._step: Step = Reader._skip if connection.joined else Reader._read_head
        self._step_if_body: Step = Reader._read_body
        self._draft: Draft | None = None
        self._remaining = 0  # bytes that the body, or the current part, still lacks
        self._pending = bytearray()
        self._searched = 0  # of _pending, in vain, for the end of a head
        self._pending_origin: Chunk | None = None  # there while bytes are pending
        self._time = 0  # of the last bytes
        self._position = 0  # in the stream, of the first of the bytes at hand
        self._unknown_time = 0  # of the last bytes that could not be parsed
        # Only there while they are being read: _origin is the chunk of the first of them.
        # A connection that is idle must not keep its last chunk and its last messages alive.
        self._chunk: Chunk
        self._origin: Chunk
        self._out: list[Output]

    # ---- what comes from the stream

    def feed(self, chunk: Chunk, out: list[Output]) -> None:
        """Read the bytes of ``chunk``; append to ``out`` the messages that they complete."""
        self._out = out
        self._chunk = self._origin = chunk
        self._position = chunk.position - len(self._pending)
        self._time = chunk.time
        self._read(chunk.payload)
        del self._out, self._chunk, self._origin

    def gap(self, gap: Gap, out: list[Output]) -> None:
        """Bytes were not seen: stay in step where their place is known, else start anew."""
        self._out = out
        self._unknown_time = gap.time
        self._expect_body(gap.reason)
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
        del self._out

    def finish(self, out: list[Output], ended: bool, end: Finish | None = None) -> None:
        """Nothing more comes: the stream has ``ended``, or nobody will see its end.

        ``end`` is that of the direction; ``None``: the capture ends, or HTTP/1 does.
        """
        self.finished = True
        self._out = out
        reason = CLOSED_EARLY if end is None else end.reason
        connection = self.connection
        if connection.type_in(self._direction) == RESPONSE and end is not None:
            connection.ended = self._step is not Reader._skip and not end.unseen
        self._expect_body(reason)
        if end is not None and self._step is Reader._await_decision:
            # A client may end its direction before it reads the answer.
            del self._out
            return
        if ended and self._step is Reader._read_until_close:
            self._complete()
        else:
            self._give_up(reason)
        del self._out
        if end is not None and connection.ended and connection.requests is not None:
            for request in connection.unanswered():
                out.append(no_response(request, 1 - connection.requests, end.time, reason))

    def give_up(self, reason: str, out: list[Output]) -> None:
        """Hand out what there is, for ``reason``, and hold nothing any more."""
        self._out = out
        self._expect_body(reason)
        self._give_up(reason)
        del self._out

    @property
    def rests(self) -> bool:
        """Whether it stands between two messages, and has parsed everything before."""
        return (
            self._step is Reader._read_head
            and not (self._pending or self._unknown_time or self.finished)
            and self.over is None
        )

    @property
    def last_time(self) -> int:
        """The time of the last bytes."""
        return self._time

    def resume(self, time: int) -> None:
        """Continue between two messages; the last bytes came at ``time``."""
        self._time = time

    @property
    def skips(self) -> bool:
        """Whether nothing is known of what comes next."""
        return self._step is Reader._skip

    @property
    def held(self) -> int:
        """Bytes of memory that the message being read takes."""
        held = 0
        if self._pending_origin is not None:
            held = getsizeof(self._pending) + _ORIGIN_SIZE
        return held if self._draft is None else held + self._draft.held

    def _read(self, data: bytes) -> None:
        if self._pending:
            self._pending += data
            if _SHORT_LINE < len(self._pending) <= self._max_head and b"\n" not in data:
                return
            data = bytes(self._pending)
            self._pending.clear()
            assert self._pending_origin is not None
            self._origin, self._pending_origin = self._pending_origin, None
        at = 0
        while at < len(data) and self.over is None:
            behind = self._step(self, data, at)
            if behind is None:
                origin = self._origin_at(at)
                self._pending_origin = without_payload(origin) if origin.payload else origin
                self._pending += data[at:]
                return
            at = behind
        if self.over is not None:
            self.rest = data[at:]

    # ---- steps: the head

    def _read_head(self, data: bytes, at: int) -> int | None:
        # RFC 9112, 2.2: empty lines before a start line are ignored.
        if data[at] in (_CR, _LF):
            return at + 1
        connection = self.connection
        type_ = connection.type_in(self._direction)
        behind = data.find(b"\n", at) + 1
        start = None
        if behind - at <= self._max_head:
            start = start_of(data[at:behind])
        sound = True
        if start is None or type_ not in (None, start.type):
            if len(data) - at <= self._max_head and may_become_start_line(data, at, type_):
                return None
            start = self._faulty_start(data, at, behind, type_)
            if start is None:
                if type_ is None:
                    return self._decide_later(data, at)
                self._start_anew()
                return len(data)
            sound = start.type == RESPONSE and None not in (start.version, start.status)
        if type_ is None:
            self._settle(start.type)
        end = _END_OF_HEAD.search(data, max(behind - 1, self._searched))
        body = len(data) if end is None else end.end()
        self._searched = 0
        if body - at > self._max_head:
            self._cut_head(data[at : at + self._max_head], self._origin_at(at), HEAD_LIMIT)
            self._start_anew()
            return len(data)
        if end is None:
            # The last two bytes may be part of the empty line.
            self._searched = body - at - 2
            return None
        origin = self._origin_at(at)
        head = self._head(start, data[behind:body], origin)
        if sound:
            return self._begin(head, origin, data, at, body)
        self._emit_head(head, data[at:body], origin, UNDECODABLE)
        self._start_anew()
        return len(data)

    def _faulty_start(self, data: bytes, at: int, behind: int, type_: Type | None) -> Start | None:
        """Return what is known of a message whose start line breaks the rules."""
        if not 0 < behind - at <= self._max_head:
            return None
        if type_ == REQUEST:
            # Other lines may be the end of a body that is longer than its message states.
            usual = begins_usual(data, at)
            return faulty_request(data[at:behind]) if usual else None
        start = faulty_status(data[at:behind])
        if start is not None and type_ is None and None in (start.version, start.status):
            return None
        return start

    def _settle(self, type_: Type) -> None:
        """The first start line of the connection was read: it shows which direction asks."""
        connection = self.connection
        connection.requests = self._direction if type_ == REQUEST else 1 - self._direction
        if connection.undecided is not None:
            connection.undecided(self._out)

    def _decide_later(self, data: bytes, at: int) -> int:
        """The direction does not begin with HTTP; whether the connection is, the other decides."""
        connection = self.connection
        if connection.undecided is not None:
            connection.undecided = None
            self.over = ""
            return len(data)
        connection.undecided = self._decide
        origin = self._origin_at(at)
        self._draft = Draft(
            without_payload(origin), _NO_HEAD, b"", self._time, self._max_head, framed=True
        )
        self._step = Reader._await_decision
        self._remaining = _UNDECIDED_MAX
        return at

    def _await_decision(self, data: bytes, at: int) -> int:
        self._add(data, at, len(data), framing=True)
        self._remaining -= len(data) - at
        if self._remaining <= 0:
            self.connection.undecided = None
            self._draft = None
            self.over = ""
        return len(data)

    def _decide(self, out: list[Output]) -> None:
        """The other direction is HTTP: if it answers, what came here is a faulty request."""
        connection, draft = self.connection, self._draft
        connection.undecided = None
        assert draft is not None
        self._draft = None
        if connection.type_in(self._direction) == REQUEST:
            message = draft.message()
            raw, origin = message.raw, message.origin
            behind = raw.find(b"\n") + 1
            start, fields, size = faulty_request(raw[:behind]), b"", message.bytes
            end = _END_OF_HEAD.search(raw, behind - 1) if start.method is not None else None
            if end is not None:
                # What follows may be another request.
                raw = raw[: end.end()]
                fields, size = raw[behind:], len(raw)
            head = self._head(start, fields, origin)
            reason = UNDECODABLE if size == len(raw) else HEAD_LIMIT
            out.append(message._replace(head=head, raw=raw, bytes=size, incomplete=(reason,)))
        self._start_anew()

    def _head(self, start: Start, block: bytes, origin: Chunk) -> Head:
        request: Request | None
        fields = parse_fields(block)
        if start.type == REQUEST:
            request = self.connection.ask(start.method, start.target, fields.host, origin)
        else:
            request = self.connection.answer(start.status, origin.time)
        return construct(Head, (*start, fields, request, None))

    def _begin(self, head: Head, origin: Chunk, data: bytes, at: int, body: int) -> int:
        """A head stands in ``data`` from ``at`` to ``body``: make the message, or its draft."""
        length = body_length(head)
        # A response whose request was not seen may answer HEAD, and a client
        # that expects 100 may be told to keep its body (RFC 9110, 10.1.1).
        doubtful = head.request is None or "expect" in head.fields.headers
        end = body + length
        if length == 0 or (0 < length <= self._max_body and end <= len(data) and not doubtful):
            raw, content = data[at:end], data[body:end]
            self._out.append(
                construct(
                    Message,
                    (origin, head, raw, content, end - at, (), self._time, None, None, None),
                )
            )
            if head.type == RESPONSE:
                self.over = switches_to(head)
            return end
        self._draft = Draft(
            without_payload(origin), head, data[at:body], self._time, self._max_body,
            length == CHUNKED,
        )  # fmt: skip
        if length == FAULTY:
            return self._malformed(data, body, body)
        self._step = _STEPS.get(length, Reader._read_body)
        self._remaining = length
        if doubtful:
            self._step_if_body, self._step = self._step, Reader._read_body_or_head
        return body

    def _read_body_or_head(self, data: bytes, at: int) -> int | None:
        """Where the body should begin a start line may stand: then there is no body."""
        assert self._draft is not None
        head = self._draft.head
        if head.type == RESPONSE or begins_usual(data, at):
            if start_line(data, at, head.type) is not None:
                self._complete()
                return at
            if len(data) - at <= self._max_head and may_become_start_line(data, at, head.type):
                return None
        self._step = self._step_if_body
        return at

    def _expect_body(self, reason: str) -> None:
        """Nothing more comes where a body or a start line should begin, or inside a line."""
        if self._step is Reader._read_part_size and self._pending:
            # A long line is not parsed again with each chunk.
            data = bytes(self._pending)
            self._pending.clear()
            if self._step(self, data, 0) is None:
                self._pending += data
            return
        if self._step is not Reader._read_body_or_head:
            return
        self._step = self._step_if_body
        data = bytes(self._pending)
        self._pending.clear()
        if data:
            if self._step is Reader._read_body and len(data) == self._remaining:
                self._step(self, data, 0)
            else:
                # Which of the two it was going to be, nobody knows.
                self._give_up(reason)

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
            beginning = _PART_SIZE_BEGINS.match(data, at)
            assert beginning is not None
            kept = beginning.end()
            if kept == len(data) and kept - at <= self._max_head:
                return None
            return self._malformed(data, at, min(kept, at + self._max_head) + 1)
        self._add(data, at, line.end(), framing=True)
        self._remaining = int(line[1], 16)
        self._step = Reader._read_part if self._remaining else Reader._read_trailer
        return line.end()

    def _read_part(self, data: bytes, at: int) -> int:
        return self._take(data, at, min(len(data), at + self._remaining))

    def _read_part_end(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\n", at, at + 2) + 1
        if data[at:end] not in _EMPTY_LINES:
            if data[at:] == b"\r":
                return None
            return self._malformed(data, at, at + (2 if data[at] == _CR else 1))
        self._add(data, at, end, framing=True)
        self._step = Reader._read_part_size
        return end

    def _read_trailer(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\n", at) + 1
        if not end:
            return None if len(data) - at <= self._max_head else self._malformed(data, at, at)
        line = data[at:end]
        self._add(data, at, end, framing=True)
        if line in _EMPTY_LINES:
            self._complete()
        elif not self._add_trailer(line):
            self._give_up(HEAD_LIMIT)
            return len(data)
        return end

    # ---- the step that finds the way back

    def _skip(self, data: bytes, at: int) -> int:
        """Nothing is known of what comes: wait for a chunk that begins with a sure start line."""
        start = self._start_line(data, at)
        if start is None or not self._is_sure(start):
            self._unknown_time = self._time
            return len(data)
        type_: Type = REQUEST if start.re is REQUEST_LINE else RESPONSE
        if self.connection.requests is None:
            self._settle(type_)
        if type_ == REQUEST:
            self.connection.missed_requests()
        else:
            self.connection.missed_responses(self._unknown_time)
        self._step = Reader._read_head
        return at

    # ---- what the steps have in common

    def _start_line(self, data: bytes, at: int) -> re.Match[bytes] | None:
        return start_line(data, at, self.connection.type_in(self._direction))

    def _is_sure(self, start: re.Match[bytes] | None) -> bool:
        """Whether a message begins at this start line of the chunk at hand."""
        # The segment of a call before this one may have held the true beginning.
        if start is None or self._chunk.flags & FLAG_CONTINUED:
            return False
        return is_sure(start)

    def _origin_at(self, at: int) -> Chunk:
        origin = self._chunk if at else self._origin
        position = self._position + at
        return origin if origin.position == position else origin._replace(position=position)

    def _add(self, data: bytes, start: int, stop: int, framing: bool = False) -> None:
        assert self._draft is not None
        self._draft.add(data, start, stop, self._time, framing)

    def _add_trailer(self, line: bytes) -> bool:
        assert self._draft is not None
        return self._draft.add_trailer(line, self._max_head)

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

    def _malformed(self, data: bytes, start: int, stop: int) -> int:
        """The message breaks the rules with ``data[start:stop]``, which it keeps."""
        self._add(data, start, stop, framing=True)
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
        if self._step is Reader._await_decision:
            self.connection.undecided = self._draft = None
        elif self._draft is not None:
            if pending:
                self._add(pending, 0, len(pending), framing=True)
            self._draft.note(reason)
            self._complete()
        elif pending:
            assert self._pending_origin is not None
            self._cut_head(pending, self._pending_origin, reason)
        self._start_anew()

    def _cut_head(self, raw: bytes, origin: Chunk, reason: str) -> None:
        """Hand out the beginning of a head, if its start line is whole: else it may be anything."""
        behind = raw.find(b"\n") + 1
        start, type_ = start_of(raw[:behind]), self.connection.type_in(self._direction)
        reasons: tuple[str, ...] = (reason,)
        if start is None or type_ not in (start.type, None):
            start = self._faulty_start(raw, 0, behind, type_)
            if start is None:
                return
            if start.type == REQUEST or None in (start.version, start.status):
                reasons = UNDECODABLE, reason
        head = self._head(start, raw[behind : raw.rfind(b"\n") + 1], origin)
        self._emit_head(head, raw, origin, *reasons)

    def _emit_head(self, head: Head, raw: bytes, origin: Chunk, *reasons: str) -> None:
        self._out.append(Message(origin, head, raw, b"", len(raw), reasons, self._time))

    def _start_anew(self) -> None:
        self._unknown_time = max(self._unknown_time, self._time)
        self._pending.clear()
        self._pending_origin = None
        self._searched = 0
        self._step = Reader._skip


_STEPS: dict[int, Step] = {
    UNTIL_CLOSE: Reader._read_until_close,
    CHUNKED: Reader._read_part_size,
}
