# SPDX-License-Identifier: Apache-2.0
"""``http-profiler report``: an HTML page of a capture."""

from __future__ import annotations

import argparse
from pathlib import Path

from profiler.commands.options import add_captures, add_filters, add_redact, add_target, size
from profiler.ingest.settings import REPORT_BODY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Makes one HTML page from capture files: who calls whom, rates, errors, latencies, "
        "the slowest exchanges, and every exchange with its headers and body."
    )
    add_captures(parser)
    add_target(parser)
    add_filters(parser)
    add_redact(parser, default=True)
    parser.add_argument(
        "--max-body",
        type=size,
        default=REPORT_BODY,
        metavar="BYTES",
        help="characters of each body to include; the page shows the length of longer ones "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--stats",
        type=Path,
        metavar="PATH",
        help="a file that `--stats` of that capture wrote: the page then shows the account",
    )


def run(options: argparse.Namespace) -> int:
    """Write the page; return the exit code."""
    from profiler import accounting
    from profiler.commands.opened import Opened
    from profiler.commands.progress import writing
    from profiler.exchanges.pair import Exchanges
    from profiler.outputs.file import output
    from profiler.outputs.report.page import page

    account = accounting.read(options.stats) if options.stats else accounting.Account()
    opened = Opened(options, raw=False)
    exchanges = Exchanges(opened.records())
    with output(options.output) as file:
        redacted = opened.redactor is not None
        written = writing(exchanges, options.output)
        file.writelines(page(written, opened.capture, options.max_body, redacted, account))
    return opened.ended(exchanges)
