# SPDX-License-Identifier: Apache-2.0
"""Parses key logs, and finds the secrets of a connection.

A key log is a text file in the format of NSS (RFC 9850). Programs append to it if the environment
variable ``SSLKEYLOGFILE`` names it. Each line is a label, the random bytes of the ClientHello, and
a secret, the last two in hexadecimal.
"""

from __future__ import annotations

from binascii import unhexlify
from collections import OrderedDict
from typing import NamedTuple

CLIENT_RANDOM = "CLIENT_RANDOM"
EARLY = "CLIENT_EARLY_TRAFFIC_SECRET"
HANDSHAKE = ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET")
APPLICATION = ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0")
_LABELS = frozenset((CLIENT_RANDOM, EARLY, *HANDSHAKE, *APPLICATION))

# A line has at most the longest label, 64 and 96 digits; more is not a line of a key log.
LINE_MAX = 256
_RANDOM_SIZE = 32
# A master secret has 48 bytes (RFC 5246, 8.1), other secrets the size of SHA-256 or SHA-384.
_SECRET_SIZES = (32, 48)

# Connections whose secrets are kept; the oldest are dropped.
_CONNECTIONS_MAX = 65536


class Secret(NamedTuple):
    """One line of a key log. ``random`` are the 32 bytes that name the connection."""

    label: str
    random: bytes
    secret: bytes


def parse(line: bytes) -> Secret | None:
    """Parse a line; ``None`` if it is none, or has a label that decryption does not need."""
    if len(line) > LINE_MAX:
        return None
    try:
        label, random, secret = line.decode("ascii").split()
        parsed = Secret(label, unhexlify(random), unhexlify(secret))
    except ValueError:
        return None
    sizes_are_right = len(parsed.random) == _RANDOM_SIZE and len(parsed.secret) in _SECRET_SIZES
    return parsed if label in _LABELS and sizes_are_right else None


def line_of(secret: Secret) -> bytes:
    """Return the line without its end; the inverse of :func:`parse`."""
    return f"{secret.label} {secret.random.hex()} {secret.secret.hex()}".encode()


class KeyLog:
    """The secrets known so far."""

    def __init__(self) -> None:
        self._secrets: OrderedDict[bytes, dict[str, bytes]] = OrderedDict()
        self._used: set[tuple[bytes, str]] = set()
        self._newly_used: list[Secret] = []

    def add(self, secret: Secret) -> None:
        """Keep a secret. The first one counts if a connection has two of one label."""
        of_connection = self._secrets.get(secret.random)
        if of_connection is None:
            of_connection = self._secrets[secret.random] = {}
            if len(self._secrets) > _CONNECTIONS_MAX:
                random, dropped = self._secrets.popitem(last=False)
                self._used.difference_update((random, label) for label in dropped)
        of_connection.setdefault(secret.label, secret.secret)

    def find(self, random: bytes, label: str) -> bytes | None:
        """Return the secret of a connection with this label, or ``None``."""
        secret = self._secrets.get(random, {}).get(label)
        if secret is not None and (random, label) not in self._used:
            self._used.add((random, label))
            self._newly_used.append(Secret(label, random, secret))
        return secret

    def newly_used(self) -> list[Secret]:
        """Return the secrets that were found since the previous call, each only once."""
        used, self._newly_used = self._newly_used, []
        return used
