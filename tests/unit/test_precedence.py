# SPDX-License-Identifier: Apache-2.0
"""Precedence of the ring's reader: taken while it is behind, and given back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from profiler.ingest.probe.precedence import POLICY, Precedence
from profiler.ingest.probe.ring import batch_bytes

RING = 1 << 24
BATCH, MUCH = batch_bytes(RING), RING // 4
# What waits in the ring and what is held at each poll, and whether precedence is taken then.
POLLS = [
    ((BATCH // 2, 0), False),
    ((BATCH * 2, 0), False),
    ((MUCH, 0), True),
    ((BATCH * 2, 0), True),
    ((BATCH // 2, 0), False),
    ((BATCH // 2, MUCH), False),
    ((BATCH * 2, MUCH), True),
]
needs_permission = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs CAP_SYS_NICE, as root has it"
)


def run_in_thread(function: Callable[[], None]) -> None:
    """A thread has a policy of its own, and it ends with it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def policies(chosen: int = os.SCHED_OTHER, nice: int = 0) -> list[int]:
    """A thread's policy after each poll, and behind it all."""
    seen: list[int] = []

    def follow() -> None:
        if chosen != os.SCHED_OTHER:
            os.sched_setscheduler(0, chosen, os.sched_param(0))
        if nice or os.geteuid() == 0:  # The tests may be niced themselves.
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        precedence = Precedence(RING)
        for (waiting, held), _ in POLLS:
            precedence.follow(waiting, held)
            seen.append(os.sched_getscheduler(0))
        precedence.give_back()
        seen.append(os.sched_getscheduler(0))

    run_in_thread(follow)
    return seen


@needs_permission
def test_taken_when_behind_and_given_back_when_caught_up() -> None:
    expected = [POLICY if taken else os.SCHED_OTHER for _, taken in POLLS]
    assert policies() == [*expected, os.SCHED_OTHER]


@needs_permission
def test_what_it_starts_is_not_like_it() -> None:
    said: list[str] = []

    def follow() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        Precedence(RING).follow(MUCH, 0)
        command = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
        said.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    run_in_thread(follow)
    assert said == [f"{os.SCHED_OTHER}\n"]


def test_where_others_go_first_they_do() -> None:
    assert set(policies(os.SCHED_IDLE)) == {os.SCHED_IDLE}
    assert set(policies(nice=5)) == {os.SCHED_OTHER}


def test_without_permission_it_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for the system call, since tests may run as root.
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("profiler.ingest.probe.precedence.os.sched_setscheduler", refused)
    assert set(policies()) == {os.SCHED_OTHER}
