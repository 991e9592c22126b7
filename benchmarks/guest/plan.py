# SPDX-License-Identifier: Apache-2.0
"""What to measure: each workload, capture and metric.

The tables are those of the guest, so that host and guest cannot differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from benchmarks.guest.inside.captures import AGAIN, BASE, CAPTURES, Capture
from benchmarks.guest.inside.workloads import ADDED, MEMORY, OWN, START, WORKLOADS, Workload

__all__ = [
    "ADDED",
    "AGAIN",
    "BASE",
    "CAPTURES",
    "MEMORY",
    "OWN",
    "START",
    "WORKLOADS",
    "Capture",
    "Measurement",
    "Workload",
    "selected",
    "shared_out",
    "together",
]


class Measurement(NamedTuple):
    """A metric of a workload under a capture; all three by name."""

    metric: str
    workload: str
    capture: str

    def __str__(self) -> str:
        return " ".join(self)


def selected(
    workloads: Collection[str] = tuple(WORKLOADS), captures: Collection[str] = tuple(CAPTURES)
) -> list[Measurement]:
    """Return the measurements in order: every other one is relative to the base."""
    return [
        Measurement(metric, workload.name, capture.name)
        for workload in WORKLOADS.values()
        if workload.name in workloads
        for capture in CAPTURES.values()
        if capture.name in captures or capture.name == BASE
        if workload.name in capture.only
        for metric in workload.metrics
        if capture.command or metric == ADDED
    ]


def together(wanted: Iterable[Measurement]) -> list[list[Measurement]]:
    """Group, in order, what one start of a capture covers: all workloads, if it stays."""
    runs: dict[tuple[str, ...], list[Measurement]] = {}
    for one in wanted:
        stays = one.metric in (ADDED, OWN) and CAPTURES[one.capture].stays
        runs.setdefault((one.metric, one.capture) if stays else one, []).append(one)
    return list(runs.values())


def shared_out(workloads: Sequence[str], guests: int) -> list[tuple[str, ...]]:
    """Distribute the workloads to ``guests``; fewer lists if there are fewer workloads.

    In turns, because the slow ones are next to each other in the table.
    """
    shares = (tuple(workloads[first::guests]) for first in range(guests))
    return [share for share in shares if share]
