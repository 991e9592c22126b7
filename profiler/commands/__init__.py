"""The commands that read captures: ``report``, ``export`` and ``query``.

Exit codes as in ``cli.py``. The rule: here are the parsers, in ``reading.py`` what the commands
do, which is loaded when one of them is asked for. A capture should not wait for it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from profiler.commands.options import add_filters
from profiler.ingest.settings import REPORT_BODY

STDOUT = Path("-")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parsers; each sets ``run``, which takes the options and returns the exit code."""
    _add_report(commands)
    _add_export(commands)
    _add_query(commands)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="make a page of a capture: one HTML file that needs no network",
        description="Makes one HTML page of a file of JSON lines: who calls whom, rates, errors, "
        "latencies, the slowest exchanges, and every exchange with its headers and body.",
    )
    _add_files(parser)
    add_filters(parser)
    add_redact(parser, default=True)
    parser.add_argument(
        "--max-body",
        type=_size,
        default=REPORT_BODY,
        metavar="BYTES",
        help="characters of each body that the page has; of longer ones it says how long they are "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--stats",
        type=Path,
        metavar="PATH",
        help="what `--stats PATH` of that capture wrote: the page says what the kernel could not "
        "hand over",
    )
    parser.set_defaults(run=_report)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="write a capture as HAR, curl commands, CSV or Parquet",
        description="Writes the exchanges of a file of JSON lines in another format.",
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    for name, what in (
        ("har", "HTTP Archive 1.2, which the tools of browsers open"),
        ("curl", "a shell script that sends each request again"),
        ("csv", "a table of the exchanges, without headers and bodies"),
        ("parquet", "the same with headers and bodies (needs the extra `query`, and --output)"),
    ):
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name, help=what)
    _add_files(parser)
    add_filters(parser)
    add_redact(parser, default=False)
    parser.set_defaults(run=_export, parser=parser)


def _add_query(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "query",
        help="ask a capture in SQL (needs the extra `query`)",
        description="Runs SQL on a file of JSON lines, by DuckDB. There are two tables: "
        "`exchanges`, a row for each request with its response, and `messages`, a row for each "
        "line. The answer is a table on a terminal, else JSON lines.",
        epilog="example:\n  http-profiler query "
        "'select path, count(*), max(latency_ms) from exchanges group by path' http.jsonl",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sql", metavar="SQL")
    parser.add_argument("capture", type=Path, metavar="CAPTURE", help=_CAPTURE_HELP)
    add_filters(parser)
    add_redact(parser, default=False)
    parser.set_defaults(run=_query)


_CAPTURE_HELP = "a file of JSON lines; `-` is standard input"


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", type=Path, metavar="CAPTURE", help=_CAPTURE_HELP)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=STDOUT,
        metavar="PATH",
        help="write to PATH, created with mode 0600 (default: standard output)",
    )


def add_redact(
    parser: argparse._ActionsContainer, default: bool | str | None, where: str = ""
) -> None:
    """Add ``--redact`` and ``--no-redact``; ``where`` says when the first is the default."""
    for name, value in (("--redact", True), ("--no-redact", False)):
        verb = "replace" if value else "show"
        is_default = value is default or bool(where and value)
        parser.add_argument(
            name,
            dest="redact",
            action="store_const",
            const=value,
            default=default,
            help=f"{verb} credentials, cookies and token parameters"
            + (" by tokens: unreadable, and equal values still equal" if value else "")
            + (f" (default{where and ' ' + where})" if is_default else ""),
        )


def _report(options: argparse.Namespace) -> int:
    from profiler.commands.reading import report

    return report(options)


def _export(options: argparse.Namespace) -> int:
    from profiler.commands.reading import export

    return export(options)


def _query(options: argparse.Namespace) -> int:
    from profiler.commands.reading import query

    return query(options)


def _size(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value
