# SPDX-License-Identifier: Apache-2.0
"""Every default of the profiler, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiler.exchanges.conditions import ALL, Conditions, Filters

ROUTES = ("socket", "syscall")
BUFFERS = ("ring", "perf")
TYPES = ("btf", "headers")
ENGINES = ("bcc", "bpftrace")
FORMATS = ("pretty", "jsonl")

# What one syscall may hand over; see PIECES_MAX and PAYLOAD_MAX in bpf/event.h.
CALL_LIMIT = 64 * 16383


# What a connection may hold besides bodies: heads, requests that wait, chunks that came early.
CONNECTION_MEMORY = 4 * 1024 * 1024

# Characters of each body that a report has: a page must open in a browser.
REPORT_BODY = 16 * 1024


@dataclass(frozen=True)
class Settings:
    """What to capture and where to put it. Sizes are in bytes."""

    output: Path | None = None
    """Where JSON lines go; ``None`` is standard output."""

    format: str | None = None
    """``pretty`` or ``jsonl``; ``None``: ``pretty`` if standard output is a terminal."""

    redact: bool | None = None
    """Whether secrets become placeholders; ``None``: they do in ``pretty``, not in ``jsonl``."""

    where: Conditions = ALL
    """Which calls, messages and exchanges are wanted."""

    duration: float | None = None
    """Seconds after which a capture ends by itself."""

    count: int | None = None
    """Messages after which it does; no more than these are written."""

    max_body: int = 1024 * 1024
    """Bytes of one message's framed body, and of its decoded content, that are kept."""

    max_head: int = 64 * 1024
    """Bytes of one message's start line and headers; a longer head is not HTTP."""

    max_memory: int = 256 * 1024 * 1024
    """Bytes of memory that all open connections together may hold."""

    max_connection_memory: int | None = None
    """Bytes of memory that one connection may hold; ``None``: see ``connection_memory``."""

    route: str | None = None
    """``socket`` or ``syscall``; ``None`` takes the better one that the kernel offers."""

    buffer: str | None = None
    """``ring`` or ``perf``; ``None`` takes the ring buffer where the kernel has one."""

    types: str | None = None
    """Where the kernel's structures are described: ``btf`` or ``headers``; ``None``: BTF if any."""
    engine: str = "bcc"
    """What loads the probe: ``bcc`` or ``bpftrace``."""

    record: Path | None = None
    """Where the raw capture is written, to be replayed later."""

    ring_bytes: int = 16 * 1024 * 1024
    """Size of the ring buffer between kernel and profiler; a power of two."""

    stats: Path | None = None
    """Where the counts are written at an interval, as JSON lines."""

    stats_seconds: float = 10.0
    """That interval."""

    @property
    def filters(self) -> Filters:
        """What of ``where`` the kernel can decide."""
        return self.where.filters

    @property
    def connection_memory(self) -> int:
        """``max_connection_memory``; else room for a body each way, as captured and as content."""
        if self.max_connection_memory is not None:
            return self.max_connection_memory
        return CONNECTION_MEMORY + 4 * self.max_body

    @property
    def call_limit(self) -> int:
        """Bytes of one syscall that are copied: room for a head and a body, up to CALL_LIMIT."""
        return min(CALL_LIMIT, self.max_head + self.max_body)
