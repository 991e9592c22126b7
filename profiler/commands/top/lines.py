# SPDX-License-Identifier: Apache-2.0
"""The parts of a frame: lines of spans, and tables that become lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from profiler.exchanges.text import visible
from profiler.outputs.terminal import Column, fit, pad

Row = TypeVar("Row")


class Span(NamedTuple):
    """A text that is safe to show, and the name of its style."""

    text: str
    style: str = ""


Line = list[Span]
_BETWEEN = Span(" ")


@dataclass(frozen=True)
class Shown(Generic[Row]):
    """A column of a table of rows."""

    column: Column
    key: Callable[[Row], Any]
    """What rows are sorted by."""

    text: Callable[[Row], str]
    style: Callable[[Row], str] = lambda row: ""
    rises: bool = False
    """Whether a sort by this column puts small values first."""


def heading(table: Sequence[Shown[Row]], width: int, sort: str, falls: bool) -> Line:
    """Return the names of the columns; the sort column has an arrow."""
    arrow = "▼" if falls else "▲"
    names = (
        pad(one.column.name + (arrow if one.column.name == sort else ""), room, one.column.right)
        for one, room in _fitted(table, width)
    )
    return [Span(" ".join(names), "head")]


def line_of(table: Sequence[Shown[Row]], row: Row, width: int) -> Line:
    """Return a row."""
    line: Line = []
    for one, room in _fitted(table, width):
        text = pad(visible(one.text(row)), room, one.column.right)
        line += [Span(text, one.style(row)), _BETWEEN]
    return line[:-1]


def _fitted(table: Sequence[Shown[Row]], width: int) -> list[tuple[Shown[Row], int]]:
    rooms = dict(fit(tuple(one.column for one in table), width))
    return [(one, rooms[one.column]) for one in table if one.column in rooms]
