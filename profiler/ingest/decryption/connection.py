# SPDX-License-Identifier: Apache-2.0
"""Decrypts one connection: ciphertext events in, plain text events out.

Each direction goes through these states. Its next record waits until what a state needs is known:

    plain             records before the keys; the hellos are parsed
    (early data)      TLS 1.3, client: after the server has accepted or refused it
    handshake         TLS 1.3: until Finished
    application       until close_notify, or a loss

A direction needs the next secret from the record after the one that ends a state. So a key that
arrives late only delays: the ciphertext is held within a bound.
"""

from __future__ import annotations

from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from profiler.ingest.decryption import handshake
from profiler.ingest.decryption.handshake import (
    ClientHello,
    Handshake,
    HandshakeError,
    Reassembly,
    ServerHello,
    version_name,
)
from profiler.ingest.decryption.keylog import APPLICATION, CLIENT_RANDOM, EARLY, HANDSHAKE, KeyLog
from profiler.ingest.stream import LOST, Event, Finish, Gap
from profiler.ingest.wire import FLAG_JOINED, RECV, SEND, Chunk

if TYPE_CHECKING:
    from profiler.ingest.decryption.ciphers import Protection
    from profiler.ingest.decryption.suites import Suite

# RFC 8446, 5.1
_CHANGE_CIPHER_SPEC, _ALERT, HANDSHAKE_RECORD, _DATA = 20, 21, 22, 23
_RECORD_TYPES = range(_CHANGE_CIPHER_SPEC, _DATA + 1)
_HEADER_SIZE = 5
_FRAGMENT_MAX = 2**14 + 2048  # RFC 5246, 6.2.3
_CLOSE_NOTIFY = 0

_TLS12, _TLS13 = 0x0303, 0x0304

# Ciphertext that waits for keys. Only a handshake can be faster than its key log; with
# certificates it takes some ten thousand bytes.
WAITING_MAX = 1024 * 1024

# What a connection takes besides the bytes it holds: hellos, keys, and two ciphers of OpenSSL.
CONNECTION_SIZE = 6000
_EVENT_SIZE = 800

NO_KEY = "its key is not in the key log"
LOST_BYTES = "bytes of it were lost"
NO_HANDSHAKE = "its handshake was not seen"
NO_RECORDS = "its bytes are not records of TLS"
WRONG_KEY = "a record does not match its key"
EARLY_DATA = "the key of its early data is not in the key log"
RENEGOTIATED = "it renegotiated its keys"


class _UndecryptableError(Exception):
    """The connection cannot be decrypted any further; the text is the cause."""


class _Record(NamedTuple):
    kind: int
    header: bytes
    fragment: bytes


class _Direction:
    """One direction: its bytes that are not decrypted yet, and the state of its keys."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: deque[tuple[int, Event]] = deque()  # with numbers, by arrival
        self.taken = 0  # the number of the last one that was taken
        self.waiting = 0  # bytes in `events`
        self.buffer = bytearray()
        self.origin: Chunk | None = None  # the chunk with the last byte of `buffer`
        self.reassembly = Reassembly()
        self.label: str | None = None  # of the secret in use, or needed; None: plain
        self.protection: Protection | None = None
        self.skips = False  # records with another key are early data
        self.position = 0  # of the plain text
        self.lacks_early_data = False
        self.is_blocked = False  # the next record waits
        self.is_dead = False
        self.is_finished = False

    @property
    def held(self) -> int:
        return (
            len(self.buffer) + self.waiting + _EVENT_SIZE * len(self.events) + self.reassembly.held
        )

    @property
    def due(self) -> int | None:
        """When its next record or event arrived, as the number of an event; ``None`` without any.

        Raises _UndecryptableError if its bytes are not a record.
        """
        buffer = self.buffer
        if len(buffer) >= _HEADER_SIZE:
            size = self._size
            if buffer[0] not in _RECORD_TYPES or buffer[1] != 3 or size > _FRAGMENT_MAX:
                raise _UndecryptableError(NO_RECORDS)
            if len(buffer) >= _HEADER_SIZE + size:
                return self.taken
        return self.events[0][0] if self.events else None

    def record(self) -> _Record | None:
        """Return the next record if it is whole."""
        buffer = self.buffer
        end = _HEADER_SIZE + self._size
        if len(buffer) < max(end, _HEADER_SIZE):
            return None
        return _Record(buffer[0], bytes(buffer[:_HEADER_SIZE]), bytes(buffer[_HEADER_SIZE:end]))

    @property
    def _size(self) -> int:
        return int.from_bytes(self.buffer[3:_HEADER_SIZE], "big")

    def consume(self, record: _Record) -> None:
        del self.buffer[: _HEADER_SIZE + len(record.fragment)]

    def next_key(self, label: str) -> None:
        """The next record is protected with the secret ``label``."""
        self.label, self.protection = label, None


class Connection:
    """A connection from its first byte."""

    def __init__(self, socket: int, keys: KeyLog) -> None:
        self._socket = socket
        self._keys = keys
        self._arrived = 0
        self._directions = _Direction(SEND), _Direction(RECV)
        self._client: int | None = None
        self._hello: ClientHello | None = None
        self._server: ServerHello | None = None
        self._suite: Suite | None = None
        self._retried = False
        self._accepts_early_data: bool | None = None
        self._protocol: str | None = None
        self._is_introduced = False
        self.cause: str | None = None
        """Why it is not decrypted, or not further."""

        self.is_over = False
        """No more plain text will come."""

    @property
    def random(self) -> bytes | None:
        """The random bytes that name it in a key log, once they are known."""
        return self._hello.random if self._hello else None

    @property
    def held(self) -> int:
        """The bytes of memory that it takes."""
        sender, receiver = self._directions
        return CONNECTION_SIZE + sender.held + receiver.held

    @property
    def is_finished(self) -> bool:
        """Whether both directions have ended."""
        return all(each.is_finished for each in self._directions)

    def feed(self, event: Event) -> list[Event | Handshake]:
        """Take the next event of either direction; return what it reveals."""
        direction = self._directions[event.direction]
        self._arrived += 1
        direction.events.append((self._arrived, event))
        if isinstance(event, Chunk):
            direction.waiting += event.captured
        return self.resume()

    def resume(self) -> list[Event | Handshake]:
        """Continue, because the key log has grown."""
        out: list[Event | Handshake] = []
        try:
            self._unblock()
            self._advance(out)
            if sum(each.waiting + len(each.buffer) for each in self._directions) > WAITING_MAX:
                raise _UndecryptableError(self.missing)
        except HandshakeError:
            self._give_up(NO_RECORDS, out)
        except _UndecryptableError as error:
            self._give_up(str(error), out)
        self.is_over |= all(each.is_dead for each in self._directions)
        return out

    @property
    def missing(self) -> str:
        """What a connection lacks that waits."""
        return NO_KEY if self._hello and self._server else NO_HANDSHAKE

    @property
    def is_waiting(self) -> bool:
        """Whether a record waits for a key, or for the other direction."""
        return any(each.is_blocked for each in self._directions)

    @property
    def is_closed(self) -> bool:
        """Whether no more ciphertext will come."""
        return all(
            each.is_finished or (each.events and isinstance(each.events[-1][1], Finish))
            for each in self._directions
        )

    def _give_up(self, cause: str, out: list[Event | Handshake]) -> None:
        self.cause = self.cause or cause
        for direction in self._directions:
            self._kill(direction, out)
        self.is_over = True

    def _kill(self, direction: _Direction, out: list[Event | Handshake]) -> None:
        if direction.is_dead:
            return
        direction.is_dead, direction.is_blocked = True, False
        origin = direction.origin
        if self._is_introduced and origin and not direction.is_finished:
            out.append(Gap(self._socket, direction.number, origin.time, None, LOST))
        direction.buffer.clear()
        direction.events.clear()
        direction.waiting = 0

    def _advance(self, out: list[Event | Handshake]) -> None:
        """Process what can be, in the order of arrival: what waits is overtaken."""
        while True:
            ready = [
                (due, each)
                for each in self._directions
                if not each.is_blocked and (due := each.due) is not None
            ]
            if not ready:
                return
            _, direction = min(ready, key=itemgetter(0))
            record = direction.record()
            if record is None:
                direction.taken, event = direction.events.popleft()
                self._take(direction, event, out)
            elif self._process(direction, record, out):
                direction.consume(record)
            else:
                direction.is_blocked = True
                continue
            # What one direction reveals may be what the other one waits for.
            self._unblock()

    def _unblock(self) -> None:
        for each in self._directions:
            each.is_blocked = False

    def _take(self, direction: _Direction, event: Event, out: list[Event | Handshake]) -> None:
        if isinstance(event, Finish):
            direction.is_finished = True
            out.append(event)
        elif direction.is_dead:
            pass
        elif isinstance(event, Gap):
            self.cause = LOST_BYTES
            if not self._is_introduced:
                raise _UndecryptableError(LOST_BYTES)
            direction.is_dead = True
            direction.buffer.clear()
            # How much plain text is missing is unknown.
            out.append(event._replace(size=None))
        else:
            direction.waiting -= event.captured
            direction.origin = event
            direction.buffer += event.payload

    def _process(
        self, direction: _Direction, record: _Record, out: list[Event | Handshake]
    ) -> bool:
        """Process a record; return whether that was possible, else it waits."""
        if direction.label is None:
            return self._process_plain(direction, record, out)
        assert self._server is not None
        if self._server.version == _TLS13:
            if record.kind != _DATA:
                return True  # For middleboxes (RFC 8446, D.4), or an alert without a key.
        elif record.kind == _CHANGE_CIPHER_SPEC:
            raise _UndecryptableError(RENEGOTIATED)
        if direction.protection is None:
            direction.protection = self._protection(direction)
            if direction.protection is None:
                return False
        opened = direction.protection.open(record.header, record.fragment)
        if opened is None:
            if direction.skips:
                return True
            raise _UndecryptableError(WRONG_KEY)
        direction.skips = False
        kind, content = opened
        if kind == _DATA:
            self._emit(direction, content, out)
        elif kind == HANDSHAKE_RECORD and self._server.version == _TLS13:
            for message in direction.reassembly.feed(content):
                self._follow(direction, *message)
        elif kind == _ALERT and content[1:] == bytes([_CLOSE_NOTIFY]) and self._is_introduced:
            assert direction.origin is not None
            out.append(Finish(self._socket, direction.number, direction.origin.time))
        return True

    def _process_plain(
        self, direction: _Direction, record: _Record, out: list[Event | Handshake]
    ) -> bool:
        if record.kind == HANDSHAKE_RECORD:
            for kind, body in direction.reassembly.feed(record.fragment):
                if kind == handshake.CLIENT_HELLO:
                    self._offer(direction, handshake.client_hello(body))
                elif kind == handshake.SERVER_HELLO:
                    self._select(handshake.server_hello(body))
            return True
        if record.kind == _ALERT:
            return True
        server = self._server
        if server is None or self._hello is None:
            # After a HelloRetryRequest: for middleboxes (RFC 8446, D.4), or refused early data.
            return self._retried
        if server.version != _TLS13:
            if record.kind != _CHANGE_CIPHER_SPEC:
                raise _UndecryptableError(NO_RECORDS)
            direction.next_key(CLIENT_RANDOM)
            return True
        if record.kind == _CHANGE_CIPHER_SPEC:
            return True
        label = self._first_label(direction, out)
        if label is None:
            return False
        direction.next_key(label)
        return self._process(direction, record, out)

    def _offer(self, direction: _Direction, hello: ClientHello) -> None:
        """The client has sent its first hello, or a second one with the same random bytes."""
        known = self._hello
        if known and (known.random, self._client) != (hello.random, direction.number):
            raise HandshakeError
        self._hello = hello
        self._client = direction.number

    def _select(self, server: ServerHello) -> None:
        """The server has selected version and cipher."""
        if self._server:
            raise HandshakeError
        if server.is_retry:
            self._retried = True
            return
        from profiler.ingest.decryption.suites import SUITES

        version = version_name(server.version)
        if server.version not in (_TLS12, _TLS13):
            raise _UndecryptableError(f"its version {version} is not supported")
        self._suite = SUITES.get(server.cipher)
        if self._suite is None:
            raise _UndecryptableError(f"its cipher suite {server.cipher:#06x} is not supported")
        self._server = server
        self._protocol = server.protocol

    def _first_label(self, direction: _Direction, out: list[Event | Handshake]) -> str | None:
        """Return which secret protects a direction's first record; ``None`` if still unknown."""
        assert self._hello is not None
        label = self._label(HANDSHAKE, direction)
        if direction.number != self._client or not self._hello.offers_early_data:
            return label
        if self._accepts_early_data is None:
            return None
        if not self._accepts_early_data:
            direction.skips = True
            return label
        if self._keys.find(self._hello.random, EARLY):
            return EARLY
        # It was used before the other secrets existed, so it will not come any more.
        if self._keys.find(self._hello.random, label) is None:
            return None
        direction.skips = True
        direction.lacks_early_data = True
        self.cause = EARLY_DATA
        assert direction.origin is not None
        out.append(Gap(self._socket, direction.number, direction.origin.time, None, LOST))
        return label

    def _label(self, labels: tuple[str, str], direction: _Direction) -> str:
        return labels[0 if direction.number == self._client else 1]

    def _protection(self, direction: _Direction) -> Protection | None:
        """Return the keys for a direction's label, or ``None`` if the key log has none yet."""
        from profiler.ingest.decryption.ciphers import Protection13, protections12

        assert self._hello and self._server and self._suite and direction.label
        secret = self._keys.find(self._hello.random, direction.label)
        if secret is None:
            return None
        if direction.label != CLIENT_RANDOM:
            return Protection13(self._suite, secret)
        both = protections12(self._suite, secret, self._hello.random, self._server.random)
        return both[0 if direction.number == self._client else 1]

    def _follow(self, direction: _Direction, kind: int, body: bytes) -> None:
        """A protected handshake message of TLS 1.3 changes the keys, or describes them."""
        if kind == handshake.ENCRYPTED_EXTENSIONS and self._accepts_early_data is None:
            self._protocol, self._accepts_early_data = handshake.encrypted_extensions(body)
        elif kind == handshake.END_OF_EARLY_DATA and direction.label == EARLY:
            direction.next_key(HANDSHAKE[0])
        elif kind == handshake.FINISHED and direction.label in HANDSHAKE:
            direction.next_key(self._label(APPLICATION, direction))
        elif kind == handshake.KEY_UPDATE and direction.label in APPLICATION:
            from profiler.ingest.decryption.ciphers import Protection13

            # None if a peer sends it in one record with Finished.
            if isinstance(direction.protection, Protection13):
                direction.protection = direction.protection.updated()

    def _emit(self, direction: _Direction, content: bytes, out: list[Event | Handshake]) -> None:
        assert self._hello and self._server and self._suite and direction.origin
        if not content:
            return
        if not self._is_introduced:
            self._is_introduced = True
            version = version_name(self._server.version)
            out.append(
                Handshake(
                    *(self._socket, version, self._suite.name),
                    *(self._protocol, self._hello.server_name),
                )
            )
        size = len(content)
        out.append(
            direction.origin._replace(
                # The position then is not that of the stream.
                flags=FLAG_JOINED if direction.lacks_early_data else 0,
                position=direction.position,
                size=size,
                captured=size,
                sequence=0,
                payload=content,
            )
        )
        direction.position += size
