# SPDX-License-Identifier: Apache-2.0
"""Compares parsers of heads: their cost, and what they reject.

    python -m benchmarks.parse_heads                  # times, and what is rejected
    python -m benchmarks.parse_heads --instructions   # counted by valgrind, a few minutes

It needs h11, httptools and llhttp: ``tox -e bench-replay`` has them.
``docs/notes/parser-choice.md`` explains the choice that followed.
"""

from __future__ import annotations

import sys
from timeit import repeat

from benchmarks.heads import ODD, USUAL, Odd, type_of
from benchmarks.instructions import per_round
from benchmarks.parsers import PARSERS, Feed

_ROUNDS = 2000


def run(parser: str, head: str, rounds: int) -> None:
    """Parse one head that many times."""
    data = USUAL[head]
    feed = PARSERS[parser](type_of(data))
    for _ in range(rounds):
        feed(data)


def microseconds(parser: str, head: str) -> float:
    """Return the best of several runs: other load only adds time."""
    times = repeat(lambda: run(parser, head, _ROUNDS), number=1, repeat=7)
    return min(times) / _ROUNDS * 1e6


def instructions(parser: str, head: str) -> float:
    """Return the instructions of one head."""
    return per_round("benchmarks.parse_heads", parser, head, rounds=_ROUNDS // 4)


def verdict(feed: Feed, odd: Odd) -> str:
    """Describe the result of parsing ``odd``: all of its heads, none, or others."""
    try:
        found = feed(odd.data)
    except Exception as error:
        return f"refused: {type(error).__name__}"
    starts = tuple(start.strip() for start, _ in found)
    if starts != odd.starts:
        return f"wrong: {', '.join(starts) or 'nothing'}"
    if odd.field is not None and found[0][1].get(odd.field[0]) != odd.field[1]:
        return f"wrong: {found[0][1].get(odd.field[0])!r}"
    return "read"


def row(*cells: str) -> None:
    """Print one row of a table."""
    print("| " + " | ".join(cells) + " |")


def main(arguments: list[str]) -> None:
    """Print the tables; or, under valgrind, run one cell of the first."""
    if len(arguments) == 3:
        run(arguments[0], arguments[1], int(arguments[2]))
        return
    counted = arguments == ["--instructions"]
    row("instructions a head" if counted else "µs a head", *USUAL)
    row(*["---"] * (len(USUAL) + 1))
    for parser in PARSERS:
        cells = []
        for head in USUAL:
            cells.append(
                f"{instructions(parser, head):,.0f}"
                if counted
                else f"{microseconds(parser, head):.1f}"
            )
        row(parser, *cells)
    if counted:
        return
    chosen = ["our whole HTTP stage", "httptools", "llhttp", "h11"]
    print()
    row("what an observer meets", *chosen)
    row(*["---"] * (len(chosen) + 1))
    for name, odd in ODD.items():
        row(name, *(verdict(PARSERS[parser](type_of(odd.data)), odd) for parser in chosen))


if __name__ == "__main__":
    main(sys.argv[1:])
