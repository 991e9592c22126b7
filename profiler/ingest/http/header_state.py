# SPDX-License-Identifier: Apache-2.0
"""HPACK from the observer's side (RFC 7541): header blocks of one direction in, fields out.

A field may be sent as an index into a table that both ends have built from all previous blocks, and
an observer may have missed some of them. The index of an entry is the number of entries added after
it (RFC 7541, 2.3.3). So an observer that sees every block from some moment knows the newest entries
exactly, whatever was there before. A higher index means that the field is *unknown*; it is never
guessed. A missed block may have added entries, so after one, the table is cleared, and learning
starts again.

The limit of the table (SETTINGS_HEADER_TABLE_SIZE of the peer) is not tracked: an encoder announces
the size it uses in its blocks (RFC 7541, 4.2 and 6.3), and never refers to evicted entries. While
its size is unknown, the largest size kept here works as well.
"""

from __future__ import annotations

from itertools import chain

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from profiler.ingest.http.amplification import allowance, fits
from profiler.ingest.http.message import HEAD_LIMIT, UNDECODABLE

# The bytes of entries to keep (RFC 7541, 4.1); older ones count as unknown.
_TABLE_MAX = 64 * 1024

# The memory of an entry in Python besides what RFC 7541, 4.1 counts: its bytes, and 32.
_ENTRY_SIZE = 130

Pairs = list[tuple[bytes, bytes]]


class BlockError(Exception):
    """A header block breaks the rules, or its fields are larger than they may be: ``reason``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Table(HeaderTable):
    """``partly``: its oldest entries are not known. An unknown name or value is empty."""

    def __init__(self, partly: bool) -> None:
        super().__init__()
        self.partly = partly
        self.missed = False
        if partly:
            self.maxsize = _TABLE_MAX

    @property
    def held(self) -> int:
        """The bytes of memory of the entries; strings that messages share count here, too."""
        return self._current_size + _ENTRY_SIZE * len(self.dynamic_entries)

    def get_by_index(self, index: int) -> tuple[bytes, bytes]:
        if self.partly and index > self.STATIC_TABLE_LENGTH + len(self.dynamic_entries):
            self.missed = True
            return b"", b""
        name, value = super().get_by_index(index)
        if not name:
            # No field has an empty name (RFC 9110, 5.1): this entry's name was unknown.
            self.missed = True
        return name, value


class HeaderState:
    """The known part of one direction's table."""

    __slots__ = ("_decoder", "_max_size", "_table")

    def __init__(self, max_size: int, joined: bool) -> None:
        """Accept blocks whose fields, each plus 32 bytes, have at most ``max_size`` bytes.

        That is how SETTINGS_MAX_HEADER_LIST_SIZE counts (RFC 9113, 6.5.2).

        ``joined``: earlier blocks were missed.
        """
        self._max_size = max_size
        self._decoder = Decoder()
        # An observer need not check whether an encoder exceeds its peer's limit.
        self._decoder.max_allowed_table_size = 1 << 32
        self._set_table(joined)

    def decode(self, block: bytes) -> tuple[Pairs, bool]:
        """Return the known fields of ``block``, and whether there are unknown ones.

        Raises :class:`BlockError`; the table is cleared if the block was not decoded to its end.
        """
        decoder, table = self._decoder, self._table
        table.missed = False
        limit = min(self._max_size, allowance(len(block)))
        decoder.max_header_list_size = limit
        try:
            headers = [*decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            self.forget()
            raise BlockError(HEAD_LIMIT) from None
        except (HPACKError, ValueError):
            # hpack before 4.2 raises ValueError for an integer of thousands of digits.
            self.forget()
            raise BlockError(UNDECODABLE) from None
        if decoder.header_table_size > _TABLE_MAX:
            decoder.header_table_size = _TABLE_MAX
            table.partly = True
        if not fits(b"".join(chain.from_iterable(headers)), limit):
            raise BlockError(HEAD_LIMIT)
        return [(name, value) for name, value in headers if name], table.missed

    @property
    def held(self) -> int:
        """The bytes of memory that the known entries take."""
        return self._table.held

    def forget(self) -> None:
        """A block was missed: clear the table."""
        self._set_table(partly=True)

    def _set_table(self, partly: bool) -> None:
        self._table = self._decoder.header_table = _Table(partly)
