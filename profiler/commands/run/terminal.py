# SPDX-License-Identifier: Apache-2.0
"""A terminal for the command alone.

On the terminal of root's shell, a user's process can do what it cannot do elsewhere: it can type
into the shell (TIOCSTI of ioctl_tty(2)) and change how the terminal works. So the command gets a
pseudo-terminal, and a relay connects it with the outer one. It replaces those standard streams that
are terminals; the others are passed through.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import termios

from profiler.commands.run import monitor
from profiler.commands.run.relay import Relay, copy_size, is_in_foreground
from profiler.privileges.confinement import ConfinementError, user_for

_STANDARD_STREAMS = 0, 1, 2


class Terminal:
    """A pseudo-terminal of ``user`` that replaces ``streams``, and the process of its relay."""

    def __init__(self, user: pwd.struct_passwd, streams: tuple[int, ...]) -> None:
        self._streams = streams
        self._outer = streams[0]
        main, self._inner = os.openpty()
        # In the background, the attributes are those that the shell's prompt needs.
        self._attributes = termios.tcgetattr(self._outer if is_in_foreground(self._outer) else main)
        termios.tcsetattr(self._inner, termios.TCSANOW, self._attributes)
        copy_size(self._outer, main)
        os.fchown(self._inner, user.pw_uid, -1)
        ended, self._ended = os.pipe()
        self.relay = self._fork_relay(main, ended, _relay_user(user))
        """The relay's process ID."""
        os.close(main)
        os.close(ended)

    def enter(self) -> None:
        """In a child: lead a new session in this terminal, and return in a child of that.

        The caller's process exits with the exit code of that child.
        """
        os.setsid()
        fcntl.ioctl(self._inner, termios.TIOCSCTTY, 0)
        for stream in self._streams:
            os.dup2(self._inner, stream)
        monitor.fork_command(self._inner, self._ended)

    def release(self) -> None:
        """Close what only the command needs: its end is then noticed however it ended."""
        os.close(self._inner)
        os.close(self._ended)

    def close(self) -> None:
        """Wait for the relay. Restore the outer terminal if the relay was killed."""
        _, status = os.waitpid(self.relay, 0)
        if os.WIFSIGNALED(status) and is_in_foreground(self._outer):
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._outer, termios.TCSADRAIN, self._attributes)

    def _fork_relay(self, main: int, ended: int, user: pwd.struct_passwd) -> int:
        relay = os.fork()
        if relay == 0:
            try:
                # Without the keys of the terminal, it stays as it is, for others in a pipeline.
                Relay(self._outer, main, ended, has_keys=0 in self._streams).run(user)
            finally:
                # No cleanup of objects: they belong to the other process.
                os._exit(0)
        return relay


def open_terminal(user: pwd.struct_passwd) -> Terminal | None:
    """Return a terminal for a command of ``user``, if a standard stream is a terminal."""
    streams = tuple(stream for stream in _STANDARD_STREAMS if os.isatty(stream))
    return Terminal(user, streams) if streams else None


def _relay_user(user: pwd.struct_passwd) -> pwd.struct_passwd:
    """Return the user that parses captured bytes: the command cannot send it signals."""
    with contextlib.suppress(ConfinementError):
        return user_for(None) or user
    return user
