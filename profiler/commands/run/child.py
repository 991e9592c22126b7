# SPDX-License-Identifier: Apache-2.0
"""The child process that runs the command: all that needs privileges.

The methods take and return JSON values or descriptors, so that the helper can run them
(``privileges/helper.py``). It is then the parent of the process.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from profiler.commands.run.cgroup import Cgroup
from profiler.commands.run.terminal import Terminal, open_terminal
from profiler.commands.run.user import become, environment_of
from profiler.errors import CommandError
from profiler.privileges.helper import Descriptor

NOT_FOUND = 127


class Child:
    """A command line to start in ``cgroup``, as ``user`` if that is not ``None``.

    ``variables`` are added to its environment.

    As a user, it runs in a session of its own, so that it cannot reach the terminal of this one.
    It gets the signal mask and the limits of the process that creates this object, which loading
    the probe changes. Raises CommandError if the program does not exist.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cgroup: Cgroup,
        user: pwd.struct_passwd | None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._arguments = arguments
        self._cgroup = cgroup
        self._user = user
        self._environment = environment_of(user, os.environ) if user else dict(os.environ)
        self._environment.update(variables)
        path = shutil.which(arguments[0], os.F_OK, self._environment.get("PATH"))
        if path is None:
            raise CommandError(f"{arguments[0]}: command not found", NOT_FOUND)
        self.path = Path(path)
        """The program, as the command line and PATH lead to it."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._locked_memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: Terminal | None = None

    @property
    def has_own_session(self) -> bool:
        """Whether signals from the terminal do not reach it."""
        return self._user is not None

    def start(self) -> Descriptor:
        """Start it; return a descriptor that is readable once it has ended (pidfd_open(2)).

        Raises CommandError.
        """
        self._terminal = open_terminal(self._user) if self._user else None
        try:
            self._process = self._open()
        except CommandError:
            self._leave_terminal()
            raise
        if self._terminal:
            signal.signal(signal.SIGCHLD, self._follow)
            self._follow()
        return Descriptor(os.pidfd_open(self._process.pid))

    def send(self, number: int) -> None:
        """Send a signal to it, if it is running: to its process group in a session of its own."""
        if self._process is None or self._process.poll() is not None:
            return
        if self.has_own_session:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return its exit code, or 128+N if signal N killed it."""
        assert self._process is not None, "it was started"
        code = self._process.wait()
        self._leave_terminal()
        return code if code >= 0 else 128 - code

    def _open(self) -> subprocess.Popen[bytes]:
        name = self._arguments[0]
        try:
            # Closes all descriptors but the standard streams.
            return subprocess.Popen(
                self._arguments, preexec_fn=self._prepare, env=self._environment
            )
        except FileNotFoundError as error:
            raise CommandError(f"{name}: command not found", NOT_FOUND) from error
        except OSError as error:
            raise CommandError(f"cannot execute {name}: {error.strerror}") from error
        except subprocess.SubprocessError as error:
            why = "it could not join its cgroup, or change its user"
            raise CommandError(f"cannot execute {name}: {why}") from error
        finally:
            if self._terminal:
                self._terminal.release()

    def _prepare(self) -> None:
        """In the child: join the cgroup and change to the user."""
        self._cgroup.join()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, self._locked_memory)
        if self._terminal:
            self._terminal.enter()
        elif self._user:
            os.setsid()
        if self._user:
            become(self._user)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _follow(self, *_: object) -> None:
        """A child changed its state: stop and continue with the command, as a job of the shell."""
        assert self._process and self._terminal
        relay = self._terminal.relay
        if _is_stopped(self._process.pid):
            # It restores the outer terminal, and stops.
            os.kill(relay, signal.SIGTSTP)
        if _is_stopped(relay):
            # The kernel ignores it if no shell could continue this process group.
            os.killpg(0, signal.SIGTSTP)
            os.kill(relay, signal.SIGCONT)
            os.kill(self._process.pid, signal.SIGCONT)

    def _leave_terminal(self) -> None:
        if self._terminal:
            self._terminal.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _is_stopped(pid: int) -> bool:
    """Whether a child has stopped, reported once; its end is left for others to notice."""
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None
    except ChildProcessError:
        return False
