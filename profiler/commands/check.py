"""The arguments of ``http-profiler check``, and those that ``run`` shares with it.

What the command does, and the language of its options, is loaded when it is needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Callable, TypeVar

from profiler.commands.options import add_capture

if TYPE_CHECKING:
    from profiler.exchanges.query import Condition, Expectation

EPILOG = """\
conditions:
  status>=500                    fields: status latency duration method url path host comm cmdline
  latency>1s and path~/api/*     pid role bytes request_bytes response_bytes incomplete header.NAME
  header.Authorization=none      operators: = != < <= > >= and ~ (a pattern with * and ?)
  GET /healthz                   method and path; with --expect also how often: GET /healthz >= 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Holds the exchanges of a file of JSON lines against assertions. Exit code 0: "
        "all of them hold; 4: one does not."
    )
    parser.epilog = EPILOG
    add_capture(parser)
    add_assertions(parser)


def add_assertions(parser: argparse.ArgumentParser) -> None:
    """Add the options of which ``assertions.py`` makes assertions."""
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
