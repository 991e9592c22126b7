# SPDX-License-Identifier: Apache-2.0
"""What is measured: which workload under which capture, and what is asked of it.

The tables are the guest's own, so that host and guest cannot differ.
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
    """``asked`` of a workload under a capture; all three by name."""

    asked: str
    workload: str
    capture: str

    def __str__(self) -> str:
        return " ".join(self)


def selected(
    workloads: Collection[str] = tuple(WORKLOADS), captures: Collection[str] = tuple(CAPTURES)
) -> list[Measurement]:
    """Return what is to be measured, in order: without a base nothing else tells anything."""
    return [
        Measurement(asked, workload.name, capture.name)
        for workload in WORKLOADS.values()
        if workload.name in workloads
        for capture in CAPTURES.values()
        if capture.name in captures or capture.name == BASE
        if workload.name in capture.only
        for asked in workload.asked
        if capture.command or asked == ADDED
    ]


def together(wanted: Iterable[Measurement]) -> list[list[Measurement]]:
    """Put together, in order, what one capture is started for: all workloads, if it stays."""
    runs: dict[tuple[str, ...], list[Measurement]] = {}
    for one in wanted:
        stays = one.asked in (ADDED, OWN) and CAPTURES[one.capture].stays
        runs.setdefault((one.asked, one.capture) if stays else one, []).append(one)
    return list(runs.values())


def shared_out(workloads: Sequence[str], guests: int) -> list[tuple[str, ...]]:
    """Give each of ``guests`` its workloads; fewer lists if there are not as many workloads.

    By turns: those that take long stand beside each other in the table.
    """
    shares = (tuple(workloads[first::guests]) for first in range(guests))
    return [share for share in shares if share]
