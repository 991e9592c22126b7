# SPDX-License-Identifier: Apache-2.0
"""Connects the stages: takes records of the wire and writes JSON records to a sink.

The same pipeline serves a live capture and a replay. It reads only two things from the machine, the
paths of cgroups and the files that describe containers, through
:class:`~profiler.ingest.process.Processes`. It writes what it found to the recording as records of
the wire, so a replay does not depend on the machine.

A peer chooses the bytes that are parsed, so an error in a stage must not end the capture. The
connection that caused it is dropped and counted; the others continue.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Protocol, TypeVar

import orjson

from profiler.accounting import Account, KernelAccount
from profiler.errors import CaptureFileError, ProfilerError
from profiler.ingest import syscalls, wire
from profiler.ingest.decryption import Decryption, Handshake, PlainEvent, Undecryptable
from profiler.ingest.decryption.hellos import Hellos
from profiler.ingest.fastpath import FastPath, module
from profiler.ingest.http import Message, Messages, NotHttp
from profiler.ingest.http.message import REQUEST, UNDECODABLE, Output
from profiler.ingest.memory import Memory
from profiler.ingest.peers import Peers
from profiler.ingest.process import Processes
from profiler.ingest.record import record_of
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Event, Streams
from profiler.outputs import Sink
from profiler.outputs.jsonl import JsonLines
from profiler.outputs.redacted import Redacted

if TYPE_CHECKING:
    from profiler.exchanges.conditions import Conditions
    from profiler.exchanges.filter import Filter
    from profiler.schema import Record

_NAMES_KEPT = 4096
_Named = TypeVar("_Named", wire.Names, wire.Session, Handshake)


class RecordWriter(Protocol):
    """Records the wire."""

    def write(self, record: bytes) -> None:
        """Append one record of the wire."""


class Exporter(Protocol):
    """Exports the records, besides the sink."""

    def write(self, record: Record) -> None:
        """Take one record."""

    def add(self, lines: bytes) -> None:
        """Take records as JSON lines."""


class Pipeline:
    """One capture, from its first record to its last."""

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        processes: Processes,
        machine: str,
        recorder: RecordWriter | None = None,
        applied: Collection[str] = (),
        *,
        route: str = "socket",
        decryption: Decryption | None = None,
        exporter: Exporter | None = None,
    ) -> None:
        """Interpret syscall numbers as those of ``machine``; copy the wire to ``recorder``.

        ``applied`` names the filters that the kernel has already applied. ``route`` is where the
        probe is attached: ``socket`` or ``syscall``. ``decryption`` takes what begins as TLS.
        ``exporter`` gets all records that ``sink`` gets.
        """
        self._settings = settings
        self._sink = sink
        self._exporter = exporter
        self._processes = processes
        self._syscalls = syscalls.names(machine)
        self._recorder = recorder
        # On the syscall route, io_uring moves bytes that pass no hooked system call.
        self._streams = Streams(sees_all=route == "socket")
        self._messages = Messages(settings)
        self.memory = Memory(settings.connection_memory, settings.max_memory)
        self._names: OrderedDict[int, wire.Names] = OrderedDict()
        self._sessions: OrderedDict[int, wire.Session] = OrderedDict()
        self._decryption = decryption
        self._handshakes: OrderedDict[int, Handshake] = OrderedDict()
        self._hellos = Hellos()
        # By the socket of a session. A plain port may get a hello, too.
        self._greetings: OrderedDict[int, Handshake] = OrderedDict()
        self._clock_offset = 0
        self._peers = Peers()
        self.account = Account()
        if decryption is not None:
            self.account.not_decrypted = decryption.causes
        self._filter: Filter | None = None
        left = settings.where.without(applied)
        if left:
            from profiler.exchanges.filter import Filter

            self._filter = Filter(left)
            self.account.dropped = self._filter.dropped
        self._fast: FastPath | None = None
        self._lines: JsonLines | None = None
        # What needs each record, or each message, goes through Python.
        if all(each is None for each in (recorder, settings.count, decryption)):
            self._open_fast_path(left)

    def _open_fast_path(self, conditions: Conditions) -> None:
        redacted = self._sink if isinstance(self._sink, Redacted) else None
        sink = redacted.sink if redacted else self._sink
        native = module() if isinstance(sink, JsonLines) else None
        if not isinstance(sink, JsonLines) or native is None:
            return
        applied = None
        if self._filter:
            # Loads the query language, which most captures do not need.
            from profiler.ingest.fastfilter import compiled

            program = compiled(conditions)
            if program is None:
                return
            applied = self._filter, program
        stages = self._streams, self._messages, self.memory
        self._fast = FastPath(
            native,
            self._settings,
            stages,
            self._processes,
            self._syscalls,
            applied,
            redacted.redactor if redacted else None,
        )
        self._peers = self._fast.peers
        self._lines = sink

    @property
    def full(self) -> bool:
        """Whether all messages that ``--count`` requests are written."""
        return self._settings.count is not None and self.account.messages >= self._settings.count

    @property
    def has_fast_path(self) -> bool:
        """Whether the native module is installed, and can write lines with these settings."""
        return self._fast is not None

    @property
    def held(self) -> int:
        """The bytes of memory that all open connections hold."""
        return self.memory.total + (self._fast.held if self._fast else 0)

    def feed_all(self, records: list[bytes]) -> list[int]:
        """Process records of the wire until all are read or :attr:`full`.

        Return the inodes of sockets that proved not HTTP. Raises like :meth:`feed`.
        """
        not_http = []
        at = 0
        while at < len(records) and not self.full:
            if self._fast:
                at, refused = self._take(self._fast, records, at)
                if not refused:
                    continue
            socket = self.feed(records[at])
            if socket is not None:
                not_http.append(socket)
            at += 1
        return not_http

    def feed(self, record: bytes) -> int | None:
        """Process the next record of the wire; return a socket's inode once it proves not HTTP.

        Raises CaptureFileError if ``record`` is invalid, and what the sink or the recorder
        raises.
        """
        item = wire.decode(record)
        if self._recorder:
            self._recorder.write(record)
        if isinstance(item, (wire.Chunk, wire.End)):
            if self._fast is None:
                return self._move(item)
            self._reclaim(self._fast, item.socket)
            not_http = self._move(item)
            if isinstance(item, wire.Chunk):
                self._fast.lend(item)
            return not_http
        if isinstance(item, wire.Clock):
            self._clock_offset = item.realtime - item.kernel
            if self._fast:
                self._fast.set_clock(self._clock_offset)
        elif isinstance(item, wire.Process):
            if self._fast:
                self._fast.forget_processes()
            found = self._processes.learn(item)
            if self._recorder:
                for each in found:
                    self._recorder.write(wire.encode(each))
        elif isinstance(item, wire.Names):
            _keep(self._names, item.socket, item)
        elif isinstance(item, wire.Session):
            forgotten = _keep(self._sessions, item.stream, item)
            if self._fast:
                self._fast.set_session(item, forgotten)
        elif isinstance(item, wire.Cgroup):
            if self._fast:
                self._fast.forget_processes()
            self._processes.learn_cgroup(item)
        elif isinstance(item, wire.Workload):
            if self._fast:
                self._fast.forget_processes()
            self._processes.learn_workload(item)
        elif isinstance(item, wire.Keys):
            self.learn(item.lines)
        elif isinstance(item, wire.Hello):
            handshake = self._hellos.feed(item)
            if handshake is not None:
                forgotten = _keep(self._greetings, item.socket, handshake)
                if self._fast:
                    self._fast.set_greeting(handshake, forgotten)
        else:
            self.account.kernel = _kernel_account(item.document)
        return None

    def learn(self, lines: bytes) -> None:
        """Take whole lines of a key log. The recording gets those that are used."""
        if self._decryption is not None:
            for socket in self._decryption.learn(lines):
                with self._guard(socket):
                    for event in self._decryption.resume(socket):
                        self._read_plain(event)
                    self._bound_memory(socket)
            self._record_keys(self._decryption)

    def finish(self) -> None:
        """End the capture: write the messages that are still open."""
        self.account.final = True
        self._peers.freeze()
        if self._fast:
            self._reclaim_all(self._fast)
        for event in self._streams.finish():
            with self._guard(event.socket):
                self._read(event)
                self._bound_memory(event.socket)
        if self._decryption is not None:
            self._decryption.finish()
        for socket in self._messages.sockets():
            with self._guard(socket):
                self._write_all(self._messages.finish(socket))
        if self._filter:
            for record in self._filter.finish():
                self._emit(record)

    def _take(self, fast: FastPath, records: list[bytes], at: int) -> tuple[int, bool]:
        """Pass records to the fast path; return the index of the next, and whether it refused."""
        if fast.is_full:
            self._reclaim_all(fast)
        taken = fast.take(records, at)
        if taken.lines:
            assert self._lines is not None
            self._lines.add(taken.lines)
            if self._exporter is not None:
                self._exporter.add(taken.lines)
            self.account.requests += taken.requests
            self.account.responses += taken.responses
            self.account.fast += taken.requests + taken.responses
        return taken.next, taken.refused

    def _reclaim(self, fast: FastPath, socket: int) -> None:
        """Take a connection back from the fast path, if it is there."""
        reclaimed = fast.reclaim(socket)
        if reclaimed is None:
            return
        if self._filter and reclaimed.asked is not None:
            for wanted in self._filter.resume(reclaimed.asked, reclaimed.is_open):
                self._emit(wanted)
            self.account.undecided = self._filter.given_up
        for record in reclaimed.records:
            item = wire.decode(record)
            assert isinstance(item, (wire.Chunk, wire.End))
            self._move(item)
        with self._guard(socket):
            self._bound_memory(socket)

    def _reclaim_all(self, fast: FastPath) -> None:
        for socket in fast.sockets():
            self._reclaim(fast, socket)

    def _move(self, item: wire.Chunk | wire.End) -> int | None:
        not_http = None
        # As _guard() does, but inline: every chunk comes this way.
        try:
            for event in self._streams.feed(item):
                not_http = self._read(event) or not_http
            self._bound_memory(item.socket)
        except ProfilerError:
            raise
        except Exception as error:
            self._drop(item.socket, error)
        return not_http

    @contextlib.contextmanager
    def _guard(self, socket: int) -> Iterator[None]:
        """Drop this connection, and no other, if an error occurs."""
        try:
            yield
        except ProfilerError:
            raise
        except Exception as error:
            self._drop(socket, error)

    def _drop(self, socket: int, error: Exception) -> None:
        """Give up a connection because of an ``error``, and count it."""
        faults, cause = self.account.faults, _cause_of(error)
        faults[cause] = faults.get(cause, 0) + 1
        self._streams.forget(socket)
        if self._decryption is not None:
            self._decryption.give_up(socket, "an error of the profiler")
        self.memory.use(socket, 0)
        try:
            self._write_all(self._messages.give_up(socket, UNDECODABLE))
        except ProfilerError:
            raise
        except Exception:
            # What is open cannot be written either.
            self._messages.forget(socket)

    def _bound_memory(self, socket: int) -> None:
        held = self._messages.held(socket)
        if self._decryption is not None:
            held += self._decryption.held(socket)
        if held:
            held += self._streams.held(socket)
        else:
            # Chunks may still arrive after the socket proved not to be HTTP.
            self._streams.forget(socket)
        for dropped in self.memory.use(socket, held):
            self.account.given_up += 1
            self._streams.forget(dropped)
            if self._decryption is not None:
                self._decryption.give_up(dropped)
            self._write_all(self._messages.give_up(dropped))

    def _read(self, event: Event) -> int | None:
        if self._decryption is None:
            return self._parse(event)
        not_http = None
        for plain in self._decryption.feed(event):
            not_http = self._read_plain(plain) or not_http
        self._record_keys(self._decryption)
        return not_http

    def _read_plain(self, event: PlainEvent) -> int | None:
        if isinstance(event, Handshake):
            _keep(self._handshakes, event.socket, event)
            return None
        if isinstance(event, Undecryptable):
            return event.socket
        return self._parse(event)

    def _record_keys(self, decryption: Decryption) -> None:
        lines = decryption.used()
        if lines and self._recorder:
            self._recorder.write(wire.encode(wire.Keys(lines)))

    def _parse(self, event: Event) -> int | None:
        not_http = None
        for output in self._messages.feed(event):
            if isinstance(output, NotHttp):
                self._streams.forget(output.socket)
                not_http = output.socket
            else:
                self._write(output)
        return not_http

    def _write_all(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if isinstance(output, Message):
                self._write(output)

    def _write(self, message: Message) -> None:
        origin = message.origin
        session = self._sessions.get(origin.socket) if self._sessions else None
        if session is not None:
            handshake = self._greetings.get(session.socket)
        else:
            handshake = self._handshakes.get(origin.socket) if self._handshakes else None
        record = record_of(
            message,
            self._processes.identity(origin.pid, origin.start_time),
            self._names.get(origin.socket),
            self._clock_offset,
            self._settings.max_body,
            self._syscalls,
            session,
            handshake,
            self._peers,
        )
        if self._filter is None:
            self._emit(record)
            return
        for wanted in self._filter.feed(record):
            self._emit(wanted)
        self.account.undecided = self._filter.given_up

    def _emit(self, record: Record) -> None:
        if self.full:
            return
        self._sink.write(record)
        if self._exporter is not None:
            self._exporter.write(record)
        account = self.account
        if record["type"] == REQUEST:
            account.requests += 1
        else:
            account.responses += 1
        for reason in record.get("incomplete", ()):
            account.incomplete[reason] = account.incomplete.get(reason, 0) + 1


def _keep(table: OrderedDict[int, _Named], key: int, value: _Named) -> int | None:
    """Set a value; return the key of the one that is no longer kept."""
    table[key] = value
    table.move_to_end(key)
    return table.popitem(last=False)[0] if len(table) > _NAMES_KEPT else None


def _cause_of(error: Exception) -> str:
    """Return the type and the place of an error, without its text: that may contain secrets."""
    *_, (frame, line) = walk_tb(error.__traceback__)
    path = Path(frame.f_code.co_filename)
    return f"{type(error).__name__} ({path.parent.name}/{path.name}:{line})"


def _kernel_account(document: bytes) -> KernelAccount:
    try:
        return KernelAccount.from_json(orjson.loads(document))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CaptureFileError("the counts are damaged") from None
