"""What the commands do that read captures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from profiler import accounting
from profiler.commands import STDOUT
from profiler.commands.options import filters_of
from profiler.errors import DAMAGED, OutputError
from profiler.exchanges.read import Capture
from profiler.exchanges.redact import Redactor, described
from profiler.exchanges.selection import Selection, selected
from profiler.exchanges.store import Exchanges
from profiler.ingest.record import Record
from profiler.outputs.answer import answer
from profiler.outputs.csv import csv_lines
from profiler.outputs.curl import curl
from profiler.outputs.file import output
from profiler.outputs.har import har, is_known
from profiler.outputs.report.page import page
from profiler.outputs.tables import database


def report(options: argparse.Namespace) -> int:
    """Write the page; return the exit code."""
    account = accounting.read(options.stats) if options.stats else accounting.Account()
    opened = _Opened(options, raw=False)
    exchanges = Exchanges()
    exchanges.add_all(opened.records())
    with output(options.output) as file:
        redacted = opened.redactor is not None
        file.writelines(page(exchanges, opened.capture, options.max_body, redacted, account))
    return opened.ended(exchanges)


def export(options: argparse.Namespace) -> int:
    """Write the exchanges in the format that is asked for; return the exit code."""
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
    if options.output == STDOUT:
        options.parser.error("--parquet needs --output")
    opened = _Opened(options)
    with database() as tables:
        exchanges = tables.load(opened.records())
        with output(options.output) as file:
            file.write(tables.parquet())
    return opened.ended(exchanges)


def query(options: argparse.Namespace) -> int:
    """Print what the capture answers; return the exit code."""
    opened = _Opened(options)
    with database() as tables:
        tables.load(opened.records())
        names, rows = tables.query(options.sql)
        with output(STDOUT) as file:
            file.writelines(line.encode() for line in answer(names, rows, sys.stdout.isatty()))
    return opened.ended()


class _Opened:
    """The capture that is read, and what of it is wanted, and how it is shown."""

    def __init__(self, options: argparse.Namespace, raw: bool = True) -> None:
        """Open it, and say what is done about secrets, as the first line.

        Without ``raw`` the records have no ``raw_payload``, which then need not be redacted.
        """
        self.capture = Capture(options.capture)
        target = getattr(options, "output", STDOUT)
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
        account = accounting.Account(dropped=selection.dropped, undecided=selection.given_up)
        for line in account.left_out():
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
