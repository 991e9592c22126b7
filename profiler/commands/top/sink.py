# SPDX-License-Identifier: Apache-2.0
"""The sink: adds records to the model, and draws the view."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from profiler.commands.top.model import Model
from profiler.commands.top.screen import Screen
from profiler.commands.top.view import View
from profiler.errors import OutputClosed
from profiler.exchanges.pair import Pairing
from profiler.exchanges.redact import Redactor

if TYPE_CHECKING:
    from profiler.privileges.helper import Helper
    from profiler.schema import Record

BODY_MAX = 16 * 1024
FRAME_SECONDS = 0.25


class Top:
    """Takes the screen at the first ``flush``; ``q`` raises OutputClosed. Raises OutputError."""

    def __init__(self, redactor: Redactor | None, is_live: bool, source: str = "") -> None:
        """A live capture uses the clock's time; a file uses that of its records."""
        self.screen = Screen()
        self._pairing = Pairing(BODY_MAX)
        self._model = Model(redactor, is_live)
        self.view = View(self._model, source)
        self._is_live = is_live
        self._is_open = self._is_closed = False
        self._due = 0.0

    def write(self, record: Record) -> None:
        """Take one record."""
        for paired in self._pairing.add(record):
            self._model.add(paired)

    def share(self, helper: Helper) -> None:
        """Nothing here needs privileges: the terminal is open."""

    def flush(self) -> None:
        """Handle the keys, and draw if it is time."""
        if self._is_closed:
            return
        if not self._is_open:
            self.screen.open()
            self._is_open = True
        if self._is_live:
            now = self._model.now = time.time_ns()
            for paired in self._pairing.expire(now):
                self._model.add(paired)
        pressed = False
        for key in self.screen.pressed():
            pressed = True
            if not self.view.key(key):
                self.close()
                raise OutputClosed("the user left top")
        if pressed or time.monotonic() >= self._due:
            self._draw()

    def finish(self) -> None:
        """The capture has ended: count what is still open."""
        for paired in self._pairing.finish():
            self._model.add(paired)

    def close(self) -> None:
        """Restore the screen."""
        self._is_closed = True
        self.screen.close()

    def _draw(self) -> None:
        began = time.monotonic()
        self.screen.draw(self.view.frame(*self.screen.size))
        # A slow terminal must not stop the capture from reading: it gets at most half of the time.
        took = time.monotonic() - began
        self._due = began + max(FRAME_SECONDS, 2 * took)
