# SPDX-License-Identifier: Apache-2.0
"""The traced command: starts it once the probe is attached, waits for it, forwards signals.

It runs as if a shell had started it: same session, same process group, same terminal, same standard
streams. So signals from the terminal (Ctrl-C, Ctrl-\\, Ctrl-Z) reach it directly, and signals sent
to the profiler are forwarded. To distinguish the two, the signals are blocked and read with
sigtimedwait(2), which reports their sender.
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
_SI_KERNEL = 0x80  # bits/siginfo-consts.h: sent by the terminal
_WAIT_SECONDS = 0.1

CANNOT_EXECUTE, NOT_FOUND = 126, 127


class CommandError(ProfilerError):
    """The command cannot be started."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Command:
    """A command line to start in ``cgroup`` as ``user`` (default: the current user).

    Raises CommandError if the program does not exist.
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
        """Whether it was started."""
        return self._child is not None

    @property
    def ended(self) -> bool:
        """Whether its end was noticed."""
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
            why = (
                error.strerror
                if isinstance(error, OSError)
                else "it could not join its cgroup, or change its user"
            )
            raise CommandError(f"cannot execute {name}: {why}", CANNOT_EXECUTE) from error

    def goes_on(self, _idle: bool) -> bool:
        """Forward signals sent to the profiler; return whether the command is running."""
        self._pass_on(0)
        return self._child is not None and self._child.poll() is None

    def wait(self) -> int:
        """Wait for its end; return its exit code, or 128+N if signal N killed it."""
        assert self._child is not None, "it was started"
        while self._child.poll() is None:
            self._pass_on(_WAIT_SECONDS)
        self._unblock()
        code = self._child.returncode
        return code if code >= 0 else 128 - code

    def _prepare(self) -> None:
        """In the child: join the cgroup and change to the user."""
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
