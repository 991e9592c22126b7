# SPDX-License-Identifier: Apache-2.0
"""The profiler's settings and their defaults, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiler.exchanges.conditions import ALL, Conditions, Filters
from profiler.outputs import Rotation

ROUTES = ("socket", "syscall")
BUFFERS = ("ring", "perf")
TYPES = ("btf", "headers")
ENGINES = ("bcc", "bpftrace")
FORMATS = ("pretty", "jsonl")

# Bytes of one syscall that the probe can forward: PIECES_MAX and PAYLOAD_MAX in bpf/event.h.
CALL_LIMIT = 64 * 16383


# What a connection may hold besides bodies: heads, unanswered requests, chunks out of order.
CONNECTION_MEMORY = 4 * 1024 * 1024

# Characters of each body in a report: a browser must be able to open the page.
REPORT_BODY = 16 * 1024


@dataclass(frozen=True)
class Settings:
    """What to capture and where to put it. Sizes are in bytes."""

    output: Path | None = None
    """Where JSON lines go; ``None`` is standard output."""

    output_max_size: int = 0
    """Bytes of the output file, which is rotated before it exceeds them; 0: no limit."""

    output_files: int = 5
    """Old output files that a rotation keeps."""

    format: str | None = None
    """``pretty`` or ``jsonl``; ``None`` is ``pretty`` if standard output is a terminal."""

    redact: bool | None = None
    """Whether placeholders replace secrets; ``None``: in ``pretty``, but not in ``jsonl``."""

    where: Conditions = ALL
    """Which calls, messages and exchanges to capture."""

    duration: float | None = None
    """Seconds after which a capture ends."""

    count: int | None = None
    """Messages after which a capture ends; never more than these are written."""

    max_body: int = 1024 * 1024
    """Bytes kept of one message's framed body, and of its decoded content."""

    max_head: int = 64 * 1024
    """Bytes of one message's start line and headers; a longer head is not HTTP."""

    max_memory: int = 256 * 1024 * 1024
    """Bytes of memory that all open connections may hold together."""

    max_connection_memory: int | None = None
    """Bytes of memory that one connection may hold; ``None``: see ``connection_memory``."""

    route: str | None = None
    """``socket`` or ``syscall``; ``None``: the better one that the kernel supports."""

    buffer: str | None = None
    """``ring`` or ``perf``; ``None``: the ring buffer if the kernel has one."""

    types: str | None = None
    """Source of struct offsets: ``btf`` or ``headers``; ``None``: BTF if the kernel has it."""

    tls: bool = False
    """Whether the plain text of TLS is captured, at the functions of the libraries."""

    program: Path | None = None
    """A program that will be started, and may contain such a library itself."""

    tls_keys: bool = False
    """Whether TLS connections are forwarded from their first byte, and decrypted with a key log."""

    engine: str = "bcc"
    """The engine that loads the probe: ``bcc`` or ``bpftrace``."""

    unprivileged_user: str | None = None
    """The user that parses captured bytes; ``root`` keeps all privileges. ``None``:
    ``http-profiler`` if there is such a user, else ``nobody``."""

    record: Path | None = None
    """Where the recording is written, for a later replay."""

    ring_bytes: int = 16 * 1024 * 1024
    """Size in bytes of the ring buffer between kernel and profiler; a power of two."""

    lossless: bool = False
    """Whether the reader of the ring buffer goes before other processes while it fills."""

    otlp: str | None = None
    """URL of a Collector that gets spans; ``env``: from OTEL_EXPORTER_OTLP_ENDPOINT."""

    otlp_queue: int = 64 * 1024 * 1024
    """Bytes of spans that may wait for it."""

    prometheus: str | None = None
    """Address at which metrics are served to Prometheus."""

    exporter_pid: int = 0
    """The process that exports, whose own traffic is left out; 0: none."""

    stats: Path | None = None
    """Where the counts are written periodically, as JSON lines."""

    stats_seconds: float = 10.0
    """Seconds between two lines of counts."""

    @property
    def rotation(self) -> Rotation | None:
        """How the output file is rotated; ``None``: not by the profiler."""
        if not self.output_max_size:
            return None
        return Rotation(self.output_max_size, self.output_files)

    @property
    def filters(self) -> Filters:
        """The conditions in ``where`` that the kernel can evaluate."""
        return self.where.filters

    @property
    def connection_memory(self) -> int:
        """``max_connection_memory``, or room for a body in each direction, raw and decoded."""
        if self.max_connection_memory is not None:
            return self.max_connection_memory
        return CONNECTION_MEMORY + 4 * self.max_body

    @property
    def call_limit(self) -> int:
        """Bytes copied of one syscall: room for a head and a body, up to CALL_LIMIT.

        With ciphertext, a missing byte would end the decryption.
        """
        if self.tls_keys:
            return CALL_LIMIT
        return min(CALL_LIMIT, self.max_head + self.max_body)
