# SPDX-License-Identifier: Apache-2.0
"""The process that exports spans and metrics, and the capture's end of it.

The capture writes records into a pipe and never waits for it (a replay does). In the process, one
thread reads the pipe, pairs and encodes; others send, or answer scrapes. The counts are in memory
that both processes map. The end of the pipe is the end of the capture: what is left is sent within
a bounded time.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from pwd import struct_passwd
from struct import Struct
from typing import TYPE_CHECKING, NoReturn

import orjson

from profiler.accounting import Account, Exported
from profiler.exchanges.pair import RoleSide, Sides
from profiler.exchanges.redact import Redactor
from profiler.exchanges.text import visible_lines
from profiler.outputs.otlp.delivery import DROPPED, Latest, Queue, Sender
from profiler.outputs.otlp.endpoint import Endpoint
from profiler.outputs.otlp.metrics import Metrics
from profiler.outputs.otlp.spans import Encoder, is_export
from profiler.outputs.prometheus import Server
from profiler.privileges.confinement import confine

if TYPE_CHECKING:
    import socket

    from profiler.privileges.helper import Helper
    from profiler.schema import Record

FLUSH_SECONDS = 10.0
"""How long the end of a capture waits for a Collector."""
PATIENCE_SECONDS = 60.0
"""How long a replay tries to reach a Collector."""

_BATCH = 64 * 1024
_PIPE_BYTES = 1024 * 1024  # /proc/sys/fs/pipe-max-size
_PENDING_MAX = 8 * 1024 * 1024
_POLL_SECONDS = 0.2
_ACCOUNT_SECONDS = 10.0
# How its line begins; that of a record has another first key.
_ACCOUNT = b'{"account":'
# For the terminal and for service managers, all processes are one: the capture handles these.
_BLOCKED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}
# A record in memory, besides its text.
_RECORD_SIZE = 1500


class _SharedCounts:
    """Numbers that one process writes and another reads, without waiting for each other."""

    _layout = Struct(f"<{4 + len(DROPPED)}QI")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._layout.size)
        self.write(Exported())

    def write(self, counts: Exported) -> None:
        dropped = (counts.dropped.get(reason, 0) for reason in DROPPED)
        numbers = counts.spans, counts.sent, counts.waiting, counts.left_out, *dropped
        packed = self._layout.pack(*numbers, 0)[:-4]
        self._memory[:] = packed + zlib.crc32(packed).to_bytes(4, "little")

    def read(self) -> Exported:
        while True:
            content = self._memory[:]
            *numbers, crc = self._layout.unpack(content)
            # It is being written otherwise.
            if zlib.crc32(content[:-4]) == crc:
                spans, sent, waiting, left_out, *dropped = numbers
                return Exported(spans, sent, waiting, dict(zip(DROPPED, dropped)), left_out)


class Exporter:
    """Takes the records of a capture, or of a replay, for the process that exports them.

    The constructor forks that process. ``user`` is whom it becomes, without privileges; ``None``:
    it stays who it is. ``say`` prints a line for the user. In a ``replay``, records wait for the
    Collector instead of being dropped. ``max_bytes`` of spans may wait for it.

    Without an ``endpoint``, there are no spans. With a ``listener``, it serves metrics, and the
    socket is closed here. ``given`` are the attributes that the user gave to every resource.
    """

    def __init__(
        self,
        endpoint: Endpoint | None,
        *,
        redact: bool,
        replay: bool,
        user: struct_passwd | None,
        say: Callable[[str], None],
        max_bytes: int,
        listener: socket.socket | None = None,
        given: Mapping[str, str] | None = None,
    ) -> None:
        self._say = say
        self._has_spans = endpoint is not None
        self._is_replay = replay
        self._pending = bytearray()
        self._shared = _SharedCounts()
        self._messages_dropped = 0
        self._account_due = time.monotonic()
        self._is_over = False
        reading, self._fd = os.pipe()
        self._ended, ending = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._fd, _F_SETPIPE_SZ, _PIPE_BYTES)
        # What Python has buffered would be written twice.
        sys.stdout.flush()
        sys.stderr.flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        self.pid = os.fork()
        if self.pid == 0:
            worker = _Worker(
                endpoint, given or {}, redact, replay, max_bytes, self._shared, reading, listener
            )
            worker.serve(ending, user)
        if listener is not None:
            listener.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reading)
        os.close(ending)
        os.set_blocking(self._fd, replay)

    def share(self, helper: Helper) -> None:
        """Keep ``helper`` from holding the pipe open."""
        fd = self._fd
        helper.at_start(lambda: os.close(fd))

    def write(self, record: Record) -> None:
        """Take a record."""
        # A span has no content. To pick the fields that it needs would take three times as long.
        slim = {**record, "body": "", "raw_payload": ""}
        self.add(orjson.dumps(slim, option=orjson.OPT_APPEND_NEWLINE))

    def add(self, lines: bytes) -> None:
        """Take records as JSON lines."""
        self._pending += lines
        if len(self._pending) >= _BATCH:
            self.flush()

    def wants_account(self) -> bool:
        """Whether the account was not passed on for a while."""
        return time.monotonic() >= self._account_due

    def account(self, account: Account) -> None:
        """Take the account so far."""
        self._account_due = time.monotonic() + _ACCOUNT_SECONDS
        report = account.to_report()
        if report is not None:
            self.add(_ACCOUNT + orjson.dumps(report["rows"]) + b"}\n")

    def flush(self) -> None:
        """Pass on what fits into the pipe."""
        pending = self._pending
        try:
            while pending and not self._is_over:
                del pending[: os.write(self._fd, pending)]
        except BlockingIOError:
            if len(pending) > _PENDING_MAX:
                # The rest of a line must follow its beginning.
                whole = pending.index(b"\n") + 1
                self._messages_dropped += _messages(pending[whole:])
                del pending[whole:]
        except BrokenPipeError:
            self._is_over = True
            self._say(_STOPPED)
        if self._is_over:
            self._messages_dropped += _messages(pending)
            pending.clear()

    def counts(self) -> Exported | None:
        """Return what became of the spans so far; ``None`` if there is nothing to report."""
        if not self._has_spans and not self._messages_dropped:
            return None
        counts = self._shared.read()
        dropped = counts.dropped
        if self._is_over:
            dropped = {**dropped, "stopped": dropped["stopped"] + counts.waiting}
        return Exported(
            counts.spans,
            counts.sent,
            0 if self._is_over else counts.waiting,
            dropped,
            counts.left_out,
            self._messages_dropped,
        )

    def close(self) -> None:
        """Let the process send what is left, and end."""
        if self._fd == -1:
            return
        limit = None if self._is_replay else time.monotonic() + FLUSH_SECONDS
        while self._pending and not self._is_over:
            select.select([], [self._fd], [], _left(limit))
            before = len(self._pending)
            self.flush()
            if len(self._pending) == before and limit and time.monotonic() >= limit:
                self._messages_dropped += _messages(self._pending)
                break
        os.close(self._fd)
        self._fd = -1
        # It has a limit of its own; this one is for a process that hangs.
        is_readable, _, _ = select.select(
            [self._ended], [], [], None if self._is_replay else FLUSH_SECONDS + 5
        )
        os.close(self._ended)
        was_over, self._is_over = self._is_over, True
        if is_readable and not was_over:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, 0)[1]:
                    self._say(_STOPPED)


def _messages(lines: bytes | bytearray) -> int:
    """Return how many of the lines are records."""
    is_account = lines.startswith(_ACCOUNT)
    return lines.count(b"\n") - lines.count(b"\n" + _ACCOUNT) - is_account


_STOPPED = "the process that exports has ended before the capture: spans and metrics are missing"
# fcntl.F_SETPIPE_SZ since Python 3.10.
_F_SETPIPE_SZ = 1031


def _left(limit: float | None) -> float | None:
    return None if limit is None else max(limit - time.monotonic(), 0.0)


class _Worker:
    """What the process does."""

    def __init__(
        self,
        endpoint: Endpoint | None,
        given: Mapping[str, str],
        redact: bool,
        replay: bool,
        max_bytes: int,
        shared: _SharedCounts,
        reading: int,
        listener: socket.socket | None,
    ) -> None:
        self._shared = shared
        self._reading = reading
        self._is_replay = replay
        # A recording may be of another machine.
        host = None if replay else os.uname().nodename
        self._encoder = Encoder(Redactor() if redact else None, given, host)
        self._metrics = Metrics(given, host, has_exemplars=listener is not None)
        metrics = endpoint.metrics if endpoint else None
        self._metrics_sender = Latest(metrics, _report) if metrics else None
        self._metrics_seconds = metrics.metrics_seconds if metrics else 0.0
        self._begun = time.time_ns()
        self._due = time.monotonic() + self._metrics_seconds
        self._server = None
        if listener is not None:
            spans = shared.read if endpoint else lambda: None
            self._server = Server(listener, self._metrics, spans)
        self._sides = Sides()
        self._left_out = 0
        self._queue = Queue(max_bytes)
        patience = PATIENCE_SECONDS if replay else None
        self._sender = Sender(self._queue, endpoint, _report, patience) if endpoint else None

    def serve(self, ending: int, user: struct_passwd | None) -> NoReturn:
        """Export until the pipe ends, in the forked process. ``ending`` closes with it."""
        code = 1
        try:
            server = {self._server.listener.fileno()} if self._server else set()
            _leave_files({self._reading, ending} | server)
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text("http-prof-otlp")
            # Reading the ring is more urgent.
            os.nice(5)
            # The user may be unable to read the directories from which Python imports modules.
            "localhost".encode("idna")
            if user is not None:
                has_server = self._server is not None
                confine(user, network=self._sender is not None, accept=has_server)
            for started in (self._sender, self._metrics_sender, self._server):
                if started:
                    started.start()
            self._read_all()
            self._finish()
            code = 0
        except Exception as error:
            # Without its text: that may contain secrets.
            _report(f"OTLP: {type(error).__name__}: please report this as a bug of http-profiler")
        finally:
            # No cleanup of objects: they belong to the other process.
            os._exit(code)

    def _read_all(self) -> None:
        buffer = b""
        while True:
            is_readable, _, _ = select.select([self._reading], [], [], _POLL_SECONDS)
            if is_readable:
                data = os.read(self._reading, _PIPE_BYTES)
                if not data:
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    self._take(line)
            self._emit_all(self._sides.expire(time.monotonic_ns()))
            counts = self._publish()
            if self._metrics_sender and time.monotonic() >= self._due:
                self._due = time.monotonic() + self._metrics_seconds
                self._metrics_sender.put(self._metrics.request(self._begun, time.time_ns(), counts))

    def _take(self, line: bytes) -> None:
        if line.startswith(_ACCOUNT):
            self._metrics.set_account(orjson.loads(line)["account"])
            if self._server:
                self._server.heard_of = time.monotonic()
            return
        record: Record = orjson.loads(line)
        content = len(record.pop("body", "")) + len(record.pop("raw_payload", ""))
        # A line of the fast path has the content.
        size = _RECORD_SIZE + max(len(line) - content, 0)
        self._emit_all(self._sides.add(record, size, time.monotonic_ns()))

    def _emit_all(self, found: list[RoleSide]) -> None:
        for role, side in found:
            try:
                if is_export(side):
                    self._left_out += 1
                    continue
                span = self._encoder.span(role, side) if self._sender else None
                if self._metrics_sender or self._server:
                    self._metrics.add(role, side)
            except Exception as error:
                # A peer chose what is encoded: the others are exported.
                if self._queue.count_error() == 1:
                    _report(f"OTLP: {type(error).__name__} in a span: please report this as a bug")
                continue
            if span:
                self._queue.put(span, self._may_wait)

    @property
    def _has_given_up(self) -> bool:
        return self._sender is not None and self._sender.has_given_up

    def _may_wait(self) -> bool:
        self._publish()
        return self._is_replay and not self._has_given_up

    def _publish(self) -> Exported:
        counts = self._queue.snapshot()
        exported = Exported(
            counts.spans, counts.sent, counts.waiting, counts.dropped, self._left_out
        )
        self._shared.write(exported)
        return exported

    def _finish(self) -> None:
        self._emit_all(self._sides.finish())
        self._queue.close()
        limit = None if self._is_replay else time.monotonic() + FLUSH_SECONDS
        while not self._queue.drained(_POLL_SECONDS):
            self._publish()
            if self._has_given_up:
                self._queue.drop_all("unreachable")
            elif limit is not None and time.monotonic() >= limit:
                self._queue.drop_all("end")
        counts = self._publish()
        if self._metrics_sender and not self._has_given_up:
            self._metrics_sender.put(self._metrics.request(self._begun, time.time_ns(), counts))
            left = FLUSH_SECONDS if limit is None else max(limit - time.monotonic(), 1.0)
            self._metrics_sender.is_done(left)


def _report(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"http-profiler: {visible_lines(text)}\n".encode("utf-8", "replace"))


def _leave_files(kept: set[int]) -> None:
    """Close what only the capture needs, and leave standard input and output to it."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        if number > 2 and number not in kept:
            # One of them was the list's own.
            with contextlib.suppress(OSError):
                os.close(number)
