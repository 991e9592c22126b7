# SPDX-License-Identifier: Apache-2.0
"""Who goes first while the ring fills: the reader, before those whose calls fill it.

A processor that is busy is shared out evenly, but a message costs more to write down than
to send: the ring would overflow however large it is. So while much waits in it, the reader is
a real-time thread (sched(7), SCHED_RR), and slows down what it captures. Once it has caught up
it is a thread like any other, so that a burst which the ring can hold is not slowed down.

While a large message is under way, a batch is much. To write such a message down may take so
long that others, at their even share, fill the ring meanwhile, and nobody looks at it before
that is done.

A nice value would not do: it counts only within a session or a control group. What the kernel
keeps for others all the same (``sched_rt_runtime_us``: 50 ms of each second) the ring has to
hold.
"""

from __future__ import annotations

import os
from contextlib import suppress

from profiler.ingest.probe.ring import batch_bytes

# Shares of the ring: what waits in it and is much, and what is held and is large.
BEHIND = 1 / 8
LARGE = 1 / 64

# What it starts is not to be like it.
POLICY = os.SCHED_RR | os.SCHED_RESET_ON_FORK
_LOWEST = os.sched_param(1)


class Precedence:
    """The precedence of the thread that calls it, which is the ring's reader.

    It stays as it is without CAP_SYS_NICE, and where the user has said that others go first
    (nice(1), chrt(1)): then what cannot be read in time is lost, and reported.
    """

    def __init__(self, ring: int) -> None:
        """``ring`` is its size in bytes."""
        self._much = int(ring * BEHIND)
        self._large = int(ring * LARGE)
        self._batch = batch_bytes(ring)
        self._taken = False

    def follow(self, waiting: int, held: int) -> None:
        """Take precedence, or give it back.

        ``waiting`` bytes of records were in the ring; ``held`` are of messages that are not
        written yet.
        """
        if waiting < self._batch:
            self.give_back()
        elif not self._taken and (waiting > self._much or held > self._large) and _is_as_usual():
            with suppress(PermissionError):
                os.sched_setscheduler(0, POLICY, _LOWEST)
                self._taken = True

    def give_back(self) -> None:
        """Be as before."""
        if self._taken:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            self._taken = False


def _is_as_usual() -> bool:
    return os.sched_getscheduler(0) == os.SCHED_OTHER and os.getpriority(os.PRIO_PROCESS, 0) <= 0
