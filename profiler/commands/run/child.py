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
from collections.abc import Sequence

from profiler.commands.run.cgroup import Cgroup
from profiler.errors import CommandError
from profiler.privileges.helper import Descriptor

NOT_FOUND = 127


class Child:
    """A command line to start in ``cgroup`` as ``user`` (default: the current user).

    The command gets the signal mask and the limits of the process that creates this object, which
    loading the probe changes. Raises CommandError if the program does not exist.
    """

    def __init__(
        self, arguments: Sequence[str], cgroup: Cgroup, user: pwd.struct_passwd | None
    ) -> None:
        if shutil.which(arguments[0], os.F_OK) is None:
            raise CommandError(f"{arguments[0]}: command not found", NOT_FOUND)
        self._arguments = arguments
        self._cgroup = cgroup
        self._user = user
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._locked_memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Descriptor:
        """Start it; return a descriptor that is readable once it has ended (pidfd_open(2)).

        Raises CommandError.
        """
        name = self._arguments[0]
        try:
            self._child = subprocess.Popen(
                self._arguments, preexec_fn=self._prepare, env=self._environment()
            )
        except FileNotFoundError as error:
            raise CommandError(f"{name}: command not found", NOT_FOUND) from error
        except OSError as error:
            raise CommandError(f"cannot execute {name}: {error.strerror}") from error
        except subprocess.SubprocessError as error:
            why = "it could not join its cgroup, or change its user"
            raise CommandError(f"cannot execute {name}: {why}") from error
        return Descriptor(os.pidfd_open(self._child.pid))

    def send(self, number: int) -> None:
        """Send a signal to it, if it is running."""
        if self._child is not None:
            self._child.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return its exit code, or 128+N if signal N killed it."""
        assert self._child is not None, "it was started"
        code = self._child.wait()
        return code if code >= 0 else 128 - code

    def _prepare(self) -> None:
        """In the child: join the cgroup and change to the user."""
        self._cgroup.join()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, self._locked_memory)
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
