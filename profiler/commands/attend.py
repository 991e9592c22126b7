# SPDX-License-Identifier: Apache-2.0
"""``http-profiler attend``: the profiler as the child of a program that asserts on traffic.

Records go to standard output as JSON lines. *Marks*, ``{"mark": N}``, stand between them. Mark 0
means that the probe is attached. Mark N means that everything moved before the Nth :data:`SETTLE`
on standard input has been written. :data:`END` ends the capture, and so does the end of standard
input, however the program ended. ``background.py`` is the other end.
"""

from __future__ import annotations

import argparse
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.accounting import Account
    from profiler.outputs.jsonl import Lines

SETTLE, END = b".", b"!"

_STDIN = 0
# Polls after which everything before has been read: the buffer was empty, or was read through
# (see RingBuffer.poll()).
_IDLE_POLLS = 2
_POLLS = 16


class _Marker:
    """An attendant that answers each SETTLE with a mark."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._asked = self._answered = 0
        self._polls = self._idle = 0

    def begun(self, _account: Callable[[], Account]) -> None:
        self._mark(0)

    def goes_on(self, idle: bool) -> bool:
        self._polls += 1
        self._idle = self._idle + 1 if idle else 0
        if self._idle >= _IDLE_POLLS or self._polls >= _POLLS:
            while self._answered < self._asked:
                self._answered += 1
                self._mark(self._answered)
        # Last, because only polls that begin after a request can answer it.
        if select.select([_STDIN], [], [], 0)[0]:
            asked = os.read(_STDIN, 4096)
            self._asked += asked.count(SETTLE)
            self._polls = self._idle = 0
            return bool(asked) and END not in asked
        return True

    def _mark(self, number: int) -> None:
        self._lines.add(b'{"mark":%d}\n' % number)
        self._lines.flush()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments: only those before the command exist."""
    parser.description = __doc__


def run(options: argparse.Namespace) -> int:
    """Capture until standard input ends. Raises ProfilerError."""
    # background.py imports this module, and does not need these.
    from profiler.commands.options import settings_of
    from profiler.ingest.session import capture
    from profiler.outputs.choice import Choice
    from profiler.outputs.jsonl import JsonLines

    lines = JsonLines(None)
    capture(settings_of(options), Choice(lines, None), _Marker(lines))
    return 0
