# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``http-profiler doctor``; ``examine.py`` implements it."""

from __future__ import annotations

import argparse

from profiler.commands.options import DEFAULTS
from profiler.ingest.settings import ENGINES, ROUTES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Prints the facts of this machine that matter to the profiler. Then sends "
        "known HTTP messages over every path and kind of socket, captures them, and reports which "
        "were captured, partial or missed, and why. Exits with 1 if any result is worse than "
        "expected for this kernel."
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document, redacted: send it with a bug report",
    )
    parser.add_argument(
        "--tls",
        action="store_true",
        default=argparse.SUPPRESS,
        help="also test --tls: HTTPS between Python, curl, openssl and node, as far as installed; "
        "reads what no other process encrypts",
    )
    parser.add_argument(
        "--route",
        choices=ROUTES,
        default=argparse.SUPPRESS,
        help="test only this route (default: both)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=argparse.SUPPRESS,
        help=f"test this engine (default: {DEFAULTS.engine})",
    )
