# SPDX-License-Identifier: Apache-2.0
"""The traced command: started once the probe is attached, waited for, told of signals.

It is a child like any other of a shell's: same session, same process group, same terminal, its
standard streams untouched. So what the terminal sends - Ctrl-C, Ctrl-\\, Ctrl-Z - it gets
by itself; what somebody sends to the profiler is passed on. To tell the two apart, the
signals are blocked and asked for (sigtimedwait(2) says who sent one).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence

from profiler.accounting import Account
from profiler.commands.run.cgroup import Cgroup
from profiler.errors import ProfilerError

_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_SI_KERNEL = 0x80  # bits/siginfo-consts.h: what the terminal sends
_WAIT_SECONDS = 0.1

CANNOT_EXECUTE, NOT_FOUND = 126, 127


class CommandError(ProfilerError):
    """The command cannot be started."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Command:
    """A command line, to be started in ``cgroup`` as ``user`` (by default who runs this).

    Raises CommandError if there is no such program.
    """

    def __init__(
        self, arguments: Sequence[str], cgroup: Cgroup, user: pwd.struct_passwd | None = None
    ) -> None:
        if shutil.which(arguments[0], os.F_OK) is None:
            raise CommandError(f"{arguments[0]}: command not found", NOT_FOUND)
        self._arguments = arguments
        self._cgroup = cgroup
        self._user = user
        self._mask: set[signal.Signals] = set()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        """Was it started?"""
        return self._child is not None

    @property
    def ended(self) -> bool:
        """Has it been seen to have ended?"""
        return self._child is not None and self._child.returncode is not None

    def begun(self, _account: Callable[[], Account]) -> None:
        """Start it. Raises CommandError."""
        self._mask = {
            signal.Signals(number)
            for number in signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        }
        name = self._arguments[0]
        try:
            self._child = subprocess.Popen(
                self._arguments, preexec_fn=self._prepare, env=self._environment()
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._unblock()
            if isinstance(error, FileNotFoundError):
                raise CommandError(f"{name}: command not found", NOT_FOUND) from error
            why = error.strerror if isinstance(error, OSError) else "its cgroup does not take it"
            raise CommandError(f"cannot execute {name}: {why}", CANNOT_EXECUTE) from error

    def goes_on(self, _idle: bool) -> bool:
        """Pass on what was sent to the profiler; is the command still running?"""
        self._pass_on(0)
        return self._child is not None and self._child.poll() is None

    def wait(self) -> int:
        """Wait for its end; return its exit code, of a signal N 128+N."""
        assert self._child is not None, "it was started"
        while self._child.poll() is None:
            self._pass_on(_WAIT_SECONDS)
        self._unblock()
        code = self._child.returncode
        return code if code >= 0 else 128 - code

    def _prepare(self) -> None:
        """In the child: take it to its cgroup and make it the user's."""
        self._cgroup.join()
        if self._user:
            os.initgroups(self._user.pw_name, self._user.pw_gid)
            os.setgid(self._user.pw_gid)
            os.setuid(self._user.pw_uid)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _environment(self) -> dict[str, str] | None:
        if self._user is None:
            return None
        name, home, shell = self._user.pw_name, self._user.pw_dir, self._user.pw_shell
        return {**os.environ, "USER": name, "LOGNAME": name, "HOME": home, "SHELL": shell}

    def _pass_on(self, seconds: float) -> None:
        received = signal.sigtimedwait(_PASSED_ON, seconds)
        while received is not None:
            if received.si_code != _SI_KERNEL and self._child is not None:
                self._child.send_signal(received.si_signo)
            received = signal.sigtimedwait(_PASSED_ON, 0)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
