# SPDX-License-Identifier: Apache-2.0
"""The columns of the two tables: groups and exchanges."""

from __future__ import annotations

from collections.abc import Callable

from profiler.commands.top.lines import Shown
from profiler.commands.top.model import Entry, Group, Model
from profiler.exchanges.summary import Summary
from profiler.outputs.pretty import style_of
from profiler.outputs.terminal import Column, size_text, time_text

_SLOW_MS = 1000.0


def groups(model: Model, kind: str) -> list[Shown[Group]]:
    """Return the columns of the groups of a kind."""

    def percentile(name: str, share: float, rank: int) -> Shown[Group]:
        def value(group: Group) -> float:
            found = group.latencies.percentile(share)
            return -1.0 if found is None else found

        return Shown(
            Column(name, 8, rank, right=True),
            value,
            lambda group: _time(value(group)),
            lambda group: _slow(value(group)),
        )

    def name(group: Group) -> str:
        if len(group.pids) == 1:
            return f"{group.name} pid {min(group.pids)}"
        return f"{group.name} {len(group.pids)} pids" if group.pids else group.name

    return [
        Shown(Column("requests", 9, 0, right=True), lambda g: g.count, lambda g: str(g.count)),
        Shown(Column("rate/s", 8, 3, right=True), model.rate, lambda g: _rate(model.rate(g))),
        Shown(
            Column("4xx", 6, 5, right=True),
            lambda g: g.refused,
            lambda g: str(g.refused or ""),
            lambda g: "refused",
        ),
        Shown(
            Column("failed", 7, 1, right=True),
            lambda g: g.failed,
            lambda g: str(g.failed or ""),
            lambda g: "failed",
        ),
        percentile("p50", 0.5, 4),
        percentile("p95", 0.95, 2),
        percentile("p99", 0.99, 6),
        Shown(Column("bytes", 8, 7, right=True), lambda g: g.bytes, lambda g: size_text(g.bytes)),
        Shown(Column(kind, 0), lambda g: g.name, name, rises=True),
    ]


def exchanges() -> list[Shown[Entry]]:
    """Return the columns of exchanges."""

    def seen(key: Callable[[Summary], object]) -> Callable[[Entry], object]:
        return lambda entry: key(entry.seen)

    return [
        Shown(Column("time", 12, 2), seen(lambda s: s.time), lambda e: e.seen.clock),
        Shown(
            Column("status", 7),
            seen(lambda s: -1 if s.status is None else s.status),
            lambda e: e.seen.status_text,
            lambda e: style_of(e.seen),
        ),
        Shown(
            Column("latency", 8, 0, right=True),
            seen(lambda s: -1.0 if s.latency is None else s.latency),
            lambda e: _time(e.seen.latency),
            lambda e: _slow(e.seen.latency),
        ),
        Shown(
            Column("size", 8, 3, right=True),
            seen(lambda s: s.size or 0),
            lambda e: "" if e.seen.size is None else size_text(e.seen.size),
        ),
        Shown(Column("process", 22, 1), seen(lambda s: s.process), lambda e: e.seen.process),
        Shown(Column("url", 0), seen(lambda s: s.url), request_text, rises=True),
    ]


def request_text(entry: Entry) -> str:
    """Return method and URL, after the notes on what is missing."""
    notes = f"! {', '.join(entry.seen.notes)} " if entry.seen.notes else ""
    return f"{notes}{entry.seen.method} {entry.seen.url}"


def _rate(rate: float) -> str:
    return f"{rate:.{0 if rate >= 100 else 1}f}"


def _time(milliseconds: float | None) -> str:
    return "" if milliseconds is None or milliseconds < 0 else time_text(milliseconds)


def _slow(milliseconds: float | None) -> str:
    return "failed" if milliseconds is not None and milliseconds >= _SLOW_MS else ""
