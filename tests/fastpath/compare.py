# SPDX-License-Identifier: Apache-2.0
"""Replays records with the native fast path and without, and compares what comes out."""

from __future__ import annotations

import os
from typing import NamedTuple
from unittest import mock

from profiler.accounting import Account
from profiler.exchanges.redact import Redactor
from profiler.ingest import fastpath
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.outputs.jsonl import JsonLines
from profiler.outputs.redacted import Redacted


class Kept(JsonLines):
    """Keeps lines instead of writing them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.written = bytearray()

    def add(self, lines: bytes) -> None:
        self.written += lines


class Replayed(NamedTuple):
    lines: bytes
    at_the_end: list[bytes]
    not_http: list[int]
    account: Account


def replay(records: list[bytes], settings: Settings, batch: int = 1000) -> Replayed:
    sink = Kept()
    # Equal values have equal placeholders in both replays.
    redacted = Redacted(sink, Redactor(b"key")) if settings.redact else sink
    taken = Pipeline(settings, redacted, Processes(None), "x86_64")
    not_http = []
    for at in range(0, len(records), batch):
        not_http += taken.feed_all(records[at : at + batch])
    lines = bytes(sink.written)
    taken.finish()
    at_the_end = bytes(sink.written)[len(lines) :].splitlines()
    return Replayed(lines, sorted(at_the_end), not_http, taken.account)


def same_lines(records: list[bytes], settings: Settings = Settings(), batch: int = 1000) -> int:  # noqa: B008
    """Compare both ways; return how many messages took the fast path. Raises AssertionError."""
    with mock.patch.dict(os.environ):
        os.environ.pop(fastpath.VARIABLE, None)
        native = replay(records, settings, batch)
        os.environ[fastpath.VARIABLE] = "0"
        reference = replay(records, settings, batch)
    assert native.lines.splitlines() == reference.lines.splitlines()
    assert native.at_the_end == reference.at_the_end
    assert native.not_http == reference.not_http
    fast = native.account.fast
    native.account.fast = 0
    assert native.account == reference.account
    assert reference.account.fast == 0
    return fast
