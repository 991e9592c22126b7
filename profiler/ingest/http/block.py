# SPDX-License-Identifier: Apache-2.0
"""A header block being read: its first frame, and its CONTINUATIONs (RFC 9113, 4.3)."""

from __future__ import annotations

from sys import getsizeof
from typing import Union

from hyperframe.frame import HeadersFrame, PushPromiseFrame

from profiler.ingest.http.message import HEAD_LIMIT
from profiler.ingest.wire import Chunk

# What a block takes besides its bytes: itself and its origin.
_OWN_SIZE = 1000

Beginning = Union[HeadersFrame, PushPromiseFrame]


class Block:
    """A header block, until the frame with END_HEADERS.

    ``raw`` are the first of the ``size`` bytes of its frames. ``carrier`` is the stream that its
    frames are sent on. The first frame itself is not kept, because it has a copy of the bytes.
    """

    __slots__ = (
        "carrier", "ends_stream", "fragments", "is_promise", "origin", "raw", "reason", "size",
        "stream",
    )  # fmt: skip

    def __init__(self, frame: Beginning, origin: Chunk) -> None:
        self.carrier: int = frame.stream_id
        # A request that the server promises (RFC 9113, 6.6).
        self.is_promise = isinstance(frame, PushPromiseFrame)
        self.stream = self.carrier
        if isinstance(frame, PushPromiseFrame):
            self.stream = frame.promised_stream_id
        self.ends_stream = "END_STREAM" in frame.flags  # no body follows
        self.origin = origin
        self.raw = bytearray()
        self.size = 0
        self.fragments = bytearray()
        self.reason: str | None = None  # why it cannot be decoded

    @property
    def held(self) -> int:
        """The bytes of memory that the block takes."""
        return _OWN_SIZE + getsizeof(self.raw) + getsizeof(self.fragments)

    def add(self, raw: bytes, size: int, fragment: bytes, reason: str | None, limit: int) -> None:
        """Append a frame; at most ``limit`` raw bytes of all frames are kept."""
        if self.size == len(self.raw):
            self.raw += raw[: limit - self.size]
        self.size += size
        if self.reason is None:
            self.reason = HEAD_LIMIT if self.size > limit else reason
        if self.reason is None:
            self.fragments += fragment
