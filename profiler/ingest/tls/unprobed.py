# SPDX-License-Identifier: Apache-2.0
"""Explains why the TLS of a process cannot be captured, from the files that it has mapped.

Some libraries are known by the name of a file, such as the Java virtual machine. Others are
linked into a program: a text among its constants shows which.
"""

from __future__ import annotations

import re

from profiler.ingest.tls.elf import ElfError, Image, is_elf

_ADVICE = "see docs/explanation/tls.md for other ways"
_UNKNOWN = "it has no known TLS library with symbols"

# The name of a mapped file.
_FILES = (
    (re.compile(r"libjvm\.so"), "Java has a TLS of its own"),
    (re.compile(r"libssl3\.so|libnss3\.so"), "NSS is not supported"),
    (re.compile(r"libmbedtls"), "Mbed TLS is not supported"),
    (re.compile(r"libwolfssl"), "wolfSSL is not supported"),
    (re.compile(r"libs2n"), "s2n-tls is not supported"),
)
# A text among the constants of a program, in the order of precedence.
_TEXTS = (
    (b"rustls-", "rustls is not supported"),
    (b"BoringSSL", "its BoringSSL has no symbols"),
    (b"OpenSSL 1.1.", "its OpenSSL has no symbols"),
    (b"OpenSSL 3.", "its OpenSSL has no symbols"),
    (b"mbedtls", "Mbed TLS is not supported"),
    (b"wolfSSL", "wolfSSL is not supported"),
    (b"crypto/tls", "its Go is older than 1.18"),
)
# Constants of the largest browsers; a program with more is searched so far.
_SEARCHED_MAX = 64 << 20


def reason_of_files(paths: list[str]) -> str:
    """Return what the names of mapped files reveal; empty if nothing."""
    for pattern, reason in _FILES:
        if any(pattern.match(path.rpartition("/")[2]) for path in paths):
            return f"{reason}; {_ADVICE}"
    return ""


def reason_of_program(descriptor: int) -> str:
    """Return what the constants of an ELF file reveal; empty if nothing.

    ``descriptor`` is open for reading, and stays the caller's.
    """
    if not is_elf(descriptor):
        return ""
    longest = max(len(text) for text, _ in _TEXTS)
    found: set[bytes] = set()
    try:
        image = Image(descriptor)
        for section in image.sections:
            if not section.name.startswith(".rodata"):
                continue
            size = min(section.size, _SEARCHED_MAX)
            for _, block in image.blocks(section.offset, size, longest):
                found.update(text for text, _ in _TEXTS if text in block)
    except ElfError as error:
        return f"its program is not readable: {error}"
    reason = next((reason for text, reason in _TEXTS if text in found), "")
    return f"{reason}; {_ADVICE}" if reason else ""


def unknown() -> str:
    """Return the reason where nothing is known."""
    return f"{_UNKNOWN}; {_ADVICE}"
