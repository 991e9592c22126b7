# SPDX-License-Identifier: Apache-2.0
"""The rows of a query result as text: aligned columns for a terminal, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from profiler.exchanges.text import escaped, visible

_SHOWN = 1000
_WIDTH = 80


def answer(
    names: Sequence[str], rows: Iterable[Sequence[Any]], for_terminal: bool
) -> Iterator[str]:
    """Yield lines; a terminal gets at most the first 1,000 rows, and the number of others."""
    if for_terminal:
        yield from _table(names, iter(rows))
        return
    for row in rows:
        yield escaped(_json(dict(zip(names, row)))).decode() + "\n"


def _json(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # An integer of more than 64 bits, which DuckDB has.
        return json.dumps(row, default=str).encode()


def _table(names: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    shown = [[_cell(value) for value in row] for row in islice(rows, _SHOWN)]
    numeric = [False] * len(names)
    widths = [max(map(len, column)) for column in zip(names, *shown)]
    numeric = [all(_is_number(cell) for cell in column) for column in zip(*shown)] or numeric
    for row in (names, ["-" * width for width in widths], *shown):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric)
        )
        yield "  ".join(cells).rstrip() + "\n"
    rest = sum(1 for _ in rows)
    if rest:
        yield f"... and {rest} more rows\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    text = visible(text)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _is_number(cell: str) -> bool:
    return cell.lstrip("-").replace(".", "", 1).isdigit()
