# SPDX-License-Identifier: Apache-2.0
"""The ring reader's priority: raised while it is behind, and then restored."""

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
BATCH = batch_bytes(RING)
# At each poll: the bytes in the ring, and whether the priority is then raised.
POLLS = [
    (BATCH // 2, False),
    (BATCH * 2, True),
    (BATCH, True),
    (BATCH // 2, False),
]
needs_permission = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs CAP_SYS_NICE, as root has it"
)


def run_in_thread(function: Callable[[], None]) -> None:
    """A thread has its own policy, which ends with the thread."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def policy() -> int:
    """Return the thread's policy; an unprivileged thread that gives it back keeps the flag."""
    now = os.sched_getscheduler(0)
    return now & ~os.SCHED_RESET_ON_FORK if now & ~os.SCHED_RESET_ON_FORK == 0 else now


def policies(chosen: int = os.SCHED_OTHER, nice: int = 0) -> list[int]:
    """Return a thread's policy after each poll, and at the end."""
    return watch(chosen, nice)[0]


def watch(chosen: int = os.SCHED_OTHER, nice: int = 0) -> tuple[list[int], list[str]]:
    """Return the policies, and the messages for the user."""
    seen: list[int] = []
    said: list[str] = []

    def follow() -> None:
        if chosen != os.SCHED_OTHER:
            os.sched_setscheduler(0, chosen, os.sched_param(0))
        if nice or os.geteuid() == 0:  # The tests may run under nice.
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        precedence = Precedence(RING)
        for waiting, _ in POLLS:
            said.extend(precedence.follow(waiting))
            seen.append(policy())
        precedence.give_back()
        seen.append(policy())

    run_in_thread(follow)
    return seen, said


@needs_permission
def test_taken_when_behind_and_given_back_when_caught_up() -> None:
    expected = [POLICY if taken else os.SCHED_OTHER for _, taken in POLLS]
    assert policies() == [*expected, os.SCHED_OTHER]


@needs_permission
def test_child_processes_do_not_inherit_it() -> None:
    said: list[str] = []

    def follow() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        Precedence(RING).follow(BATCH)
        command = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
        said.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    run_in_thread(follow)
    assert said == [f"{os.SCHED_OTHER}\n"]


def test_a_lower_priority_stays() -> None:
    said = ["--lossless has no effect: the user has set another priority (nice, chrt)"]
    assert watch(os.SCHED_IDLE) == ([os.SCHED_IDLE] * (len(POLLS) + 1), said)
    assert watch(nice=5) == ([os.SCHED_OTHER] * (len(POLLS) + 1), said)


def test_without_permission_it_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for the system call, because tests may run as root.
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("profiler.ingest.probe.precedence.os.sched_setscheduler", refused)
    seen, said = watch()
    assert set(seen) == {os.SCHED_OTHER}
    assert said == [
        "--lossless has no effect: a real-time priority needs CAP_SYS_NICE, or a limit RTPRIO of 1"
    ]
