# SPDX-License-Identifier: Apache-2.0
"""``http-profiler replay``: a recording through the same pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path

from profiler.commands.options import add_filters, add_limits, add_output, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Runs a recording, made with --record, through the same pipeline as a capture."
    )
    parser.add_argument(
        "capture", type=Path, metavar="RECORDING", help="a file that --record wrote"
    )
    parser.add_argument(
        "--tls-keys",
        dest="key_log",
        type=Path,
        metavar="PATH",
        help="decrypt recorded TLS connections with the secrets in this key log (SSLKEYLOGFILE), "
        "besides those in the recording",
    )
    add_filters(parser)
    add_limits(parser, live=False)
    add_output(parser, live=False)


def run(options: argparse.Namespace) -> int:
    """Replay a recording. Raises ProfilerError."""
    from profiler.ingest.session import replay

    replay(options.capture, settings_of(options), options.key_log)
    return 0
