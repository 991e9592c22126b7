"""Who goes first while the ring fills: the reader, before those whose calls fill it.

A processor that is busy is shared out evenly, but a message costs more to write down than
to send: the ring would overflow however large it is. So while much waits in it, the
reader is a real-time thread (sched(7), SCHED_RR) and so slows down what it captures. Once it
has caught up it is a thread like any other. A nice value would not do: it counts only within
a session or a control group. What the kernel keeps for others all the same
(``sched_rt_runtime_us``: 50 ms of each second) the ring has to hold.
"""

from __future__ import annotations

import os
from contextlib import suppress

# Shares of the ring that wait.
BEHIND = 1 / 8
CAUGHT_UP = 1 / 64

# What it starts is not to be like it.
POLICY = os.SCHED_RR | os.SCHED_RESET_ON_FORK
_LOWEST = os.sched_param(1)


class Precedence:
    """The precedence of the thread that calls it, which is the ring's reader.

    It stays as it is without CAP_SYS_NICE, and where the user has said that others go first
    (nice(1), chrt(1)): then what cannot be read in time is lost, and said so.
    """

    def __init__(self) -> None:
        self._taken = False

    def follow(self, waiting: float) -> None:
        """Take precedence, or give it back, by the share of the ring that is ``waiting``."""
        if self._taken:
            if waiting < CAUGHT_UP:
                self.give_back()
        elif waiting > BEHIND and _is_as_usual():
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
