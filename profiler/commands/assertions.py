"""What ``check`` does, and what ``run`` does of the same: say and write whether assertions hold."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import DAMAGED, VIOLATED, UsageError
from profiler.exchanges.query import Condition, Expectation
from profiler.exchanges.read import Capture
from profiler.exchanges.store import Exchange, Exchanges
from profiler.exchanges.verify import judge
from profiler.outputs.file import output
from profiler.outputs.junit import junit


@dataclass(frozen=True)
class Assertions:
    """What was asked for on the command line."""

    conditions: Sequence[Condition]
    expectations: Sequence[Expectation]
    junit: Path | None

    def __bool__(self) -> bool:
        return bool(self.conditions or self.expectations)

    def hold(
        self,
        exchanges: Iterable[Exchange],
        notes: Sequence[str] = (),
        lost: str | None = None,
        seconds: float = 0.0,
    ) -> bool:
        """Judge, say what was violated, write JUnit XML; do all of them hold?

        ``notes`` are said with it; ``lost`` is what counts as lost. Raises OutputError.
        """
        number, verdicts = judge(exchanges, self.conditions, self.expectations, lost)
        for line in (*notes, *(line for verdict in verdicts for line in verdict.lines())):
            say(line)
        held = sum(verdict.failure is None for verdict in verdicts)
        say(f"{held} of {len(verdicts)} assertions hold for {number} exchanges")
        if self.junit:
            with output(self.junit) as file:
                file.write(junit(verdicts, notes, seconds))
        return held == len(verdicts)


def assertions_of(options: argparse.Namespace) -> Assertions:
    """Return what was asked for."""
    if options.junit and not (options.fail_if or options.expect):
        raise UsageError("--junit needs --fail-if or --expect")
    return Assertions(options.fail_if, options.expect, options.junit)


def say(text: str) -> None:
    """Print one line for the user."""
    print(f"http-profiler: {text}", file=sys.stderr, flush=True)


def check(options: argparse.Namespace) -> int:
    """Hold a capture against what was asked for; return the exit code."""
    started = time.monotonic()
    assertions = assertions_of(options)
    if not assertions:
        raise UsageError("nothing to check: give --fail-if or --expect")
    capture = Capture(options.capture)
    exchanges = Exchanges()
    exchanges.add_all(capture.records())
    damage = None
    if capture.damage.lines:
        damage = f"of the {capture.lines} lines of {capture.name}, {capture.damage}"
    holds = assertions.hold(
        exchanges,
        notes=[damage] if damage else [],
        seconds=time.monotonic() - started,
    )
    if not holds:
        return VIOLATED
    return DAMAGED if damage else 0
