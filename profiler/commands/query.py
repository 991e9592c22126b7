# SPDX-License-Identifier: Apache-2.0
"""``http-profiler query``: SQL on a capture."""

from __future__ import annotations

import argparse
import sys

from profiler.commands.options import STDOUT, add_captures, add_filters, add_redact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Runs SQL on capture files with DuckDB. There are two tables: `exchanges` has a row "
        "for each request with its responses, `messages` a row for each line. Prints a table on a "
        "terminal, else JSON lines."
    )
    parser.epilog = (
        "example:\n  http-profiler query "
        "'select path, count(*), max(latency_ms) from exchanges group by path' http.jsonl"
    )
    parser.add_argument("sql", metavar="SQL", help="a statement of DuckDB's SQL")
    add_captures(parser)
    add_filters(parser)
    add_redact(parser, default=False)


def run(options: argparse.Namespace) -> int:
    """Print the result; return the exit code."""
    from profiler.commands.opened import Opened
    from profiler.outputs.answer import answer
    from profiler.outputs.file import output
    from profiler.outputs.tables import database

    opened = Opened(options)
    with database() as tables:
        tables.load(opened.records())
        names, rows = tables.query(options.sql)
        with output(STDOUT) as file:
            file.writelines(line.encode() for line in answer(names, rows, sys.stdout.isatty()))
    return opened.ended()
