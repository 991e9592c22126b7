# SPDX-License-Identifier: Apache-2.0
"""How far a command is, on a terminal, when it takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from profiler.exchanges.read import Progress

_PATIENCE = 1.0
_INTERVAL = 0.2


@contextmanager
def progress() -> Iterator[Progress | None]:
    """Give what reports the progress of reading; ``None`` if standard error is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    due = time.monotonic() + _PATIENCE
    is_shown = False

    def report(name: str, share: float) -> None:
        nonlocal due, is_shown
        now = time.monotonic()
        if now >= due:
            due, is_shown = now + _INTERVAL, True
            line = f"\rhttp-profiler: reading {name}: {100 * share:.0f} %\x1b[K"
            print(line, end="", file=sys.stderr, flush=True)

    try:
        yield report
    finally:
        if is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
