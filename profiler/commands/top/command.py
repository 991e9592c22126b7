# SPDX-License-Identifier: Apache-2.0
"""``http-profiler top``: shows live traffic, or capture files."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from profiler.accounting import Account
from profiler.commands.options import captures_of, settings_of
from profiler.commands.top.screen import keyboard_instead_of_input
from profiler.commands.top.sink import FRAME_SECONDS, Top
from profiler.commands.top.source import batches
from profiler.commands.top.view import View
from profiler.errors import DAMAGED, OutputClosed
from profiler.exchanges.filter import Filter, filtered
from profiler.exchanges.read import Capture
from profiler.exchanges.redact import Redactor, described
from profiler.ingest.session import capture
from profiler.ingest.settings import Settings
from profiler.outputs.choice import Choice

_STDIN = Path("-")
_LOOK_SECONDS = 1.0


class _Losses:
    """An attendant that updates the view with what the kernel lost."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._due = 0.0
        self._account: Callable[[], Account] | None = None

    def begun(self, account: Callable[[], Account]) -> None:
        self._account = account

    def goes_on(self, _idle: bool) -> bool:
        now = time.monotonic()
        if self._account is not None and now >= self._due:
            account = self._account()
            self._view.lost = "; ".join(filter(None, (account.lost_text, account.skipped_text)))
            self._due = now + _LOOK_SECONDS
        return True


def run(options: argparse.Namespace) -> int:
    """Show live traffic, or the files of ``--from``; return the exit code."""
    settings = settings_of(options)
    if options.sample or options.captures is not None:
        return DAMAGED if recorded(captures_of(options), settings) else 0
    live(settings)
    return 0


def live(settings: Settings) -> None:
    """Show live traffic until ``q``, SIGINT or SIGTERM. Raises ProfilerError."""
    redactor = _redactor(settings.redact)
    top = Top(redactor, is_live=True)
    capture(settings, Choice(top, redactor), _Losses(top.view))


def recorded(paths: Sequence[Path], settings: Settings) -> int:
    """Show capture files, or standard input (``-``), until ``q``. Raises ProfilerError.

    Applies the filters, and stops after ``settings.count`` messages. Returns the number of damaged
    lines.
    """
    # The screen reads keys from standard input.
    keyboard = _STDIN in paths and keyboard_instead_of_input()
    lines = Capture(*(Path(f"/dev/fd/{keyboard}") if path == _STDIN else path for path in paths))
    name = "standard input" if keyboard else lines.name
    redactor = _redactor(settings.redact)
    top = Top(redactor, is_live=False, source=f"reading {name} ...")
    print(f"http-profiler: {described(redactor)}", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ended by `q`, by Ctrl-C or by itself; none of these is an error.
    with contextlib.closing(top), contextlib.suppress(OutputClosed, KeyboardInterrupt):
        records = filtered(lines.records(), Filter(settings.where))
        for batch in batches(islice(records, settings.count)):
            for record in batch:
                top.write(record)
            top.flush()
        top.finish()
        damage = f", {lines.damage}" if lines.damage.lines else ""
        top.view.source = f"{lines.lines} lines of {name}{damage}"
        while True:
            top.flush()
            top.screen.wait(FRAME_SECONDS)
    return lines.damage.lines


def _redactor(redact: bool | None) -> Redactor | None:
    return None if redact is False else Redactor()
