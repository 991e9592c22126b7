# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``http-profiler top``; ``command.py`` implements it."""

from __future__ import annotations

import argparse
from pathlib import Path

from profiler.commands.options import add_filters, add_limits, add_probe, add_redact, add_sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Shows a capture live on the whole screen: rates, errors and latencies by endpoint, "
        "process or connection, down to one exchange with its headers and body."
    )
    parser.epilog = (
        "examples:\n  http-profiler top --sample\n  sudo http-profiler top --port 8080\n"
        "  ssh shop.example sudo http-profiler | http-profiler top --from -"
    )
    files = parser.add_mutually_exclusive_group()
    add_sample(files)
    files.add_argument(
        "--from",
        dest="captures",
        type=Path,
        nargs="+",
        metavar="CAPTURE",
        help="show capture files instead of capturing: JSON lines, plain or compressed (gzip, "
        "zstd); `-` is standard input",
    )
    add_redact(parser, argparse.SUPPRESS, "in top")
    add_filters(parser)
    add_limits(parser, live=True)
    add_probe(parser)
