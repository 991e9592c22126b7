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
from profiler.commands.run.user import become, environment_of
from profiler.errors import CommandError
from profiler.privileges.helper import Descriptor

NOT_FOUND = 127


class Child:
    """A command line to start in ``cgroup``, as ``user`` if that is not ``None``.

    As a user, it runs in a session of its own, so that it cannot reach the terminal of this one.
    It gets the signal mask and the limits of the process that creates this object, which loading
    the probe changes. Raises CommandError if the program does not exist.
    """

    def __init__(
        self, arguments: Sequence[str], cgroup: Cgroup, user: pwd.struct_passwd | None
    ) -> None:
        self._arguments = arguments
        self._cgroup = cgroup
        self._user = user
        self._environment = environment_of(user, os.environ) if user else dict(os.environ)
        if shutil.which(arguments[0], os.F_OK, self._environment.get("PATH")) is None:
            raise CommandError(f"{arguments[0]}: command not found", NOT_FOUND)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._locked_memory = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def has_own_session(self) -> bool:
        """Whether signals from the terminal do not reach it."""
        return self._user is not None

    def start(self) -> Descriptor:
        """Start it; return a descriptor that is readable once it has ended (pidfd_open(2)).

        Raises CommandError.
        """
        name = self._arguments[0]
        try:
            # Closes all descriptors but the standard streams.
            self._process = subprocess.Popen(
                self._arguments, preexec_fn=self._prepare, env=self._environment
            )
        except FileNotFoundError as error:
            raise CommandError(f"{name}: command not found", NOT_FOUND) from error
        except OSError as error:
            raise CommandError(f"cannot execute {name}: {error.strerror}") from error
        except subprocess.SubprocessError as error:
            why = "it could not join its cgroup, or change its user"
            raise CommandError(f"cannot execute {name}: {why}") from error
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
        return code if code >= 0 else 128 - code

    def _prepare(self) -> None:
        """In the child: join the cgroup and change to the user."""
        self._cgroup.join()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, self._locked_memory)
        if self._user:
            os.setsid()
            become(self._user)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
