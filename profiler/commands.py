"""The commands that read captures: ``report``, ``export`` and ``query``.

Exit codes as in ``cli.py``, and 3: done, but some lines of the capture could not be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from profiler.captures.counts import read_counts
from profiler.captures.exchanges import Exchanges
from profiler.captures.lines import Capture
from profiler.captures.output import output
from profiler.errors import OutputError
from profiler.export.curl import curl
from profiler.export.har import har, is_known
from profiler.export.rows import csv_lines
from profiler.options import add_filters, filters_of
from profiler.record import Record
from profiler.redact import Redactor, described
from profiler.selection import Selection, left_out, selected
from profiler.settings import REPORT_BODY

DAMAGED = 3
_STDOUT = Path("-")


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
        default=_STDOUT,
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
    # What captures need is not loaded for the profiler itself.
    from profiler.report.page import page

    counts = read_counts(options.stats) if options.stats else None
    opened = _Opened(options, raw=False)
    exchanges = Exchanges()
    exchanges.add_all(opened.records())
    with output(options.output) as file:
        redacted = opened.redactor is not None
        file.writelines(page(exchanges, opened.capture, options.max_body, redacted, counts))
    return opened.ended(exchanges)


def _export(options: argparse.Namespace) -> int:
    if options.kind == "parquet":
        return _parquet(options)
    opened = _Opened(options)
    exchanges = Exchanges()
    exchanges.add_all(opened.records())
    with output(options.output) as file:
        if options.kind == "har":
            file.writelines(har(exchanges))
        else:
            lines = curl(exchanges) if options.kind == "curl" else csv_lines(exchanges)
            file.writelines(line.encode("utf-8", "replace") for line in lines)
    if options.kind == "har":
        unknown = sum(not is_known(exchange) for exchange in exchanges)
        if unknown:
            _say(f"left out: {unknown} responses whose request was not seen")
    return opened.ended(exchanges)


def _parquet(options: argparse.Namespace) -> int:
    from profiler.export.database import database

    if options.output == _STDOUT:
        options.parser.error("--parquet needs --output")
    opened = _Opened(options)
    with database() as tables:
        exchanges = tables.load(opened.records())
        with output(options.output) as file:
            file.write(tables.parquet())
    return opened.ended(exchanges)


def _query(options: argparse.Namespace) -> int:
    from profiler.export.answer import answer
    from profiler.export.database import database

    opened = _Opened(options)
    with database() as tables:
        tables.load(opened.records())
        names, rows = tables.query(options.sql)
        with output(_STDOUT) as file:
            file.writelines(line.encode() for line in answer(names, rows, sys.stdout.isatty()))
    return opened.ended()


class _Opened:
    """The capture that is read, and what of it is wanted, and how it is shown."""

    def __init__(self, options: argparse.Namespace, raw: bool = True) -> None:
        """Open it, and say what is done about secrets, as the first line.

        Without ``raw`` the records have no ``raw_payload``, which then need not be redacted.
        """
        self.capture = Capture(options.capture)
        target = getattr(options, "output", _STDOUT)
        if target.exists() and options.capture.exists() and target.samefile(options.capture):
            raise OutputError(f"{target} is the capture itself; choose another --output")
        self.redactor = Redactor() if options.redact else None
        self._raw = raw
        self._selection = Selection(filters_of(options))
        _say(described(self.redactor))

    def records(self) -> Iterator[Record]:
        """Yield the records that are wanted."""
        # Filters ask what was said, not the tokens that stand for it.
        for record in selected(self.capture.records(), self._selection):
            if not self._raw:
                record.pop("raw_payload", None)
                record.pop("raw_payload_encoding", None)
            yield record if self.redactor is None else self.redactor.record(record)

    def ended(self, exchanges: Exchanges | None = None) -> int:
        """Say what was read and what was not; return the exit code."""
        capture, selection = self.capture, self._selection
        for line in left_out(selection.dropped, selection.given_up):
            _say(line)
        if exchanges is not None:
            messages = capture.lines - capture.damage.lines - sum(selection.dropped.values())
            _say(f"{len(exchanges)} exchanges in {messages} messages")
        if capture.damage.lines:
            _say(f"of the {capture.lines} lines of {capture.name}, {capture.damage}")
            return DAMAGED
        return 0


def _say(text: str) -> None:
    print(f"http-profiler: {text}", file=sys.stderr, flush=True)


def _size(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value
