"""The parser of ``http-profiler check``, and the options that ``run`` shares with it.

Exit codes as in ``cli.py``. What the command does, and the language of its options, is loaded
when there are some: a capture should not wait for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Callable, TypeVar

if TYPE_CHECKING:
    from profiler.exchanges.query import Condition, Expectation

EPILOG = """\
conditions:
  status>=500                    fields: status latency duration method url path host comm cmdline
  latency>1s and path~/api/*     pid role bytes request_bytes response_bytes incomplete header.NAME
  header.Authorization=none      operators: = != < <= > >= and ~ (a pattern with * and ?)
  GET /healthz                   method and path; with --expect also how often: GET /healthz >= 3
"""


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
    """Add the options of which ``assertions/command.py`` makes assertions."""
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


def _check(options: argparse.Namespace) -> int:
    from profiler.commands.assertions import check

    return check(options)


def _condition(text: str) -> Condition:
    from profiler.exchanges.query import parse_condition

    return _parsed(parse_condition, text)


def _expectation(text: str) -> Expectation:
    from profiler.exchanges.query import parse_expectation

    return _parsed(parse_expectation, text)


_T = TypeVar("_T")


def _parsed(parse: Callable[[str], _T], text: str) -> _T:
    from profiler.exchanges.query import ConditionError

    try:
        return parse(text)
    except ConditionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
