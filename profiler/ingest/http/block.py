# SPDX-License-Identifier: Apache-2.0
"""A header block being read: its first frame, and its CONTINUATIONs (RFC 9113, 4.3)."""

from __future__ import annotations

from typing import Union

from hyperframe.frame import HeadersFrame, PushPromiseFrame

from profiler.ingest.http.message import HEAD_LIMIT
from profiler.ingest.wire import Chunk

Beginning = Union[HeadersFrame, PushPromiseFrame]


class Block:
    """A header block, until the frame with END_HEADERS.

    ``raw`` are the first of the ``size`` bytes of its frames.
    """

    __slots__ = ("fragments", "frame", "origin", "raw", "reason", "size", "stream")

    def __init__(self, frame: Beginning, origin: Chunk) -> None:
        self.frame = frame
        self.stream: int = frame.stream_id
        if isinstance(frame, PushPromiseFrame):
            self.stream = frame.promised_stream_id
        self.origin = origin
        self.raw = bytearray()
        self.size = 0
        self.fragments = bytearray()
        self.reason: str | None = None  # why it cannot be decoded

    @property
    def is_promise(self) -> bool:
        """Whether this is a request that the server promises (RFC 9113, 6.6)."""
        return isinstance(self.frame, PushPromiseFrame)

    @property
    def ends_stream(self) -> bool:
        """Whether no body follows."""
        return "END_STREAM" in self.frame.flags

    def add(self, raw: bytes, size: int, fragment: bytes, reason: str | None, limit: int) -> None:
        """Append a frame; at most ``limit`` raw bytes of all frames are kept."""
        if self.size == len(self.raw):
            self.raw += raw[: limit - self.size]
        self.size += size
        if self.reason is None:
            self.reason = HEAD_LIMIT if self.size > limit else reason
        if self.reason is None:
            self.fragments += fragment
