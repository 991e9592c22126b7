# SPDX-License-Identifier: Apache-2.0
"""Text on a terminal: cut and padded to cells, with readable sizes and times.

A cell is the width of one letter; East Asian characters take two. Captured text must first be made
``visible`` (``exchanges/text.py``).
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
    """A column of a table: ``width`` in cells; the highest ``rank`` is removed first if space is
    short.

    One column has width 0: it takes the remaining space.
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
    """Return a visible text, shortened to ``width`` cells; a shortened one ends in ``…``."""
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
    """Return a visible text, shortened or padded with spaces to ``width`` cells."""
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
    """Return the columns that fit, each with its width; one space separates them.

    Columns of the highest rank are removed first, until the one of width 0 has at least ``least``
    cells.
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
    """Return the number of cells in a line of the terminal ``fd``; ``None`` if it is not a
    terminal.
    """
    try:
        return os.get_terminal_size(fd).columns or 80
    except OSError:
        return None


def has_colours(fd: int) -> bool:
    """Whether ``fd`` is a terminal with colours, and colours are not disabled.

    https://no-color.org: a ``NO_COLOR`` that is not empty disables them.
    """
    if os.environ.get("NO_COLOR") or not os.isatty(fd):
        return False
    # Not loaded for output to a file.
    import curses

    try:
        curses.setupterm(os.environ.get("TERM") or "dumb", fd)
    except curses.error:
        return False  # This machine has no description of the terminal.
    return curses.tigetnum("colors") >= 8


def encoded(text: str) -> bytes:
    """Return a text in the terminal's encoding; characters it lacks become numbers."""
    return text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
