# SPDX-License-Identifier: Apache-2.0
"""Recognises TLS libraries by the functions they define, and finds where to probe them.

Names of files do not matter: Python wheels contain renamed copies, and programs contain whole
libraries. What counts is in :data:`KINDS`, one row per kind of library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from profiler.ingest.tls import bio, go
from profiler.ingest.tls.elf import Image, is_elf, printable
from profiler.ingest.tls.returns import Bounds, Refusal, locate


class Kind(NamedTuple):
    """A kind of library: the functions of its interface that are probed."""

    name: str
    needed: frozenset[str]
    """Only a file that defines all of these is such a library."""

    returning: tuple[str, ...]
    """Functions that move plain text, probed at the entry and at the returns."""

    entered: tuple[str, ...]
    """Functions probed only at the entry: they mark a call, or the end of a connection."""

    marks: tuple[bytes, ...]
    """How the text of the version begins, among the library's constants."""


_OPENSSL_MARKS = (b"OpenSSL ", b"LibreSSL ")
_VERSION = re.compile(rb"([A-Za-z]+ )?[0-9]+\.[0-9]+\.[0-9]+([ a-z-][ -~]{0,80})?")

KINDS = (
    # BoringSSL, LibreSSL and AWS-LC have the same names. SSL_peek() is not among them: what it
    # returns, SSL_read() returns again.
    Kind(
        "openssl",
        frozenset(("SSL_read", "SSL_write")),
        (
            *("SSL_read", "SSL_read_ex", "SSL_read_early_data", "SSL_sendfile"),
            *("SSL_write", "SSL_write_ex", "SSL_write_ex2", "SSL_write_early_data"),
            *(bio.READ, bio.WRITE),
        ),
        ("SSL_do_handshake", "SSL_shutdown", "SSL_free"),
        _OPENSSL_MARKS,
    ),
    # The other half of OpenSSL: in a file of its own, or in the same.
    Kind(
        "libcrypto",
        frozenset(("BIO_write", "BIO_read")),
        (),
        ("BIO_write",),
        _OPENSSL_MARKS,
    ),
    # gnutls_record_send_range() and gnutls_record_send_file() call gnutls_record_send().
    Kind(
        "gnutls",
        frozenset(("gnutls_record_send", "gnutls_record_recv")),
        ("gnutls_record_recv", "gnutls_record_send", "gnutls_record_send2"),
        ("gnutls_handshake", "gnutls_bye", "gnutls_deinit"),
        (b"3.",),
    ),
)
GO = Kind(
    "go",
    frozenset(("crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write")),
    (
        *("crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"),
        "crypto/tls.(*Conn).handshakeContext",
    ),
    ("crypto/tls.(*Conn).Close",),
    (),
)
# The first passes its arguments on to the second, in every version that has both. Only the second
# is probed, unless the first also returns by itself.
_CALLS = {"SSL_write_ex": "SSL_write_ex2", "gnutls_record_send": "gnutls_record_send2"}


@dataclass(frozen=True)
class Hook:
    """A function to probe: offsets in the file, as uprobes need them.

    ``names`` has more than one name if they share the code. ``returns`` is empty if only the
    entry is probed.
    """

    names: tuple[str, ...]
    entry: int
    size: int
    returns: tuple[int, ...]


@dataclass(frozen=True)
class Library:
    """A TLS library in a file.

    ``kind`` is a name of :data:`KINDS`, or ``go``. ``soname`` and ``version`` are texts from the
    file, empty if unknown. ``refused`` explains for each function that cannot be probed why.
    """

    kind: str
    machine: str
    soname: str
    version: str
    hooks: tuple[Hook, ...]
    refused: tuple[str, ...] = ()


def examine(descriptor: int) -> list[Library]:
    """Return the TLS libraries in an ELF file: none, one, or several linked into one program.

    ``descriptor`` is open for reading, and stays the caller's. Raises
    :class:`~profiler.ingest.tls.elf.ElfError`, but not for a file that is no ELF file.
    """
    if not is_elf(descriptor):
        return []
    image = Image(descriptor)
    wanted = frozenset(
        name for kind in KINDS for name in (*kind.needed, *kind.returning, *kind.entered)
    )
    defined = image.functions(wanted)
    kinds = [kind for kind in KINDS if kind.needed <= defined.keys()]
    if "SSL_read" in defined:
        defined.update(bio.functions(image))
    versions = {marks: _version(image, marks) for marks in {kind.marks for kind in kinds}}
    found = [_library(image, kind, defined, versions[kind.marks]) for kind in kinds]
    version = go.version(image)
    if version is not None:
        functions = go.functions(image, frozenset((*GO.returning, *GO.entered)))
        if GO.needed <= functions.keys():
            found.append(_library(image, GO, functions, version))
    return found


def _library(image: Image, kind: Kind, defined: dict[str, set[Bounds]], version: str) -> Library:
    hooks = []
    refused = []
    for bounds, names in _by_code(kind, defined):
        hook = _hook(image, kind, bounds, names, defined)
        if isinstance(hook, Hook):
            hooks.append(hook)
        elif hook is not None:
            refused.append(f"{names[0]}: {hook.reason}")
    return Library(kind.name, image.machine, image.soname, version, tuple(hooks), tuple(refused))


def _by_code(
    kind: Kind, defined: dict[str, set[Bounds]]
) -> Iterator[tuple[Bounds, tuple[str, ...]]]:
    """Yield the functions with all their names: at one address there is one probe."""
    names: dict[int, set[str]] = {}
    stops: dict[int, int] = {}
    for name in (*kind.returning, *kind.entered):
        for bounds in defined.get(name, ()):
            names.setdefault(bounds.start, set()).add(name)
            # A symbol without a size may have one in the other table.
            stops[bounds.start] = max(stops.get(bounds.start, 0), bounds.stop)
    for start in sorted(names):
        yield Bounds(start, stops[start]), tuple(sorted(names[start]))


def _hook(
    image: Image,
    kind: Kind,
    bounds: Bounds,
    names: tuple[str, ...],
    defined: dict[str, set[Bounds]],
) -> Hook | Refusal | None:
    """Return how to probe a function; ``None`` if probing the one that it calls is enough."""
    entry = image.code_offset(bounds.start)
    if entry is None or not image.read(bounds.start, 1):
        return Refusal("its code is not in the file")
    if bounds.stop == bounds.start:
        # Some assemblers omit the size of a symbol.
        unwound = image.bounds_of(bounds.start)
        bounds = unwound if unwound and unwound.start == bounds.start else bounds
    size = bounds.stop - bounds.start
    if not set(names) & set(kind.returning):
        return Hook(names, entry, size, ())
    exits = locate(bounds, image.machine, image.read, image.bounds_of)
    others = {one.start for name in names for one in defined.get(_CALLS.get(name, ""), ())}
    if isinstance(exits, Refusal):
        # A call through the linkage table cannot be followed.
        return None if others else exits
    if exits.forwards_to in others:
        return None
    returns = [image.code_offset(address) for address in exits.returns]
    if None in returns:
        return Refusal("its code is not in the file")
    return Hook(names, entry, size, tuple(one for one in returns if one is not None))


def _version(image: Image, marks: tuple[bytes, ...]) -> str:
    """Return what a library calls its version, unless its constants have several."""
    found = ""
    for section in image.sections:
        if section.name.startswith(".rodata"):
            for text in filter(_VERSION.fullmatch, image.texts(section, marks)):
                version = printable(text.decode())
                if found not in ("", version):
                    return ""
                found = version
    return found
