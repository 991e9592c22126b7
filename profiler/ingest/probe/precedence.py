# SPDX-License-Identifier: Apache-2.0
"""Gives the ring's reader precedence over the captured processes: ``--lossless``.

A busy CPU is shared evenly, but writing a message costs more than sending it. So the ring
would overflow, whatever its size. While a batch or more waits in the ring, the reader is a
real-time thread (sched(7), SCHED_RR) and slows the captured processes down. Once it has caught
up, it is a normal thread again.

To wait until more of the ring is full would be too late: at an even share of the CPU, others
filled a ring of 4 MiB while the reader wrote its first batch.

A nice value is not enough: it applies only within a session or a control group. The kernel
reserves some time for other threads (``sched_rt_runtime_us``: 50 ms of each second); the ring
must hold what they send in it.
"""

from __future__ import annotations

import os

from profiler.ingest.probe.ring import batch_bytes

# Threads and processes that the reader starts do not inherit the policy.
POLICY = os.SCHED_RR | os.SCHED_RESET_ON_FORK
_LOWEST = os.sched_param(1)


class Precedence:
    """The precedence of the calling thread, which reads the ring.

    It does not change without CAP_SYS_NICE or a limit RLIMIT_RTPRIO of at least 1, or if the user
    has set another priority (nice(1), chrt(1)). Then records that cannot be read in time are lost,
    and counted.
    """

    def __init__(self, ring: int) -> None:
        """``ring`` is the ring's size in bytes."""
        self._batch = batch_bytes(ring)
        self._taken = False
        self._may = True

    def follow(self, waiting: int) -> list[str]:
        """Take precedence if so many bytes of records wait in the ring, or give it back.

        Return why it cannot be taken, once.
        """
        if waiting < self._batch:
            self.give_back()
        elif self._may and not self._taken:
            return self._take()
        return []

    def _take(self) -> list[str]:
        why = "the user has set another priority (nice, chrt)"
        if _is_normal():
            try:
                os.sched_setscheduler(0, POLICY, _LOWEST)
            except PermissionError:
                why = "a real-time priority needs CAP_SYS_NICE, or a limit RTPRIO of 1"
            else:
                self._taken = True
                return []
        self._may = False
        return [f"--lossless has no effect: {why}"]

    def give_back(self) -> None:
        """Return to the normal policy."""
        if self._taken:
            # Only a privileged thread may drop the flag.
            policy = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(0))
            self._taken = False


def _is_normal() -> bool:
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    return policy == os.SCHED_OTHER and os.getpriority(os.PRIO_PROCESS, 0) <= 0
