# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``http-profiler doctor``; ``examine.py`` has what it does."""

from __future__ import annotations

import argparse

from profiler.commands.options import DEFAULTS
from profiler.ingest.settings import ENGINES, ROUTES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Prints the facts of this machine that matter to the profiler. Then sends "
        "known HTTP messages over every path and kind of socket, captures them, and says which "
        "were captured, partial or missed, and why. Exit code 1 if anything is worse than this "
        "kernel should give."
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document, redacted: send it with a bug report",
    )
    parser.add_argument(
        "--route", choices=ROUTES, default=argparse.SUPPRESS, help="try only this one"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=argparse.SUPPRESS,
        help=f"try this engine (default: {DEFAULTS.engine})",
    )
