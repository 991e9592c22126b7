# SPDX-License-Identifier: Apache-2.0
"""The cipher suites that are known by name, and that can be decrypted."""

from __future__ import annotations

from typing import NamedTuple


class Suite(NamedTuple):
    """A cipher suite: its name at IANA, the hash of its key derivation, the size of its keys."""

    name: str
    hash: str
    key_size: int

    @property
    def is_chacha(self) -> bool:
        """Whether the cipher is ChaCha20-Poly1305, else AES-GCM."""
        return "CHACHA20" in self.name


def _gcm(prefix: str) -> tuple[Suite, Suite]:
    return Suite(f"{prefix}AES_128_GCM_SHA256", "sha256", 16), Suite(
        f"{prefix}AES_256_GCM_SHA384", "sha384", 32
    )


def _chacha(prefix: str) -> Suite:
    return Suite(f"{prefix}CHACHA20_POLY1305_SHA256", "sha256", 32)


# https://www.iana.org/assignments/tls-parameters
SUITES = {
    **dict(zip((0x1301, 0x1302), _gcm("TLS_"))),
    0x1303: _chacha("TLS_"),
    **dict(zip((0x009C, 0x009D), _gcm("TLS_RSA_WITH_"))),
    **dict(zip((0x009E, 0x009F), _gcm("TLS_DHE_RSA_WITH_"))),
    **dict(zip((0xC02B, 0xC02C), _gcm("TLS_ECDHE_ECDSA_WITH_"))),
    **dict(zip((0xC02F, 0xC030), _gcm("TLS_ECDHE_RSA_WITH_"))),
    0xCCA8: _chacha("TLS_ECDHE_RSA_WITH_"),
    0xCCA9: _chacha("TLS_ECDHE_ECDSA_WITH_"),
    0xCCAA: _chacha("TLS_DHE_RSA_WITH_"),
}
