# SPDX-License-Identifier: Apache-2.0
"""Text on a terminal: cut and padded to cells, with sizes and times that people read.

A cell is the width of one letter; East Asian characters take two. Text from outside has to be made
``visible`` (``exchanges/text.py``) first.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_CUT = "…"


class Column(NamedTuple):
    """A column of a table: ``width`` in cells, ``rank`` says who goes first where room is scarce.

    One column has the width 0: it takes what the others leave.
    """

    name: str
    width: int
    rank: int = 0
    right: bool = False


def cells(text: str) -> int:
    """Return how many cells a visible text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


@lru_cache(maxsize=4096)
def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, width: int) -> str:
    """Return a visible text as it fits into ``width`` cells; one that was cut ends in ``…``."""
    if cells(text) <= width:
        return text
    if width <= 0:
        return ""
    room, kept = width - 1, 0
    for number, character in enumerate(text):
        kept += _cells(character)
        if kept > room:
            return text[:number] + _CUT
    return text


def pad(text: str, width: int, right: bool = False) -> str:
    """Return a visible text cut to ``width`` cells, and filled up with blanks."""
    text = clip(text, width)
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def wrap(text: str, width: int) -> list[str]:
    """Return a visible text in pieces of at most ``width`` cells; at least one."""
    width = max(width, 2)
    if text.isascii():
        return [text[at : at + width] for at in range(0, len(text), width)] or [""]
    pieces, begin, taken = [], 0, 0
    for number, character in enumerate(text):
        size = _cells(character)
        if taken + size > width:
            pieces.append(text[begin:number])
            begin, taken = number, 0
        taken += size
    return [*pieces, text[begin:]]


@lru_cache(maxsize=64)
def fit(columns: Sequence[Column], width: int, least: int = 20) -> list[tuple[Column, int]]:
    """Return the columns for which there is room, each with its width; one blank between them.

    Those of the highest rank go first, as long as the one of width 0 would have less than
    ``least`` cells.
    """
    shown = list(columns)
    while True:
        rest = width - sum(column.width for column in shown) - (len(shown) - 1)
        highest = max(shown, key=lambda column: column.rank)
        if rest >= least or highest.rank == 0:
            return [(column, column.width or max(rest, 1)) for column in shown]
        shown.remove(highest)


def size_text(size: float) -> str:
    """Return a number of bytes in at most eight characters."""
    if size < 1000:
        return f"{size:.0f} B"
    power = 0
    while size >= 999.5 and power < 4:
        size /= 1000
        power += 1
    return f"{size:.{0 if size >= 99.5 else 1}f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def time_text(milliseconds: float) -> str:
    """Return a time in at most eight characters."""
    if milliseconds < 999.5:
        digits = 0 if milliseconds >= 99.5 else 1 if milliseconds >= 9.95 else 2
        return f"{milliseconds:.{digits}f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.{0 if seconds >= 99.5 else 1}f} s"


def width_of(fd: int) -> int | None:
    """Return how many cells a line of the terminal ``fd`` has; ``None`` if it is none."""
    try:
        return os.get_terminal_size(fd).columns or 80
    except OSError:
        return None


def has_colours(fd: int) -> bool:
    """Whether ``fd`` is a terminal with colours, and nobody said that there should be none.

    https://no-color.org: ``NO_COLOR``, if it is not empty.
    """
    if os.environ.get("NO_COLOR") or not os.isatty(fd):
        return False
    # Not loaded for who writes to a file.
    import curses

    try:
        curses.setupterm(os.environ.get("TERM") or "dumb", fd)
    except curses.error:
        return False  # A terminal that this machine does not know.
    return curses.tigetnum("colors") >= 8


def encoded(text: str) -> bytes:
    """Return a text in the encoding of the terminal; what it lacks is written as a number."""
    return text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
