# SPDX-License-Identifier: Apache-2.0
"""HPACK from the observer's side (RFC 7541): header blocks of one direction in, fields out.

A field may be sent as the number of an entry of a table that both ends have
built from all blocks before, and an observer may have missed some of them. What
an entry is called is how many entries were added after it (RFC 7541, 2.3.3). So
an observer who sees every block from some moment on knows the newest entries
exactly, whatever was there before; a number beyond them means a field that is
*unknown*, and is never guessed. A missed block may have added entries: after it
all that was known is forgotten, and learning begins anew.

How large the table may be (SETTINGS_HEADER_TABLE_SIZE of the peer) need not be
followed for that: an encoder says in its blocks what it makes of it (RFC 7541,
4.2 and 6.3), and entries that it has dropped are never named again. Where its
size is not known, the largest size that is kept here is as good.
"""

from __future__ import annotations

from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

# Bytes of entries that are remembered (RFC 7541, 4.1); older ones count as unknown.
_TABLE_MAX = 64 * 1024

# What an entry takes, of Python's memory; names and values are short.
_ENTRY_SIZE = 250

Pairs = list[tuple[bytes, bytes]]


class BlockError(Exception):
    """A header block breaks the rules, or is larger than it may be."""


class _Table(HeaderTable):
    """``partly``: its oldest entries are not known. An unknown name or value is empty."""

    def __init__(self, partly: bool) -> None:
        super().__init__()
        self.partly = partly
        self.missed = False
        if partly:
            self.maxsize = _TABLE_MAX

    def get_by_index(self, index: int) -> tuple[bytes, bytes]:
        if self.partly and index > self.STATIC_TABLE_LENGTH + len(self.dynamic_entries):
            self.missed = True
            return b"", b""
        name, value = super().get_by_index(index)
        if not name:
            # No field has an empty name (RFC 9110, 5.1): this one was added under an unknown one.
            self.missed = True
        return name, value


class HeaderState:
    """What is known of one direction's table."""

    __slots__ = ("_decoder", "_table")

    def __init__(self, max_size: int, joined: bool) -> None:
        """Take blocks whose fields, each counted with 32 bytes more, have ``max_size`` bytes.

        ``joined``: blocks went by before.
        """
        self._decoder = Decoder(max_size)
        # An encoder that exceeds what its peer permits is no concern of an observer.
        self._decoder.max_allowed_table_size = 1 << 32
        self._set_table(joined)

    def decode(self, block: bytes) -> tuple[Pairs, bool]:
        """Return the fields of ``block`` that are known, and whether there are others.

        Raises :class:`BlockError`; then what was known before is forgotten as well.
        """
        decoder, table = self._decoder, self._table
        table.missed = False
        try:
            headers = decoder.decode(block, raw=True)
        except HPACKError:
            self.forget()
            raise BlockError from None
        if decoder.header_table_size > _TABLE_MAX:
            decoder.header_table_size = _TABLE_MAX
            table.partly = True
        return [(name, value) for name, value in headers if name], table.missed

    @property
    def held(self) -> int:
        """Bytes of memory that the known entries take."""
        return _ENTRY_SIZE * len(self._table.dynamic_entries)

    def forget(self) -> None:
        """A block was missed: nothing is known of the table any more."""
        self._set_table(partly=True)

    def _set_table(self, partly: bool) -> None:
        self._table = self._decoder.header_table = _Table(partly)
