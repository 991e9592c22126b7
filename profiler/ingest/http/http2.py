# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 without TLS from the observer's side (RFC 9113): frames of one direction in, messages out.

A :class:`Reader` reads one direction. Flow control, priorities and settings
concern the endpoints alone.

A message ends with END_STREAM, with RST_STREAM from either side, or with its
direction. Where a direction cannot be followed (a hole between frames, or bytes
that are no frame) the messages that are open in it are handed out with the
reason, since nobody knows whose bytes were there.

The bytes of a message are the frames that carry it - HEADERS, CONTINUATION,
PUSH_PROMISE, DATA - from header to padding, one behind the other; frames of
other streams may have stood between them.

gRPC is what this carries: length-prefixed messages as body, the status in the trailers.
"""

from __future__ import annotations

import re
from math import inf

from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PushPromiseFrame,
    RstStreamFrame,
)

from profiler.ingest.http.block import Block
from profiler.ingest.http.draft import Draft
from profiler.ingest.http.fields import Fields, decode, fields_of
from profiler.ingest.http.frames import FrameReader
from profiler.ingest.http.framing import is_interim
from profiler.ingest.http.header_state import BlockError, HeaderState, Pairs
from profiler.ingest.http.message import (
    REQUEST,
    RESPONSE,
    STREAM_LIMIT,
    UNDECODABLE,
    UNKNOWN_HEADER_STATE,
    Head,
    Message,
    Output,
    Request,
    Type,
    no_response,
)
from profiler.ingest.http.streams import STREAMS_MAX, Connection
from profiler.ingest.settings import Settings
from profiler.ingest.stream import CLOSED_EARLY, LOST, RESET, Finish, Gap
from profiler.ingest.wire import RECV, SEND, Chunk

# RFC 9113, 7
_ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
    "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
    "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip

HTTP1 = "http/1.1"

_STATUS = re.compile(r"[0-9]{3}\Z")

_OF_REQUEST = (":method", ":scheme", ":authority", ":path")


def error_name(code: int) -> str:
    """Return the name of an error code (RFC 9113, 7), or its number as ``0x...``."""
    return _ERRORS[code] if code < len(_ERRORS) else f"{code:#x}"


class _Open:
    """A message that is not complete."""

    __slots__ = ("draft", "held", "trailers")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.held = 0  # as it was counted last
        self.trailers: Fields | None = None


class Reader:
    """One direction of one connection; a :class:`~profiler.ingest.http.frames.Handler`.

    ``over`` is set to ``""`` if this turns out not to be HTTP/2, and to ``http/1.1``
    if the server, who does not know HTTP/2, answers ``rest`` by that. ``finished``
    is set once the direction has ended.
    """

    __slots__ = (
        "__weakref__", "_block", "_data", "_direction", "_frames", "_held", "_max_body",
        "_max_head", "_open", "_out", "_since", "_state", "_whole", "connection", "finished",
        "other", "over",
    )  # fmt: skip

    def __init__(
        self, direction: int, connection: Connection, settings: Settings, joined: bool
    ) -> None:
        """``joined``: the direction carried bytes before those that come."""
        self.other: Reader
        self.finished = False
        self.over: str | None = None
        self._direction = direction
        self.connection = connection
        self._max_head = settings.max_head
        self._max_body = settings.max_body
        preface = connection.requests == direction
        self._frames = FrameReader(self, settings.max_head, preface, joined)
        self._state = HeaderState(settings.max_head, joined)
        self._whole = not joined  # no frame has been missed
        # Every response to a later request is seen. Out of step this is not known until one is
        # read: what looks like a frame may be none.
        self._since = inf if joined else 0.0
        self._open: dict[int, _Open] = {}  # by stream
        self._block: Block | None = None
        # The DATA frame at hand: its message, if that is known, its stream, whether it ends that.
        self._data: tuple[_Open | None, int, bool] = None, 0, False
        self._held = 0
        self._out: list[Output]  # only there while something is being read

    def close(self) -> None:
        """The connection is forgotten: release the other direction, which has this one."""
        del self.other

    # ---- what comes from the stream

    def feed(self, chunk: Chunk, out: list[Output]) -> None:
        """Read the bytes of ``chunk``; append to ``out`` the messages that they complete."""
        self._out = out
        self._frames.feed(chunk)
        del self._out

    def gap(self, gap: Gap, out: list[Output]) -> None:
        """Bytes were not seen: stay in step where their place is known, else start anew."""
        self._out = out
        self._frames.gap(gap)
        del self._out

    def finish(self, out: list[Output], ended: bool, end: Finish | None = None) -> None:
        """Nothing more comes: the stream has ``ended``, or nobody will see its end.

        ``end`` is that of the direction; ``None``: the capture ends.
        """
        self.finished = True
        reason = CLOSED_EARLY if end is None else end.reason
        self.give_up(reason, out, self.connection.error)
        if end is None:
            return
        if end.unseen:
            self._since = inf
        if self._answering.finished:
            for stream, request in self.connection.unanswered():
                self._never_answered(request, stream, end.time, reason, self.connection.error, out)

    def give_up(self, reason: str, out: list[Output], error: str | None = None) -> None:
        """Hand out what there is, for ``reason``, and hold nothing any more."""
        self._out = out
        self._frames.finish(reason)
        self._give_up(reason, error)
        del self._out

    @property
    def rest(self) -> bytes:
        """What the last chunk holds of what is no HTTP/2."""
        return self._frames.rest

    @property
    def held(self) -> int:
        """Bytes of memory that the messages being read, and the header table, take."""
        block = 0 if self._block is None else self._block.held
        return self._held + self._frames.held + block + self._state.held

    # ---- what comes from the frames

    def preface(self) -> None:
        """Take notice that this is the client's direction, from its beginning on."""
        self.connection.requests = self._direction
        self._state = HeaderState(self._max_head, joined=False)
        self._whole = True

    def frame(self, frame: Frame, raw: bytes, origin: Chunk) -> None:
        """Take a whole frame that is not DATA."""
        if isinstance(frame, (HeadersFrame, PushPromiseFrame, ContinuationFrame)):
            self._add_to_block(frame, raw, len(raw), frame.data, None, origin)
            return
        self._end_block(UNDECODABLE)
        if isinstance(frame, RstStreamFrame):
            self._reset(frame.stream_id, error_name(frame.error_code))
        elif isinstance(frame, GoAwayFrame) and frame.error_code:
            self.connection.error = error_name(frame.error_code)

    def spoilt(self, frame: Frame, raw: bytes, size: int, reason: str, origin: Chunk) -> None:
        """Take a frame of ``size`` bytes that has its header, and ``raw``, but not the rest."""
        if isinstance(frame, (HeadersFrame, PushPromiseFrame, ContinuationFrame)):
            self._add_to_block(frame, raw, size, b"", reason, origin)
        elif isinstance(frame, RstStreamFrame):
            self._reset(frame.stream_id, None)

    def data_begins(self, frame: Frame, raw: bytes) -> None:
        """Take the header of a DATA frame."""
        self._end_block(UNDECODABLE)
        stream = frame.stream_id
        self._data = self._open.get(stream), stream, "END_STREAM" in frame.flags
        self.data(raw, framing=True)

    def data(self, piece: bytes, framing: bool) -> None:
        """Take what comes next of its payload: content, or padding (``framing``)."""
        opened = self._data[0]
        if opened is not None:
            opened.draft.add(piece, 0, len(piece), self._frames.time, framing)
            self._count(opened)

    def data_lost(self, size: int, reason: str, time: int) -> None:
        """Count what comes next of its payload, and was not seen."""
        opened = self._data[0]
        if opened is not None:
            opened.draft.lose(size, reason, time)

    def data_ends(self) -> None:
        """Take notice of the end of the DATA frame."""
        _, stream, ends_stream = self._data
        # A stream that was reset meanwhile has no message any more.
        if ends_stream and stream in self._open:
            self._hand_out(stream)

    def out_of_step(self, reason: str) -> None:
        """Nobody knows what was missed: hand out what there is, and forget what was learnt."""
        if reason == UNDECODABLE:
            if self.connection.requests == 1 - self._direction and self.rest.startswith(b"HTTP/1."):
                self.over = HTTP1
            elif not self.connection.proven:
                self.over = ""
        self._give_up(reason)
        self._whole = False
        self._since = inf
        self._state.forget()

    # ---- header blocks (RFC 9113, 4.3)

    def _add_to_block(
        self, frame: Frame, raw: bytes, size: int, fragment: bytes, reason: str | None,
        origin: Chunk,
    ) -> None:  # fmt: skip
        if isinstance(frame, (HeadersFrame, PushPromiseFrame)):
            self._end_block(UNDECODABLE)
            self._block = Block(frame, origin)
        block = self._block
        if block is None or frame.stream_id != block.carrier:
            # It continues what nobody has seen, or what it must not.
            self._end_block(UNDECODABLE)
            self._state.forget()
            return
        block.add(raw, size, fragment, reason, self._max_head)
        if "END_HEADERS" in frame.flags:
            self._end_block(None)

    def _end_block(self, reason: str | None) -> None:
        """The block at hand is complete; or, for ``reason``, it never will be."""
        block, self._block = self._block, None
        if block is None:
            return
        pairs: Pairs = []
        missed = False
        reason = block.reason or reason
        if reason is not None:
            self._state.forget()
        else:
            try:
                pairs, missed = self._state.decode(bytes(block.fragments))
            except BlockError as error:
                reason = error.reason
        fields = fields_of((decode(name), decode(value)) for name, value in pairs)
        self._take_section(block, fields, UNKNOWN_HEADER_STATE if missed else reason)

    def _take_section(self, block: Block, fields: Fields, reason: str | None) -> None:
        """A header or trailer section was sent; for ``reason`` not all its fields are known."""
        stream = block.stream
        opened = self._open.get(stream)
        if opened is not None and block.ends_stream and ":status" not in fields.headers:
            raw = bytes(block.raw)
            opened.draft.add(raw, 0, len(raw), self._frames.time, framing=True)
            self._note(opened.draft, block, reason)
            opened.trailers = fields
            self._hand_out(stream)
            return
        if opened is not None:
            # RFC 9113, 8.1: only an interim response may stand before; its status was unknown.
            if opened.draft.head.type == REQUEST or opened.draft.head.status is not None:
                opened.draft.note(UNDECODABLE)
            self._hand_out(stream, final=False)
        type_ = self._type_of(block, fields, reason)
        if type_ is not None:
            self._begin(type_, block, fields, reason)

    def _type_of(self, block: Block, fields: Fields, reason: str | None) -> Type | None:
        """Return what begins with ``fields``; ``None`` if nothing does, or nobody can tell."""
        connection, names = self.connection, fields.headers
        if block.is_promise:
            if connection.requests is None:
                connection.requests = 1 - self._direction
            # Of a frame that is spoilt the promised stream is not known.
            return REQUEST if block.stream else None
        is_request = any(name in names for name in _OF_REQUEST)
        if is_request or ":status" in names:
            if connection.requests is None:
                connection.requests = self._direction if is_request else 1 - self._direction
        elif reason is None or (block.ends_stream and not self._whole):
            # Trailers; or what may be those of a message whose beginning was not seen.
            return None
        if connection.requests is None:
            return None
        return REQUEST if connection.requests == self._direction else RESPONSE

    def _begin(self, type_: Type, block: Block, fields: Fields, reason: str | None) -> None:
        connection, stream = self.connection, block.stream
        connection.proven = True
        if type_ == REQUEST:
            method = fields.get(":method")
            target = fields.get(":path")
            # RFC 9113, 8.5: CONNECT has an authority instead of a path.
            if target is None and method == "CONNECT":
                target = fields.get(":authority")
            request = connection.ask(stream, method, target, fields.host, block.origin)
            head = Head(REQUEST, "2", method, target, None, None, fields, request, stream)
            is_sound = method is not None and target is not None
        else:
            code = fields.get(":status")
            status = int(code) if code is not None and _STATUS.match(code) else None
            asked = connection.asked(stream)
            head = Head(RESPONSE, "2", None, None, status, None, fields, asked, stream)
            is_sound = status is not None
            if is_sound:
                self._since = min(self._since, block.origin.time)
        if reason is None and not is_sound:
            reason = UNDECODABLE
        raw, time = bytes(block.raw), self._frames.time
        draft = Draft(block.origin, head, raw, time, self._max_body, framed=True)
        self._note(draft, block, reason)
        self._open[stream] = opened = _Open(draft)
        # RFC 9110, 15.2: a 1xx response is an interim one.
        interim = type_ == RESPONSE and is_interim(head.status)
        if block.ends_stream or interim or block.is_promise:
            self._hand_out(stream, final=not interim or block.ends_stream)
            return
        self._count(opened)
        if len(self._open) > STREAMS_MAX:
            oldest = next(iter(self._open))
            self._open[oldest].draft.note(STREAM_LIMIT)
            self._hand_out(oldest)

    # ---- messages

    def _note(self, draft: Draft, block: Block, reason: str | None) -> None:
        if reason is not None:
            draft.note(reason)
        if block.size > len(block.raw):
            draft.lose(block.size - len(block.raw), reason or LOST, self._frames.time)

    def _count(self, opened: _Open) -> None:
        held = opened.draft.held
        self._held += held - opened.held
        opened.held = held

    def _reset(self, stream: int, error: str | None) -> None:
        """RFC 9113, 6.4: both directions of the stream end here."""
        request = self.connection.answered(stream)
        for reader in (self, self.other):
            if stream in reader._open:
                reader._open[stream].draft.note(RESET)
                message = reader._close(stream, error)
                self._out.append(message)
                if message.head.type == RESPONSE:
                    request = None
        if request is not None:
            self._never_answered(request, stream, self._frames.time, RESET, error, self._out)
            # Whoever resets a stream sends nothing more on it.
            if self.connection.requests == self._direction:
                self.connection.reset(stream, request)

    @property
    def _answering(self) -> Reader:
        """The direction of responses."""
        return self.other if self.connection.requests == self._direction else self

    def _never_answered(
        self, request: Request, stream: int, time: int, reason: str, error: str | None,
        out: list[Output],
    ) -> None:  # fmt: skip
        """Report a request, unless its response may be among bytes that were not read.

        One without a method may be no request: after a hole, data can look like a header block.
        """
        answering = self._answering
        if request.method is not None and request.origin.time > answering._since:
            out.append(no_response(request, answering._direction, time, reason, stream, error))

    def _give_up(self, reason: str, error: str | None = None) -> None:
        self._end_block(reason)
        for stream, opened in [*self._open.items()]:
            opened.draft.note(reason)
            self._hand_out(stream, error=error)

    def _hand_out(self, stream: int, final: bool = True, error: str | None = None) -> None:
        message = self._close(stream, error)
        self._out.append(message)
        if final and message.head.type == RESPONSE:
            self.connection.answered(stream)

    def _close(self, stream: int, error: str | None) -> Message:
        opened = self._open.pop(stream)
        self._held -= opened.held
        if self._data[0] is opened:
            self._data = None, stream, False
        return opened.draft.message()._replace(trailers=opened.trailers, error_code=error)


def readers(
    settings: Settings,
    joined: bool,
    requests: int | None = None,
    upgraded: Request | None = None,
) -> tuple[Reader, Reader]:
    """Return the readers, by direction, of a connection.

    ``joined``: it carried bytes before those that come. ``requests`` is the
    client's direction, if that is known, ``upgraded`` the HTTP/1 request whose
    response comes on stream 1 (RFC 7540, 3.2).
    """
    connection = Connection(requests, upgraded)
    sender = Reader(SEND, connection, settings, joined)
    receiver = Reader(RECV, connection, settings, joined)
    sender.other, receiver.other = receiver, sender
    return sender, receiver
