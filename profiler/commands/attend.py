# SPDX-License-Identifier: Apache-2.0
"""``http-profiler attend``: the profiler as the child of a program that asserts on traffic.

Records go to standard output as JSON lines. Between them stand *marks*, ``{"mark": N}``: 0 when
the probe is attached, and N when all that was moved before the Nth :data:`SETTLE` came on
standard input has been written. :data:`END` ends the capture, and so does the end of standard
input: the program is gone, however it went. ``background.py`` is the other end.
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
# The buffer is read in polls. It was empty, or has been read through: see RingBuffer.poll().
_IDLE_POLLS = 2
_POLLS = 16


class _Asker:
    """The attendant who answers with marks."""

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
        # Looked at last: what was asked now is answered by polls that begin after it.
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
    """Describe the arguments: there are none but those before the command."""
    parser.description = __doc__


def run(options: argparse.Namespace) -> int:
    """Capture until standard input ends. Raises ProfilerError."""
    # The other end has no use for these.
    from profiler.commands.options import settings_of
    from profiler.ingest.session import capture
    from profiler.outputs.choice import Choice
    from profiler.outputs.jsonl import JsonLines

    lines = JsonLines(None)
    capture(settings_of(options), Choice(lines, None), _Asker(lines))
    return 0
