# SPDX-License-Identifier: Apache-2.0
"""The Python side of the native fast path (``fastpath/``), which makes the lines of usual messages.

A connection belongs to one side at a time. Python *lends* the state of a connection at rest: both
directions stand between two messages. The native module takes records while they are usual, and
refuses the first that is not, before any state has changed. Then Python *reclaims* the connection
and reads that record itself. So Python is the reference, and whatever the module does not know
needs no code there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from profiler.exchanges.redact import is_harmless
from profiler.exchanges.text import escaped
from profiler.ingest import peers, wire
from profiler.ingest.decryption import Handshake
from profiler.ingest.http import Messages, Request, Resting
from profiler.ingest.memory import Memory
from profiler.ingest.peers import End, Peers, description_of
from profiler.ingest.process import Identity, Processes
from profiler.ingest.record import comm, constant_of, encryption_of
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Positions, Streams
from profiler.ingest.wire import EVENT, LIBRARIES, Chunk, Session, construct

if TYPE_CHECKING:
    from profiler.exchanges.filter import Filter
    from profiler.exchanges.redact import Redactor
    from profiler.ingest.fastfilter import Program
    from profiler.schema import Record

VARIABLE = "HTTP_PROFILER_FASTPATH"
"""``0`` in this environment variable turns the fast path off."""

# The number of what the module is called with and what it returns, as in fastpath/src/python.rs.
_INTERFACE = 4


def module() -> ModuleType | None:
    """Return the native module; ``None`` if it is off, not installed, or of another interface."""
    if os.environ.get(VARIABLE) == "0":
        return None
    try:
        import http_profiler_fastpath
    except ImportError:
        return None
    # A package that was upgraded alone.
    fits = getattr(http_profiler_fastpath, "INTERFACE", None) == _INTERFACE
    return http_profiler_fastpath if fits else None


class Taken(NamedTuple):
    """Records that the module took: ``next`` is the index of the first that it did not.

    ``refused``: Python must read that one. ``lines`` are as many as ``requests`` and ``responses``.
    """

    next: int
    refused: bool
    lines: bytes
    requests: int
    responses: int


class Reclaimed(NamedTuple):
    """A connection that was lent: ``records`` must be read again.

    If there is a filter, ``asked`` is the request that has no response yet. ``is_open``: it was
    not written, because the response decides.
    """

    records: list[bytes]
    asked: Record | None
    is_open: bool


class FastPath:
    """The connections that the native module holds."""

    def __init__(
        self,
        native: ModuleType,
        settings: Settings,
        stages: tuple[Streams, Messages, Memory],
        processes: Processes,
        syscalls: Mapping[int, str],
        applied: tuple[Filter, Program] | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        """Apply a filter, for which Python has the state of its own messages."""
        self._streams, self._messages, self._memory = stages
        self._processes = processes
        self._syscalls = syscalls
        self._clock_offset = 0
        self._filter: Filter | None = applied[0] if applied else None
        self._program: Program | None = applied[1] if applied else None
        # What a filter remembers of a connection must not meet a new one with the same socket.
        remembered = () if self._filter is None else (self._filter.sockets,)
        self._native: Any = native.FastPath(
            self._describe,
            [*self._messages.known, *remembered],
            settings.max_head,
            settings.max_body,
            settings.connection_memory,
            peers.KEPT,
        )
        if self._program is not None:
            self._native.set_filter(self._program.leaves, self._program.conditions)
        self._redactor = redactor
        if redactor is not None:
            self._native.set_redactor(self._redact)
        self.peers = SharedPeers(self._native)

    @property
    def held(self) -> int:
        """Bytes of memory that these connections take, as Python counts them, or more."""
        return int(self._native.held)

    @property
    def is_full(self) -> bool:
        """Whether the connections of both sides need the memory that is left to Python."""
        return self.held > self._memory.room

    def take(self, records: list[bytes], start: int) -> Taken:
        """Let the module take records, from index ``start`` on."""
        room = max(self._memory.room, 0)
        taken = self._native.feed(records, start, room, self._messages.numbers_from_one)
        if self._filter is not None and self._program is not None:
            for option, count in zip(self._program.options, self._native.dropped()):
                if count:
                    dropped = self._filter.dropped
                    dropped[option] = dropped.get(option, 0) + count
        return Taken(*taken)

    def set_clock(self, offset: int) -> None:
        """Set CLOCK_REALTIME minus the kernel's clock, in ns."""
        self._clock_offset = offset
        self._native.set_clock(offset)

    def forget_processes(self) -> None:
        """What is known of a process has changed."""
        self._native.describe_again()

    def set_session(self, session: Session, forgotten: int | None) -> None:
        """Set the session of a stream; that of the stream ``forgotten`` is no longer kept."""
        library = _fragment(encryption_of(LIBRARIES[session.library], None))
        self._native.set_session(session.stream, library, session.socket, forgotten)

    def set_greeting(self, handshake: Handshake, forgotten: int | None) -> None:
        """Set the handshake of a socket; that of the socket ``forgotten`` is no longer kept."""
        greeting = []
        for version in ("1.0", "1.1", ""):
            described = encryption_of("", handshake.of_message(version))
            if self._redactor is not None:
                described = self._redactor.record({"tls": described})["tls"]
            del described["library"]
            greeting.append(_fragment(described))
        self._native.set_greeting(handshake.socket, greeting, forgotten)

    def lend(self, chunk: Chunk) -> None:
        """Lend the connection of ``chunk`` if it is at rest after it, and there is room."""
        socket = chunk.socket
        is_unknown = not chunk.family and socket & wire.TLS_STREAM
        if chunk.family not in (wire.AF_INET, wire.AF_INET6) and not is_unknown:
            return
        if self._filter is not None and socket in self._filter.sockets:
            return
        resting = self._messages.resting(socket)
        positions = self._streams.positions(socket)
        if resting is None or positions is None:
            return
        requests, number, request, times = resting
        asked = None
        if request is not None:
            _, method, target, host, origin = request
            if not f"{method}{target}{host}".isascii():
                return
            asked = method, target, host, EVENT.pack(*origin[:-1]), origin.payload
        if self._native.adopt(
            socket, (positions.next, positions.sequences, times, requests, number, asked)
        ):
            self._streams.forget(socket)
            self._messages.forget(socket)
            self._memory.use(socket, 0)

    def reclaim(self, socket: int) -> Reclaimed | None:
        """Take a connection back; ``None``: it was not lent."""
        released = self._native.release(socket)
        if released is None:
            return None
        (following, sequences, times, requests, number, asked), records, filtered = released
        request = None
        if asked is not None:
            method, target, host, header, payload = asked
            origin = construct(Chunk, (*EVENT.unpack(header), payload))
            request = Request(number, method, target, host, origin)
        self._streams.resume(socket, Positions(following, sequences))
        self._messages.resume(socket, Resting(requests, number, request, tuple(times)))
        line, is_open = (None, False) if filtered is None else filtered
        return Reclaimed(records, None if line is None else orjson.loads(line), is_open)

    def sockets(self) -> list[int]:
        """Return the connections, the one idle longest first."""
        return list(self._native.sockets())

    def _describe(self, header: bytes) -> tuple[tuple[bytes, ...], int]:
        """Return the parts of a line that depend on a thread, its system call and a direction.

        The second is the first without secrets. The last is the peer in the lines of the other
        end. With the parts comes the set of leaves of the filter that hold for that thread. The
        module adds the addresses, the connection and the socket.
        """
        origin = construct(Chunk, (*EVENT.unpack(header), b""))
        process = self._processes.identity(origin.pid, origin.start_time)
        syscall = self._syscalls.get(origin.syscall)
        # Without a family there are no addresses. The stream of a TLS session has no socket.
        alone = origin._replace(family=0, socket=wire.TLS_STREAM)
        constant = constant_of(alone, syscall, False, process, None, None, None, self._clock_offset)
        peer = _text_of(origin.pid, comm(origin.comm), process)
        leaves = 0
        if self._program is not None:
            mover: Record = {**constant.mover, **constant.call, **constant.socket}
            leaves = self._program.holding(mover)
        own, call, thread = map(_fragment, constant)
        shown = own
        if self._redactor is not None:
            shown = _fragment(self._redactor.record(constant.mover))
        return (own, shown, call, thread, peer), leaves

    def _redact(self, kind: str, name: str, text: str) -> bytes | None:
        """Return what is shown instead of a text; ``None``: it has no secrets."""
        redactor = self._redactor
        assert redactor is not None
        if kind == "header":
            shown = redactor.header(name, text)
        elif kind == "url":
            shown = redactor.url(text)
        elif kind == "name":
            return None if is_harmless(text) else b"?"
        else:
            shown = redactor.text(text, name)
        return None if shown == text else shown.encode()


class SharedPeers(Peers):
    """The table of peers that the module keeps, for the messages of both sides."""

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native

    def other(self, socket: int) -> End | None:
        """Return the other end of a socket; ``None`` if it was not seen."""
        text = self._native.peer(socket)
        return None if text is None else _end(text)

    def has_met(self, origin: Chunk) -> bool:
        """Whether :meth:`meet` would learn nothing from a message with this ``origin``."""
        return self._is_frozen or bool(self._native.has_met(origin.socket, origin.direction))

    def meet(
        self,
        origin: Chunk,
        connection: str | None,
        is_client: bool,
        comm: str,
        process: Identity | None,
    ) -> None:
        """Remember the socket that moved ``origin``, and look for its other end."""
        identified = self.direction_of(origin, connection, is_client) or (None, False, 0)
        own = _text_of(origin.pid, comm, process)
        self._native.meet(origin.socket, origin.direction, *identified, own)


def _text_of(pid: int, comm: str, process: Identity | None) -> bytes:
    return _fragment({"peer": description_of(pid, comm, process)})


def _fragment(part: Mapping[str, object]) -> bytes:
    """Return members of a JSON object, with a comma at the end."""
    return escaped(orjson.dumps(part))[1:-1] + b"," if part else b""


@lru_cache(maxsize=1024)
def _end(text: bytes) -> End:
    return End(orjson.loads(b"{" + text[:-1] + b"}")["peer"])
