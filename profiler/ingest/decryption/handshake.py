# SPDX-License-Identifier: Apache-2.0
"""Parses the messages of a TLS handshake as far as decryption needs them (RFC 8446, 4)."""

from __future__ import annotations

from typing import NamedTuple

CLIENT_HELLO, SERVER_HELLO, END_OF_EARLY_DATA, ENCRYPTED_EXTENSIONS = 1, 2, 5, 8
FINISHED, KEY_UPDATE = 20, 24
_KEPT = frozenset(
    (CLIENT_HELLO, SERVER_HELLO, END_OF_EARLY_DATA, ENCRYPTED_EXTENSIONS, FINISHED, KEY_UPDATE)
)
# A message that is kept; real ones have a few kilobytes.
_MESSAGE_MAX = 64 * 1024
_HEADER_SIZE = 4

_SERVER_NAME, _ALPN, _EARLY_DATA, _SUPPORTED_VERSIONS = 0, 16, 42, 43
_HOST_NAME = 0  # RFC 6066, 3
_RANDOM_SIZE = 32
# The random of a HelloRetryRequest (RFC 8446, 4.1.3).
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


_VERSIONS = {0x0300: "SSL 3.0", 0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}
# HTTP's version -> the name of its protocol (RFC 7301, 6; RFC 9113, 3.2).
_PROTOCOLS = {"2": "h2", "1.1": "http/1.1", "1.0": "http/1.0"}


def version_name(number: int) -> str:
    """Return the name of a version of TLS; its number if it is unknown."""
    return _VERSIONS.get(number, f"{number:#06x}")


class HandshakeError(Exception):
    """The bytes are not a handshake of TLS."""


class Handshake(NamedTuple):
    """What is known of a handshake; ``cipher`` is IANA's name, ``protocol`` is that of ALPN.

    ``None`` is unknown.
    """

    socket: int
    version: str | None
    cipher: str | None
    protocol: str | None
    server_name: str | None
    offered: tuple[str, ...] = ()
    """The protocols that the client offered. In TLS 1.3 the server's choice is encrypted."""

    def of_message(self, http_version: str) -> Handshake:
        """Return the handshake of a message: what was offered and is spoken, was selected."""
        spoken = _PROTOCOLS.get(http_version)
        if self.protocol is None and spoken in self.offered:
            return self._replace(protocol=spoken)
        return self


class ClientHello(NamedTuple):
    """What a client offers."""

    random: bytes
    server_name: str | None
    offers_early_data: bool
    protocols: tuple[str, ...] = ()
    """By ALPN (RFC 7301)."""


class ServerHello(NamedTuple):
    """What a server selects. ``version`` and ``cipher`` are numbers as on the wire."""

    random: bytes
    version: int
    cipher: int
    protocol: str | None
    """The protocol selected by ALPN; TLS 1.3 sends it later, see :func:`encrypted_extensions`."""

    is_retry: bool
    """It is a HelloRetryRequest."""


class Reassembly:
    """Cuts the handshake bytes of one direction into messages; skips those that are not needed."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipped = 0

    @property
    def held(self) -> int:
        """The bytes of an unfinished message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return type and body of each message that ``data`` completes. Raises HandshakeError."""
        skipped = min(self._skipped, len(data))
        self._skipped -= skipped
        buffer = self._buffer
        buffer += data[skipped:]
        messages = []
        while len(buffer) >= _HEADER_SIZE:
            kind, size = buffer[0], int.from_bytes(buffer[1:_HEADER_SIZE], "big")
            end = _HEADER_SIZE + size
            if kind not in _KEPT:
                self._skipped = max(end - len(buffer), 0)
            elif size > _MESSAGE_MAX:
                raise HandshakeError
            elif len(buffer) < end:
                break
            else:
                messages.append((kind, bytes(buffer[_HEADER_SIZE:end])))
            del buffer[:end]
        return messages


class _Cursor:
    """Reads fields one after the other. Raises HandshakeError at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise HandshakeError
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Read bytes after their length, which is a number of ``size`` bytes."""
        return self.take(self.number(size))


def client_hello(body: bytes) -> ClientHello:
    """Parse a ClientHello. Raises HandshakeError."""
    cursor = _Cursor(body)
    cursor.take(2)
    random = cursor.take(_RANDOM_SIZE)
    cursor.vector(1)  # session
    cursor.vector(2)  # cipher suites
    cursor.vector(1)  # compression
    extensions = _extensions(cursor)
    return ClientHello(
        *(random, _server_name(extensions.get(_SERVER_NAME)), _EARLY_DATA in extensions),
        _protocols(extensions.get(_ALPN)),
    )


def server_hello(body: bytes) -> ServerHello:
    """Parse a ServerHello or a HelloRetryRequest. Raises HandshakeError."""
    cursor = _Cursor(body)
    version = cursor.number(2)
    random = cursor.take(_RANDOM_SIZE)
    cursor.vector(1)
    cipher = cursor.number(2)
    cursor.take(1)
    extensions = _extensions(cursor)
    selected = extensions.get(_SUPPORTED_VERSIONS)
    if selected:
        version = int.from_bytes(selected, "big")
    protocol = _protocol(extensions.get(_ALPN))
    return ServerHello(random, version, cipher, protocol, random == _RETRY)


def encrypted_extensions(body: bytes) -> tuple[str | None, bool]:
    """Return the protocol that ALPN selected, and whether early data is accepted.

    Raises HandshakeError.
    """
    extensions = _extensions(_Cursor(body))
    return _protocol(extensions.get(_ALPN)), _EARLY_DATA in extensions


def _extensions(cursor: _Cursor) -> dict[int, bytes]:
    if cursor.at_end:
        return {}  # They are optional before TLS 1.3.
    block = _Cursor(cursor.vector(2))
    found: dict[int, bytes] = {}
    while not block.at_end:
        kind = block.number(2)
        found[kind] = block.vector(2)
    return found


def _server_name(extension: bytes | None) -> str | None:
    if not extension:
        return None
    names = _Cursor(_Cursor(extension).vector(2))
    while not names.at_end:
        kind = names.number(1)
        name = names.vector(2)
        if kind == _HOST_NAME:
            return _text(name)
    return None


def _protocols(extension: bytes | None) -> tuple[str, ...]:
    """RFC 7301, 3.1: a list of names."""
    found = []
    if extension:
        names = _Cursor(_Cursor(extension).vector(2))
        while not names.at_end:
            found.append(_text(names.vector(1)) or "")
    return tuple(found)


def _protocol(extension: bytes | None) -> str | None:
    """Return the one that a server selected: the only name in its list."""
    return next(iter(_protocols(extension)), None)


def _text(name: bytes) -> str | None:
    return name.decode("ascii", "backslashreplace") or None
