"""``http-profiler check``: assertions on a capture that was made; and what ``run`` shares with it.

Exit codes as in ``commands``, and 4: an assertion does not hold. What it takes to hold
exchanges against assertions is loaded when there are some: a capture should not wait for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, TypeVar

if TYPE_CHECKING:
    from profiler.assertions.language import Condition, Expectation
    from profiler.captures.exchanges import Exchange

DAMAGED = 3
VIOLATED = 4

EPILOG = """\
conditions:
  status>=500                    fields: status latency duration method url path host comm cmdline
  latency>1s and path~/api/*     pid role bytes request_bytes response_bytes incomplete header.NAME
  header.Authorization=none      operators: = != < <= > >= and ~ (a pattern with * and ?)
  GET /healthz                   method and path; with --expect also how often: GET /healthz >= 3
"""


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
        from profiler.assertions.judge import judge

        number, verdicts = judge(exchanges, self.conditions, self.expectations, lost)
        for line in (*notes, *(line for verdict in verdicts for line in verdict.lines())):
            say(line)
        held = sum(verdict.failure is None for verdict in verdicts)
        say(f"{held} of {len(verdicts)} assertions hold for {number} exchanges")
        if self.junit:
            from profiler.assertions.junit import junit
            from profiler.captures.output import output

            with output(self.junit) as file:
                file.write(junit(verdicts, notes, seconds))
        return held == len(verdicts)


def add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser; it sets ``run``, which takes the options and returns the exit code."""
    parser = commands.add_parser(
        "check",
        help="assert on a capture: exit code and JUnit XML",
        description="Holds the exchanges of a file of JSON lines against assertions. Exit code 0: "
        "all of them hold; 4: one does not.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "capture", type=Path, metavar="CAPTURE", help="a file of JSON lines; `-` is standard input"
    )
    add_assertions(parser)
    parser.set_defaults(run=_check, parser=parser)


def add_assertions(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`assertions_of` reads."""
    group = parser.add_argument_group("assertions")
    group.add_argument(
        "--fail-if",
        type=_condition,
        action="append",
        default=[],
        metavar="CONDITION",
        help="no exchange may fulfil it; may be repeated",
    )
    group.add_argument(
        "--expect",
        type=_expectation,
        action="append",
        default=[],
        metavar="EXPECTATION",
        help="an exchange must fulfil it, or as many as it says; may be repeated",
    )
    group.add_argument(
        "--junit",
        type=Path,
        metavar="PATH",
        help="write the result to PATH as JUnit XML, a test case for each assertion",
    )


def assertions_of(options: argparse.Namespace) -> Assertions:
    """Return what was asked for."""
    if options.junit and not (options.fail_if or options.expect):
        options.parser.error("--junit needs --fail-if or --expect")
    return Assertions(options.fail_if, options.expect, options.junit)


def say(text: str) -> None:
    """Print one line for the user."""
    print(f"http-profiler: {text}", file=sys.stderr, flush=True)


def _check(options: argparse.Namespace) -> int:
    from profiler.captures.exchanges import Exchanges
    from profiler.captures.lines import Capture

    started = time.monotonic()
    assertions = assertions_of(options)
    if not assertions:
        options.parser.error("nothing to check: give --fail-if or --expect")
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


def _condition(text: str) -> Condition:
    from profiler.assertions.language import parse_condition

    return _parsed(parse_condition, text)


def _expectation(text: str) -> Expectation:
    from profiler.assertions.language import parse_expectation

    return _parsed(parse_expectation, text)


_T = TypeVar("_T")


def _parsed(parse: Callable[[str], _T], text: str) -> _T:
    from profiler.assertions.language import ConditionError

    try:
        return parse(text)
    except ConditionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
