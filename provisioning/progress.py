# SPDX-License-Identifier: Apache-2.0
"""Prints each step and the time it takes, so that no user waits without knowing why.

Building and booting take from seconds to minutes. On a terminal, one line is kept up
to date. Elsewhere (a CI log, a pipe) a step prints a line at its start, one every
15 s, and one at its end. Everything goes to standard error: standard output is for
what the user requested.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

TERMINAL_INTERVAL = 0.5
LOG_INTERVAL = 15.0


def say(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Show ``doing`` and the time it takes, until the block ends."""
    stream = sys.stderr
    terminal = stream.isatty()
    started = time.monotonic()
    ended = threading.Event()
    if not terminal:
        say(f"{doing} ...")
    ticker = threading.Thread(
        target=_tick, args=(doing, started, ended, stream, terminal), daemon=True
    )
    ticker.start()
    outcome = "failed after"
    try:
        yield
        outcome = "done in"
    except KeyboardInterrupt:
        outcome = "interrupted after"
        raise
    finally:
        ended.set()
        ticker.join()
        start = "\r\033[K" if terminal else ""
        print(
            f"{start}{doing}: {outcome} {time.monotonic() - started:.1f} s",
            file=stream,
            flush=True,
        )


def _tick(
    doing: str, started: float, ended: threading.Event, stream: TextIO, terminal: bool
) -> None:
    while not ended.wait(TERMINAL_INTERVAL if terminal else LOG_INTERVAL):
        elapsed = f"{time.monotonic() - started:.0f} s"
        if terminal:
            print(f"\r\033[K{doing} ... {elapsed}", end="", file=stream, flush=True)
        else:
            say(f"{doing} ... {elapsed}")
