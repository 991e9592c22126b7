# SPDX-License-Identifier: Apache-2.0
"""A message while it is being read.

Only a message that spans several chunks needs a draft. It keeps bytes until the first gap, or until
``max_body`` bytes follow the head, and then only counts: ``message.py`` explains why the kept bytes
must be a prefix. Trailers are fields, like those of the head. They are kept separately, even after
a gap.
"""

from __future__ import annotations

from sys import getsizeof

from profiler.ingest.http.fields import parse_fields
from profiler.ingest.http.message import Head, Message, head_size
from profiler.ingest.stream import BODY_LIMIT
from profiler.ingest.wire import Chunk, construct

# The memory of a draft besides its bytes and its head: itself and its origin. Measured, see
# tests/unit/test_memory.py.
_OWN_SIZE = 1000


def without_payload(chunk: Chunk) -> Chunk:
    """Return ``chunk`` without its payload, as an origin to keep while its message is read."""
    # The payload is the last field; ``_replace`` would iterate over all of them.
    return construct(Chunk, (*chunk[:-1], b""))


class Draft:
    """``content`` is the body without its framing; ``None`` where the body has no framing."""

    __slots__ = (
        "_content", "_fixed_size", "_head_size", "_hole", "_last_time", "_origin", "_raw",
        "_reasons", "_room", "_size", "_trailers", "head",
    )  # fmt: skip

    def __init__(
        self, origin: Chunk, head: Head, raw: bytes, time: int, room: int, framed: bool
    ) -> None:
        self.head = head
        self._origin = origin
        self._raw = bytearray(raw)
        self._head_size = self._size = len(raw)
        self._fixed_size = (
            0  # not counted yet: most drafts of HTTP/2 end with the call that began them
        )
        self._last_time = time
        self._room = room
        self._content = bytearray() if framed else None
        self._trailers = bytearray()
        self._hole = False
        self._reasons: list[str] = []

    def add(self, data: bytes, start: int, stop: int, time: int, framing: bool = False) -> None:
        """Append ``data[start:stop]``, which is ``framing`` or content."""
        self._size += stop - start
        self._last_time = time
        if self._hole:
            return
        if stop - start > self._room:
            self.note(BODY_LIMIT)
            stop = start + self._room
        self._room -= stop - start
        piece = data[start:stop]
        self._raw += piece
        if self._content is not None and not framing:
            self._content += piece

    def add_trailer(self, line: bytes, limit: int) -> bool:
        """Append a line of the trailer section; ``False``: the section exceeds ``limit`` bytes."""
        self._trailers += line
        return len(self._trailers) <= limit

    def lose(self, size: int, reason: str, time: int) -> None:
        """Count ``size`` bytes that were not seen."""
        self._size += size
        self._last_time = time
        self._hole = True
        self.note(reason)

    def note(self, reason: str) -> None:
        """Add ``reason`` to the reasons why the message is incomplete."""
        if reason not in self._reasons:
            self._reasons.append(reason)

    @property
    def held(self) -> int:
        """The bytes of memory of this draft."""
        if not self._fixed_size:
            self._fixed_size = _OWN_SIZE + head_size(self.head)
        content = 0 if self._content is None else getsizeof(self._content)
        return self._fixed_size + getsizeof(self._raw) + content + len(self._trailers)

    def message(self) -> Message:
        """Return a message of what has been read so far."""
        raw = bytes(self._raw)
        body = raw[self._head_size :] if self._content is None else bytes(self._content)
        trailers = parse_fields(bytes(self._trailers)) if self._trailers else None
        return Message(
            self._origin, self.head, raw, body, self._size, tuple(self._reasons), self._last_time,
            trailers,
        )  # fmt: skip
