# SPDX-License-Identifier: Apache-2.0
"""Verifies assertions and reports the result: the command ``check``, and a part of ``run``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from profiler.commands.opened import say
from profiler.commands.options import captures_of
from profiler.commands.progress import progress
from profiler.errors import DAMAGED, VIOLATED, UsageError
from profiler.exchanges.model import Exchange
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.read import Capture
from profiler.exchanges.verify import Assertion, verify
from profiler.outputs.deferred import DeferredOutput
from profiler.outputs.junit import junit


@dataclass(frozen=True)
class Assertions:
    """The assertions of the command line."""

    assertions: Sequence[Assertion]
    junit: DeferredOutput | None

    def __bool__(self) -> bool:
        return bool(self.assertions)

    def verify(
        self,
        exchanges: Iterable[Exchange],
        notes: Sequence[str] = (),
        lost: str | None = None,
        seconds: float = 0.0,
    ) -> bool:
        """Verify, print violations, write JUnit XML; return whether all assertions hold.

        ``notes`` are printed as well; ``lost`` describes lost traffic, if that counts. Raises
        OutputError.
        """
        number, verdicts = verify(exchanges, self.assertions, lost)
        for line in (*notes, *(line for verdict in verdicts for line in verdict.lines())):
            say(line)
        held = sum(verdict.failure is None for verdict in verdicts)
        say(f"{held} of {len(verdicts)} assertions hold for {number} exchanges")
        if self.junit:
            with self.junit.opened() as file:
                file.write(junit(verdicts, notes, seconds))
        return held == len(verdicts)


def assertions_of(options: argparse.Namespace) -> Assertions:
    """Return the assertions of the command line."""
    assertions = (*options.fail_if, *options.expect)
    if options.junit and not assertions:
        raise UsageError("--junit needs --fail-if or --expect")
    return Assertions(assertions, DeferredOutput(options.junit) if options.junit else None)


def check(options: argparse.Namespace) -> int:
    """Verify the assertions on a capture; return the exit code."""
    started = time.monotonic()
    assertions = assertions_of(options)
    if not assertions:
        raise UsageError("nothing to check: give --fail-if or --expect")
    captures = captures_of(options)
    with progress() as report:
        capture = Capture(*captures)
        exchanges = Exchanges(capture.records(report))
    notes = [capture.damaged] if capture.damaged else []
    if not assertions.verify(exchanges, notes, seconds=time.monotonic() - started):
        return VIOLATED
    return DAMAGED if notes else 0
