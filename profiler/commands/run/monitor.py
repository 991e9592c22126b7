# SPDX-License-Identifier: Apache-2.0
"""The leader of the command's session in its terminal: it mirrors how the command stops and ends.

A session leader cannot be stopped from its terminal, because its process group is orphaned
(setpgid(2)). So the command is a child of the leader, in a process group of its own. If the command
stops, the leader stops too, which its parent notices, and continues the command when it is
continued. It keeps its privileges to forward signals to a command that gains some, such as sudo. It
reads nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal

from profiler.commands.run.relay import separate

_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_HANDLED = {*_FORWARDED, signal.SIGCHLD}


def fork_command(inner: int, ended: int) -> None:
    """Return in a new process, which becomes the command; the calling one watches it for good.

    ``inner`` is the terminal that controls the session, in which the new process is in the
    foreground. The end of the command makes ``ended`` readable at its other end. Then the calling
    process exits with the command's exit code, or with 128+N if signal N killed it. The output that
    is not read yet survives the end of the session.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    command = os.fork()
    if command == 0:
        os.setpgid(0, 0)
        # Who is not in the foreground yet is stopped otherwise.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(inner, os.getpgrp())
        return
    code = 1
    try:
        # A pipe that the command closes must not stay open here.
        separate("http-prof-mon", inner, ended)
        status = _follow(command)
        # The relay may have been killed.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        with contextlib.suppress(BrokenPipeError):
            os.write(ended, b".")
        code = os.waitstatus_to_exitcode(status)
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _follow(command: int) -> int:
    """Return the status with which the command ended (waitpid(2))."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        # The child does the same: whoever is first. It may have started its program already.
        os.setpgid(command, command)
    while True:
        number = signal.sigwait(_HANDLED)
        if number != signal.SIGCHLD:
            os.killpg(command, number)
            continue
        pid, status = os.waitpid(command, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):
            signal.raise_signal(signal.SIGSTOP)
            os.killpg(command, signal.SIGCONT)
        elif pid:
            return status
