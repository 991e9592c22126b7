# SPDX-License-Identifier: Apache-2.0
"""Accompanies the capture of a command: starts it, waits for its end, forwards signals.

Without ``--as``, the command runs as if a shell had started it: same session, same process group,
same terminal, same standard streams. So signals from the terminal (Ctrl-C, Ctrl-\\, Ctrl-Z) reach
it directly, and signals sent to the profiler are forwarded. To distinguish the two, the signals are
blocked and read with sigtimedwait(2), which reports their sender. A command in a session of its own
gets both from here.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

from profiler.accounting import Account
from profiler.commands.run.child import Child
from profiler.privileges.helper import Helper

_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_SI_KERNEL = 0x80  # bits/siginfo-consts.h: sent by the terminal
_WAIT_SECONDS = 0.1


class Command:
    """The command as an attendant of the capture (``session.Attendant``)."""

    def __init__(self, child: Child) -> None:
        self._start, self._send, self._wait = child.start, child.send, child.wait
        self._repeated = child.has_own_session
        self._mask: set[signal.Signals] = set()
        self._end: int | None = None
        self._code: int | None = None

    def share(self, helper: Helper) -> None:
        """Let ``helper`` start the command and send signals to it, with its privileges."""
        self._start = helper.offer(self._start)
        self._send = helper.offer(self._send)
        self._wait = helper.offer(self._wait)

    @property
    def started(self) -> bool:
        """Whether it was started."""
        return self._end is not None or self._code is not None

    @property
    def ended(self) -> bool:
        """Whether its end was noticed."""
        return self._code is not None

    def begun(self, _account: Callable[[], Account]) -> None:
        """Start it. Raises CommandError."""
        self._mask = {
            signal.Signals(number)
            for number in signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        }
        try:
            self._end = self._start()
        except BaseException:
            self._unblock()
            raise

    def goes_on(self, _idle: bool) -> bool:
        """Forward signals sent to the profiler; return whether the command is running."""
        self._pass_on(0)
        return self._is_running()

    def wait(self) -> int:
        """Wait for its end; return its exit code, or 128+N if signal N killed it."""
        while self._is_running():
            self._pass_on(_WAIT_SECONDS)
        self._unblock()
        assert self._code is not None, "it was started"
        return self._code

    def _is_running(self) -> bool:
        if self._end is not None and _is_readable(self._end):
            os.close(self._end)
            self._end = None
            self._code = self._wait()
        return self._end is not None

    def _pass_on(self, seconds: float) -> None:
        received = signal.sigtimedwait(_PASSED_ON, seconds)
        while received is not None:
            is_due = received.si_code != _SI_KERNEL or self._repeated
            if is_due and self._end is not None:
                self._send(int(received.si_signo))
            received = signal.sigtimedwait(_PASSED_ON, 0)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _is_readable(descriptor: int) -> bool:
    # select(2) is limited to descriptors below 1024.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
