"""Who goes first while the ring fills: the reader, before those whose calls fill it.

A processor that is busy is shared out evenly, but a message costs more to write down than
to send: the ring would overflow however large it is. So while a batch or more waits in it,
the reader is a real-time thread (sched(7), SCHED_RR), and slows down what it captures; with
less it is a thread like any other. To wait until the ring is half full would be too late: one
large message may take so long to write down that others fill it several times meanwhile. A
nice value would not do: it counts only within a session or a control group. What the kernel
keeps for others all the same (``sched_rt_runtime_us``: 50 ms of each second) the ring has to
hold.
"""

from __future__ import annotations

import os
from contextlib import suppress

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

    def follow(self, behind: bool) -> None:
        """Take precedence while the reader is ``behind``, and give it back when it is not."""
        if not behind:
            self.give_back()
        elif not self._taken and _is_as_usual():
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
