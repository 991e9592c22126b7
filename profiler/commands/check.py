# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``http-profiler check``, and those that ``run`` shares with it.

The command and the parser of its conditions are loaded only when needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.commands.options import add_captures, typed

if TYPE_CHECKING:
    from profiler.exchanges.verify import Assertion

EPILOG = """\
conditions:
  failed                         status 5xx, gRPC status other than 0, reset, or no response
  status>=500                    fields: status latency duration method url path host service
  latency>1s and path~/api/*     outcome incomplete bytes request_bytes response_bytes pid comm
  header.authorization=none      cmdline user cgroup container pod namespace port address
  not path=/healthz              direction role header.NAME
  container=web                  operators: = != < <= > >= and ~ (a pattern with * and ?)
  service=cart or comm=nginx     and, or, not, parentheses; quote a value that contains =<>!~
  GET /orders*                   method and path; --expect also takes a count: GET /healthz >= 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Checks assertions against the exchanges of capture files. Exits with 0 if all hold, "
        "with 4 if one does not."
    )
    parser.epilog = EPILOG
    add_captures(parser)
    add_assertions(parser)


def add_assertions(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``assertions.py`` turns into assertions."""
    group = parser.add_argument_group("assertions")
    group.add_argument(
        "--fail-if",
        type=typed(_fail_if),
        action="append",
        default=[],
        metavar="CONDITION",
        help="no exchange may match; may be repeated",
    )
    group.add_argument(
        "--expect",
        type=typed(_expect),
        action="append",
        default=[],
        metavar="EXPECTATION",
        help="at least one exchange must match, or as many as it states; may be repeated",
    )
    group.add_argument(
        "--junit",
        type=Path,
        metavar="PATH",
        help="write the results to PATH as JUnit XML, a test case for each assertion",
    )


def _fail_if(text: str) -> Assertion:
    from profiler.exchanges.verify import fail_if

    return fail_if(text)


def _expect(text: str) -> Assertion:
    from profiler.exchanges.verify import expect

    return expect(text)
