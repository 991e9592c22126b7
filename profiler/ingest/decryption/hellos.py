# SPDX-License-Identifier: Apache-2.0
"""Reads the hellos at the start of TLS connections, which are not encrypted (--tls).

The probe forwards the first bytes of such a connection's directions. Libraries read a record's
header first, so they come in pieces.
"""

from __future__ import annotations

from collections import OrderedDict

from profiler.ingest.decryption.handshake import (
    CLIENT_HELLO,
    SERVER_HELLO,
    ClientHello,
    Handshake,
    HandshakeError,
    Reassembly,
    client_hello,
    server_hello,
    version_name,
)
from profiler.ingest.decryption.suites import SUITES
from profiler.ingest.wire import Hello

# RFC 8446, 5.1
_HANDSHAKE_RECORD = 22
_HEADER_SIZE = 5

# Connections whose hellos are not whole yet. Each holds at most what the probe forwards, 8 KiB.
_OPEN_MAX = 512


class Hellos:
    """The connections that are being opened."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, _Greeting] = OrderedDict()

    def feed(self, piece: Hello) -> Handshake | None:
        """Take some bytes; return what is known, if it is more than before."""
        greeting = self._open.get(piece.socket)
        if greeting is None or (piece.position == 0 and piece.direction in greeting.directions):
            # An inode is used again after its socket was closed.
            greeting = self._open[piece.socket] = _Greeting()
            if len(self._open) > _OPEN_MAX:
                self._open.popitem(last=False)
        try:
            known = greeting.feed(piece)
        except HandshakeError:
            del self._open[piece.socket]
            return None
        if greeting.is_over:
            del self._open[piece.socket]
        return known


class _Greeting:
    """Both directions of a connection, and what their hellos contain."""

    def __init__(self) -> None:
        self.directions: dict[int, _Records] = {}
        self.is_over = False
        self._client: ClientHello | None = None

    def feed(self, piece: Hello) -> Handshake | None:
        """Take some bytes; return what a hello in them reveals. Raises HandshakeError."""
        records = self.directions.setdefault(piece.direction, _Records())
        known = None
        for kind, body in records.feed(piece):
            if kind == CLIENT_HELLO:
                self._client = client_hello(body)
                known = self._handshake(piece.socket, None, None, None)
            elif kind == SERVER_HELLO:
                server = server_hello(body)
                if server.is_retry:
                    continue
                suite = SUITES.get(server.cipher)
                self.is_over = True
                known = self._handshake(
                    *(piece.socket, version_name(server.version)),
                    *(suite.name if suite else None, server.protocol),
                )
        return known

    def _handshake(
        self, socket: int, version: str | None, cipher: str | None, protocol: str | None
    ) -> Handshake:
        name = self._client.server_name if self._client else None
        offered = self._client.protocols if self._client else ()
        return Handshake(socket, version, cipher, protocol, name, offered)


class _Records:
    """The records of one direction, as far as they belong to the handshake."""

    def __init__(self) -> None:
        self._position = 0
        self._header = b""
        self._left = 0  # bytes of the current record
        self._messages = Reassembly()

    def feed(self, piece: Hello) -> list[tuple[int, bytes]]:
        """Return the messages that are now whole: type and body. Raises HandshakeError."""
        if piece.position != self._position:
            raise HandshakeError  # Some bytes were lost.
        self._position += len(piece.payload)
        data, found = piece.payload, []
        while data:
            if not self._left:
                missing = _HEADER_SIZE - len(self._header)
                self._header += data[:missing]
                data = data[missing:]
                if len(self._header) < _HEADER_SIZE:
                    break
                if self._header[0] != _HANDSHAKE_RECORD:
                    break  # What follows is encrypted, or no hello.
                self._left = int.from_bytes(self._header[3:], "big")
                self._header = b""
            found += self._messages.feed(data[: self._left])
            taken = min(self._left, len(data))
            self._left -= taken
            data = data[taken:]
        return found
