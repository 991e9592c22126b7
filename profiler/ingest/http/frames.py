# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames from the observer's side (RFC 9113, 4): bytes of one direction in, frames out.

:class:`FrameReader` splits one direction into frames and passes them to a :class:`Handler`. DATA is
passed on in pieces as it arrives, so that no frame has to be buffered. The few other frames that
make up a message are passed on whole, and the rest is skipped.

After a gap inside a frame, the position of the next one is known. After any other gap, and on a
connection first seen mid-stream, the reader waits for a *sure start*: a syscall whose bytes are a
plausible chain of frames (:func:`is_sure_start`).
"""

from __future__ import annotations

from sys import getsizeof
from typing import Callable, Optional, Protocol
from weakref import proxy

from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from profiler.ingest.http.draft import without_payload
from profiler.ingest.http.message import HEAD_LIMIT, UNDECODABLE
from profiler.ingest.stream import Gap
from profiler.ingest.wire import FLAG_CONTINUED, Chunk

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4

HEADER_SIZE = 9

# The frames that make up messages, besides DATA.
_WANTED = (HeadersFrame, ContinuationFrame, PushPromiseFrame, RstStreamFrame, GoAwayFrame)

# RFC 9113, 6: the least and greatest payload length of each type. No frame is longer than its
# receiver permits (4.2): 16 KiB by default; Go's server permits 1 MiB.
_LENGTH_MAX = 1 << 20
_EXTENSION_MAX = 1 << 14
_LENGTHS: dict[type[Frame], tuple[int, int]] = {
    DataFrame: (0, _LENGTH_MAX),
    HeadersFrame: (1, _LENGTH_MAX),
    PriorityFrame: (5, 5),
    RstStreamFrame: (4, 4),
    SettingsFrame: (0, 6 * 256),
    PushPromiseFrame: (4, _LENGTH_MAX),
    PingFrame: (8, 8),
    GoAwayFrame: (8, _LENGTH_MAX),
    WindowUpdateFrame: (4, 4),
    ContinuationFrame: (0, _LENGTH_MAX),
}

# What is kept of the chunk with which a frame began that is cut off.
_ORIGIN_SIZE = 500

_TYPE_MAX = max(kind.type or 0 for kind in _LENGTHS)


class Handler(Protocol):
    """Receives the frames of one direction, in order.

    ``raw`` has the bytes of a frame including its header, ``origin`` is the chunk of the first of
    them. DATA arrives as ``data_begins``, any number of ``data`` and ``data_lost``, then
    ``data_ends``.
    """

    def preface(self) -> None:
        """This is the client's direction, from its beginning."""

    def frame(self, frame: Frame, raw: bytes, origin: Chunk) -> None:
        """Handle a whole frame that is not DATA."""

    def spoilt(self, frame: Frame, raw: bytes, size: int, reason: str, origin: Chunk) -> None:
        """Handle a frame of ``size`` bytes with a header and ``raw``, but without the rest."""

    def data_begins(self, frame: Frame, raw: bytes) -> None:
        """Handle the header of a DATA frame."""

    def data(self, piece: bytes, framing: bool) -> None:
        """Handle the next piece of its payload: content, or padding (``framing``)."""

    def data_lost(self, size: int, reason: str, time: int) -> None:
        """Count the next piece of its payload, which was not seen."""

    def data_ends(self) -> None:
        """Handle the end of the DATA frame."""

    def out_of_step(self, reason: str) -> None:
        """An unknown number of frames, and the rest of the current DATA frame, were not seen."""


def is_sure_start(chunk: Chunk) -> bool:
    """Whether frames, or the client's preface, begin where ``chunk`` does.

    Programs write whole frames. They read what is available or, like Go's server, a header and then
    its payload. So the sign is a call that moved only a header, or at least one whole frame
    followed by bytes that look like frames.
    """
    data = chunk.payload
    # An earlier segment of the same call may contain the true beginning.
    if chunk.flags & FLAG_CONTINUED:
        return False
    if data.startswith(PREFACE):
        return True
    first_end = at = 0
    while len(data) - at >= HEADER_SIZE:
        length = _likely_length(data[at : at + HEADER_SIZE])
        if length is None:
            return False
        at += HEADER_SIZE + length
        first_end = first_end or at
    return len(data) == HEADER_SIZE or 0 < first_end <= len(data)


def _likely_length(header: bytes) -> int | None:
    """Return the length in a frame's header; ``None`` if no program would send that header."""
    if header[3] > _TYPE_MAX:  # true for all text and most other data
        return None
    frame, length = _parse(header)
    if frame is None or type(frame) not in _LENGTHS:
        return None
    least, most = _LENGTHS[type(frame)]
    flags = sum(bit for _, bit in frame.defined_flags)
    # RFC 9113, 4.1: undefined flags and the reserved bit are unset when sent.
    if not least <= length <= most or header[4] & ~flags or header[5] & 0x80:
        return None
    if isinstance(frame, SettingsFrame) and (length % 6 or ("ACK" in frame.flags and length)):
        return None
    # Allowed but useless, and zeros are frequent in all kinds of data.
    if isinstance(frame, DataFrame) and not length and "END_STREAM" not in frame.flags:
        return None
    return length


def _parse(header: bytes) -> tuple[Frame | None, int]:
    """Return the frame that ``header`` announces and its length; ``None`` if it is invalid."""
    try:
        return Frame.parse_frame_header(memoryview(header))
    except HyperframeError:
        return None, 0


Step = Callable[["FrameReader", bytes, int], Optional[int]]


class FrameReader:
    """One direction.

    ``time`` is that of the last bytes, ``rest`` the part of the last chunk after it broke the
    rules.
    """

    __slots__ = (
        "_frame",
        "_frame_origin",
        "_handler",
        "_max_payload",
        "_need",
        "_origin",
        "_padding",
        "_pending",
        "_position",
        "_prefix",
        "_reason",
        "_remaining",
        "_step",
        "rest",
        "time",
    )  # fmt: skip

    def __init__(self, handler: Handler, max_payload: int, preface: bool, joined: bool) -> None:
        """Read a direction that begins with the ``preface``, a frame, or was ``joined`` later.

        A frame that is not DATA is spoilt if its payload has more than ``max_payload`` bytes.
        """
        # The handler has this reader. Objects that hold each other stay in memory until the next
        # garbage collection of all objects, which a flood of connections does not wait for.
        self._handler: Handler = proxy(handler)
        self._max_payload = max_payload
        self._pending = bytearray()
        self._need = 0  # bytes that the next step needs
        self._step: Step | None = None  # None: out of step
        if preface:
            self._expect_preface()
        elif not joined:
            self._expect_header()
        self._frame: Frame
        self._frame_origin: Chunk
        self._remaining = 0  # missing bytes of the payload of _frame
        self._padding = 0  # how many of them are padding, as far as known
        self._reason: str | None = None  # why _frame is spoilt, ...
        self._prefix = b""  # ... and its part that arrived before
        self.rest = b""
        self.time = 0
        self._origin: Chunk | None = None  # of the first of the current bytes
        self._position = 0  # in the stream, of the first of the current bytes

    @property
    def held(self) -> int:
        """The bytes of memory that wait for the rest of their frame, and those after the last."""
        held = len(self._prefix) + len(self.rest)
        return held + getsizeof(self._pending) + _ORIGIN_SIZE if self._pending else held

    def feed(self, chunk: Chunk) -> None:
        """Read the bytes of ``chunk``."""
        self.time = chunk.time
        self.rest = b""
        data = chunk.payload
        if self._step is None:
            if not is_sure_start(chunk):
                return
            if data.startswith(PREFACE):
                self._expect_preface()
            else:
                self._expect_header()
        pending = self._pending
        self._position = chunk.position - len(pending)
        if pending:
            pending += data
            if len(pending) < self._need:
                return
            data = bytes(pending)
            pending.clear()
        else:
            self._origin = chunk
        at = 0
        while at < len(data) and self._step is not None:
            behind = self._step(self, data, at)
            if behind is None:
                pending += data[at:]
                break
            if behind > at:
                self._origin = chunk
            at = behind
        # An idle connection must not keep a payload alive.
        self._origin = without_payload(self._origin or chunk) if pending else None

    def gap(self, gap: Gap) -> None:
        """Bytes were not seen: stay in step if the next frame's position is known."""
        size, step = gap.size, self._step
        if step is None:
            return
        if step in (FrameReader._read_preface, FrameReader._read_header) or size is None:
            self._lose_step(gap.reason)
            return
        if step is FrameReader._read_frame:
            self._spoil(gap.reason)
        lost = min(size, self._remaining)
        self._remaining -= lost
        if isinstance(self._frame, DataFrame):
            self._step = FrameReader._read_data
            self._handler.data_lost(lost, gap.reason, gap.time)
        if lost < size:
            self._lose_step(gap.reason)
        elif not self._remaining:
            self._end_frame()

    def finish(self, reason: str) -> None:
        """No more bytes follow: a frame that waits for them is spoilt, with ``reason``."""
        self._abandon_frame(reason)
        self._step = None

    # ---- steps

    def _read_preface(self, data: bytes, at: int) -> int | None:
        if len(data) - at < len(PREFACE):
            return None
        if not data.startswith(PREFACE, at):
            self._lose_step(UNDECODABLE)
            return at
        self._handler.preface()
        self._expect_header()
        return at + len(PREFACE)

    def _read_header(self, data: bytes, at: int) -> int | None:
        behind = at + HEADER_SIZE
        if len(data) < behind:
            return None
        frame, length = _parse(data[at:behind])
        if frame is None or not _fits(frame, length):
            self.rest = data[at:]
            self._lose_step(UNDECODABLE)
            return at
        assert self._origin is not None
        self._frame = frame
        self._frame_origin = self._origin._replace(payload=b"", position=self._position + at)
        frame.body_len = length
        self._remaining, self._padding, self._reason = length, 0, None
        if isinstance(frame, DataFrame):
            padded = "PADDED" in frame.flags and length
            self._step = FrameReader._read_pad_length if padded else FrameReader._read_data
            self._need = 1
            self._handler.data_begins(frame, data[at:behind])
        elif isinstance(frame, _WANTED) and length <= self._max_payload:
            self._step = FrameReader._read_frame
            self._need = HEADER_SIZE + length
            return at
        else:
            self._step = FrameReader._pass
            if isinstance(frame, _WANTED):
                self._reason, self._prefix = HEAD_LIMIT, data[at:behind]
        if not length:
            self._end_frame()
        return behind

    def _read_frame(self, data: bytes, at: int) -> int | None:
        behind = at + self._need
        if len(data) < behind:
            return None
        raw = data[at:behind]
        frame, origin = self._frame, self._frame_origin
        # An idle connection must not keep its last frame alive.
        del self._frame, self._frame_origin
        self._expect_header()
        try:
            frame.parse_body(memoryview(raw)[HEADER_SIZE:])
        except HyperframeError:
            self._handler.spoilt(frame, raw, len(raw), UNDECODABLE, origin)
        else:
            self._handler.frame(frame, raw, origin)
        return behind

    def _read_pad_length(self, data: bytes, at: int) -> int:
        self._remaining -= 1
        self._padding = min(data[at], self._remaining)
        self._step = FrameReader._read_data
        self._handler.data(data[at : at + 1], framing=True)
        if not self._remaining:
            self._end_frame()
        return at + 1

    def _read_data(self, data: bytes, at: int) -> int:
        content = self._remaining - self._padding
        size = min(len(data) - at, content if content > 0 else self._remaining)
        self._remaining -= size
        self._handler.data(data[at : at + size], framing=content <= 0)
        if not self._remaining:
            self._end_frame()
        return at + size

    def _pass(self, data: bytes, at: int) -> int:
        size = min(len(data) - at, self._remaining)
        self._remaining -= size
        if not self._remaining:
            self._end_frame()
        return at + size

    # ---- shared by the steps

    def _expect_preface(self) -> None:
        self._step = FrameReader._read_preface
        self._need = len(PREFACE)

    def _expect_header(self) -> None:
        self._step = FrameReader._read_header
        self._need = HEADER_SIZE

    def _end_frame(self) -> None:
        if isinstance(self._frame, DataFrame):
            self._expect_header()
            self._handler.data_ends()
        else:
            self._abandon_frame("")
            self._expect_header()

    def _spoil(self, reason: str) -> None:
        """The current frame will never be whole."""
        self._reason, self._prefix = reason, bytes(self._pending)
        self._remaining = self._need - len(self._prefix)
        self._pending.clear()
        self._step = FrameReader._pass

    def _abandon_frame(self, reason: str) -> None:
        if self._step is FrameReader._read_frame:
            self._spoil(reason)
        if self._step is FrameReader._pass and self._reason is not None:
            size = HEADER_SIZE + self._frame.body_len
            prefix, self._prefix = self._prefix, b""
            self._handler.spoilt(self._frame, prefix, size, self._reason, self._frame_origin)

    def _lose_step(self, reason: str) -> None:
        self._abandon_frame(reason)
        self._step = None
        self._pending.clear()
        self._handler.out_of_step(reason)


def _fits(frame: Frame, length: int) -> bool:
    """Whether a ``frame`` may have ``length`` bytes of payload."""
    least, most = _LENGTHS.get(type(frame), (0, _EXTENSION_MAX))
    # RFC 9113, 4.2: a receiver may permit frames of up to 16 MiB.
    return least <= length and (length <= most or most == _LENGTH_MAX)
