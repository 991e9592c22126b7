# SPDX-License-Identifier: Apache-2.0
"""``http-profiler export``: the exchanges of a capture in another format."""

from __future__ import annotations

import argparse

from profiler.commands.options import STDOUT, add_captures, add_filters, add_redact, add_target
from profiler.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = "Converts the exchanges of capture files to another format."
    kind = parser.add_mutually_exclusive_group(required=True)
    for name, what in (
        ("har", "HTTP Archive 1.2, for the developer tools of browsers"),
        ("curl", "a shell script that sends each request again"),
        ("csv", "a table of the exchanges, without headers and bodies"),
        (
            "parquet",
            "the same with headers and bodies (needs the extra `query` and --output)",
        ),
    ):
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name, help=what)
    add_captures(parser)
    add_target(parser)
    add_filters(parser)
    add_redact(parser, default=False)


def run(options: argparse.Namespace) -> int:
    """Write the exchanges in the chosen format; return the exit code."""
    if options.kind == "parquet":
        return _parquet(options)
    from profiler.commands.opened import Opened, say
    from profiler.commands.progress import writing
    from profiler.exchanges.pair import Exchanges
    from profiler.outputs.csv import csv_lines
    from profiler.outputs.curl import curl
    from profiler.outputs.file import output
    from profiler.outputs.har import har, is_known

    opened = Opened(options)
    exchanges = Exchanges(opened.records())
    with output(options.output) as file:
        written = writing(exchanges, options.output)
        if options.kind == "har":
            file.writelines(har(written))
        else:
            lines = curl(written) if options.kind == "curl" else csv_lines(written)
            file.writelines(line.encode("utf-8", "replace") for line in lines)
    if options.kind == "har":
        unknown = sum(not is_known(exchange) for exchange in exchanges)
        if unknown:
            say(f"left out {unknown} responses whose request was not seen")
    return opened.ended(exchanges)


def _parquet(options: argparse.Namespace) -> int:
    if options.output == STDOUT:
        raise UsageError("--parquet needs --output")
    from profiler.commands.opened import Opened
    from profiler.outputs.file import output
    from profiler.outputs.tables import database

    opened = Opened(options)
    with database() as tables:
        exchanges = tables.load(opened.records())
        with output(options.output) as file:
            file.write(tables.parquet())
    return opened.ended(exchanges)
