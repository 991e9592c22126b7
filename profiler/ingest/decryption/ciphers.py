# SPDX-License-Identifier: Apache-2.0
"""Opens protected records: the AEAD ciphers of TLS 1.2 (RFC 5246) and TLS 1.3 (RFC 8446).

Only this module imports ``cryptography``, and it is imported when the first key is used.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Protocol, Union

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from profiler.ingest.decryption.suites import Suite

_TAG_SIZE = 16
_NONCE_SIZE = 12
_EXPLICIT_SIZE = 8  # of a nonce (RFC 5288, 3)

_HASHES = {"sha256": SHA256, "sha384": SHA384}


class Protection(Protocol):
    """The keys of one direction, and the number of its next record."""

    def open(self, header: bytes, fragment: bytes) -> tuple[int, bytes] | None:
        """Return the content type and the plain text of a record; ``None``: not authentic.

        ``header`` are the record's first five bytes. Only an authentic record counts.
        """


_Aead = Union[AESGCM, ChaCha20Poly1305]


def _aead(suite: Suite, key: bytes) -> _Aead:
    return ChaCha20Poly1305(key) if suite.is_chacha else AESGCM(key)


def _numbered(iv: bytes, number: int) -> bytes:
    """Return the nonce of a record: its number, exclusive-or'ed into ``iv``."""
    return (int.from_bytes(iv, "big") ^ number).to_bytes(_NONCE_SIZE, "big")


class Protection13:
    """A direction of TLS 1.3 with one traffic secret (RFC 8446, 5.2 and 7.3)."""

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self._suite = suite
        self._secret = secret
        self._aead = _aead(suite, _expand_label(suite, secret, b"key", suite.key_size))
        self._iv = _expand_label(suite, secret, b"iv", _NONCE_SIZE)
        self._number = 0

    def open(self, header: bytes, fragment: bytes) -> tuple[int, bytes] | None:
        """See :class:`Protection`."""
        try:
            inner = self._aead.decrypt(_numbered(self._iv, self._number), fragment, header)
        except (InvalidTag, ValueError):
            return None
        self._number += 1
        # The content type is the last byte that is not padding.
        content = inner.rstrip(b"\0")
        return (content[-1], content[:-1]) if content else None

    def updated(self) -> Protection13:
        """Return the protection after a KeyUpdate (RFC 8446, 7.2)."""
        size = hashlib.new(self._suite.hash).digest_size
        return Protection13(
            self._suite, _expand_label(self._suite, self._secret, b"traffic upd", size)
        )


class Protection12:
    """A direction of TLS 1.2 (RFC 5246, 6.2.3.3)."""

    def __init__(self, suite: Suite, key: bytes, iv: bytes) -> None:
        self._is_explicit = not suite.is_chacha
        self._aead = _aead(suite, key)
        self._iv = iv
        self._number = 0

    def open(self, header: bytes, fragment: bytes) -> tuple[int, bytes] | None:
        """See :class:`Protection`."""
        if self._is_explicit:
            nonce = self._iv + fragment[:_EXPLICIT_SIZE]
            fragment = fragment[_EXPLICIT_SIZE:]
        else:
            nonce = _numbered(self._iv, self._number)  # RFC 7905, 2
        if len(fragment) < _TAG_SIZE:
            return None
        size = len(fragment) - _TAG_SIZE
        data = struct.pack("!Q3sH", self._number, header[:3], size)
        try:
            plain = self._aead.decrypt(nonce, fragment, data)
        except (InvalidTag, ValueError):
            return None
        self._number += 1
        return header[0], plain


def protections12(
    suite: Suite, master: bytes, client_random: bytes, server_random: bytes
) -> tuple[Protection12, Protection12]:
    """Return the protections of the client's and the server's direction (RFC 5246, 6.3)."""
    iv_size = _NONCE_SIZE if suite.is_chacha else _NONCE_SIZE - _EXPLICIT_SIZE
    sizes = suite.key_size, suite.key_size, iv_size, iv_size
    seed = b"key expansion" + server_random + client_random
    block = _p_hash(suite.hash, master, seed, sum(sizes))
    parts = []
    for size in sizes:
        parts.append(block[:size])
        block = block[size:]
    client_key, server_key, client_iv, server_iv = parts
    return Protection12(suite, client_key, client_iv), Protection12(suite, server_key, server_iv)


def _p_hash(name: str, secret: bytes, seed: bytes, size: int) -> bytes:
    """RFC 5246, 5."""
    out, chained = b"", seed
    while len(out) < size:
        chained = hmac.digest(secret, chained, name)
        out += hmac.digest(secret, chained + seed, name)
    return out[:size]


def _expand_label(suite: Suite, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label without a context (RFC 8446, 7.1)."""
    full = b"tls13 " + label
    info = struct.pack("!HB", size, len(full)) + full + b"\0"
    return HKDFExpand(_HASHES[suite.hash](), size, info).derive(secret)
