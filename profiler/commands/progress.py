# SPDX-License-Identifier: Apache-2.0
"""The progress of a command that takes longer than a second, on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from profiler.commands.options import STDOUT
from profiler.exchanges.model import Exchange
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.read import Progress
from profiler.exchanges.text import visible

_INTERVAL = 0.2
_STEP = 1000


@contextmanager
def progress(verb: str = "reading", patience: float = 1.0) -> Iterator[Progress | None]:
    """Yield what shows progress after ``patience`` seconds; ``None`` without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    due = time.monotonic() + patience
    is_shown = False

    def report(what: str, share: float) -> None:
        nonlocal due, is_shown
        now = time.monotonic()
        if now >= due:
            due, is_shown = now + _INTERVAL, True
            line = f"\rhttp-profiler: {verb} {visible(what)}: {100 * share:.0f} %\x1b[K"
            print(line, end="", file=sys.stderr, flush=True)

    try:
        yield report
    finally:
        if is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def writing(exchanges: Exchanges, to: Path) -> Iterator[Exchange]:
    """Yield exchanges to be written ``to`` a file, and show the progress."""
    if to == STDOUT:
        # On a terminal, the exchanges themselves show the progress.
        yield from exchanges
        return
    total = len(exchanges)
    with progress("writing") as report:
        for number, exchange in enumerate(exchanges):
            if report and number % _STEP == 0:
                report(f"{total} exchanges", number / total)
            yield exchange
