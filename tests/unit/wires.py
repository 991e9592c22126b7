# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of a test: chunks and ends of one socket, in order."""

from __future__ import annotations

from profiler.ingest.wire import AF_INET, CHUNK, FLAG_AFTER_LOSS, RECV, SEND, Chunk, End

SOCKET = 4242
SECOND = 1_000_000_000


def chunk(payload: bytes = b"", **fields: object) -> Chunk:
    """A chunk with typical values; ``size`` and ``captured`` follow from ``payload``."""
    values: dict[str, object] = {
        "kind": CHUNK,
        "direction": SEND,
        "family": AF_INET,
        "flags": 0,
        "syscall": -1,
        "time": SECOND,
        "pid": 100,
        "tid": 101,
        "start_time": 7,
        "socket": SOCKET,
        "position": 0,
        "size": len(payload),
        "captured": len(payload),
        "netns": 4026531840,
        "sequence": 0,
        "local_port": 50000,
        "remote_port": 80,
        "local": bytes([127, 0, 0, 1]).ljust(16, b"\0"),
        "remote": bytes([127, 0, 0, 2]).ljust(16, b"\0"),
        "comm": b"curl".ljust(16, b"\0"),
        "payload": payload,
    }
    return Chunk(**{**values, **fields})  # type: ignore[arg-type]


class Wire:
    """One socket, as the kernel reports it: keeps the positions and a clock."""

    def __init__(self, socket: int = SOCKET) -> None:
        self.socket = socket
        self.time = SECOND
        self.position = {SEND: 0, RECV: 0}
        self._after_loss = {SEND: 0, RECV: 0}

    def send(self, payload: bytes, **fields: object) -> Chunk:
        return self._chunk(SEND, payload, fields)

    def recv(self, payload: bytes, **fields: object) -> Chunk:
        return self._chunk(RECV, payload, fields)

    def lose(self, direction: int, size: int) -> None:
        """Move ``size`` bytes that are not reported."""
        self.position[direction] += size
        self._after_loss[direction] = FLAG_AFTER_LOSS

    def end(self, direction: int) -> End:
        self.time += SECOND
        return End(direction, self.time, self.socket, self.position[direction])

    def _chunk(self, direction: int, payload: bytes, fields: dict[str, object]) -> Chunk:
        self.time += SECOND
        position = self.position[direction]
        item = chunk(
            payload,
            **{
                "direction": direction,
                "time": self.time,
                "socket": self.socket,
                "position": position,
                "flags": self._after_loss[direction],
                **fields,
            },
        )
        self.position[direction] += item.size
        self._after_loss[direction] = 0
        return item
