# SPDX-License-Identifier: Apache-2.0
"""Connects the command's terminal with the profiler's: copies keys, output and the window's size.

It runs in a process of its own, without privileges, in the profiler's process group. While that is
in the foreground, the outer terminal is raw, so that keys such as Ctrl-C act in the command's
terminal. The outer terminal's output flags follow the command's: the lines of other processes, and
of the profiler, look right unless the command draws on the whole screen.

| signal | effect |
| --- | --- |
| SIGWINCH | the size is copied, and the kernel informs the command |
| SIGTSTP | output is copied, the outer terminal restored, and the relay stops |
| SIGCONT | the outer terminal is raw again if the profiler is in the foreground |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import select
import signal
import termios
import tty
from pathlib import Path
from typing import Any

from profiler.privileges.confinement import confine

# The end of the command, or of a terminal, ends the relay; these end or stop the profiler.
_BLOCKED = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
    *(signal.SIGTTIN, signal.SIGTTOU),
}
_READ_BYTES = 65536
# More than the kernel holds for a terminal: 8 KiB (drivers/tty/pty.c) and 4 KiB (n_tty.c).
_DRAIN_BYTES = 65536
# A shell sends no signal when it brings a running job to the foreground.
_FOREGROUND_MS = 100
_OFLAG = 1  # in the list of termios.tcgetattr()


class Relay:
    """Copies between the terminal ``outer`` and ``main``, the other side of the command's terminal.

    It does so until ``ended`` is readable, or its parent has ended. Keys are copied only if
    ``has_keys``.
    """

    def __init__(self, outer: int, main: int, ended: int, has_keys: bool) -> None:
        self._outer = outer
        self._main = main
        self._ended = ended
        self._has_keys = has_keys
        self._keys = b""
        self._saved: list[Any] | None = None
        """The attributes of the outer terminal, while it is raw."""

    def run(self, user: pwd.struct_passwd) -> None:
        """Copy as ``user``, confined. Raises OSError if a terminal is gone."""
        separate("http-prof-tty", self._outer, self._main, self._ended)
        os.set_blocking(self._main, False)
        parent = os.pidfd_open(os.getppid())
        signals = _wake_up_by_signals()
        confine(user)
        try:
            self._take()
            while self._copy(signals, parent):
                pass
            self._drain()
        finally:
            self._give_back()

    def _copy(self, signals: int, parent: int) -> bool:
        """Wait, and copy what is there; return whether to continue."""
        poll = select.poll()
        for readable in (signals, parent, self._ended):
            poll.register(readable, select.POLLIN)
        poll.register(self._main, select.POLLIN | (select.POLLOUT if self._keys else 0))
        # Keys that the command does not read yet stay in the outer terminal. 0: only its hangup.
        takes_keys = self._saved is not None and not self._keys
        poll.register(self._outer, select.POLLIN if takes_keys else 0)
        is_waiting = self._has_keys and self._saved is None
        ready = dict(poll.poll(_FOREGROUND_MS if is_waiting else None))
        if signals in ready:
            numbers = os.read(signals, 64)
            if signal.SIGTSTP in numbers:
                self._stop()
            self._take()
        elif is_waiting:
            self._take()
        if ready.get(self._main, 0) & select.POLLIN:
            self._copy_output()
        if ready.get(self._outer, 0) & select.POLLIN:
            self._read_keys()
        elif self._outer in ready:
            raise OSError("the terminal was hung up")
        if self._keys:
            with contextlib.suppress(BlockingIOError):
                self._keys = self._keys[os.write(self._main, self._keys) :]
        return self._ended not in ready and parent not in ready

    def _read_keys(self) -> None:
        try:
            self._keys = os.read(self._outer, 1024)
        except BlockingIOError:
            return
        except OSError:
            if is_in_foreground(self._outer):
                raise
            self._saved = None  # The shell has set its own attributes.
            return
        if not self._keys:
            raise OSError("the terminal was hung up")

    def _copy_output(self) -> int:
        """Copy what the command has written, if anything; return the number of bytes."""
        try:
            data = os.read(self._main, _READ_BYTES)
        except OSError:
            return 0
        size = len(data)
        self._follow_output_flags()
        while data:
            try:
                data = data[os.write(self._outer, data) :]
            except BlockingIOError:  # Others may have made it so; it is theirs too.
                poll = select.poll()
                poll.register(self._outer, select.POLLOUT)
                poll.poll()
        return size

    def _drain(self) -> None:
        """Copy what is there, and no more: others may write without end."""
        left = _DRAIN_BYTES
        while left > 0 and (size := self._copy_output()):
            left -= size

    def _take(self) -> None:
        """Make the outer terminal raw, if that is possible; copy its size."""
        copy_size(self._outer, self._main)
        if self._has_keys and self._saved is None and is_in_foreground(self._outer):
            self._saved = termios.tcgetattr(self._outer)
            tty.setraw(self._outer, termios.TCSADRAIN)
            self._follow_output_flags()

    def _give_back(self) -> None:
        if self._saved is not None and is_in_foreground(self._outer):
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._outer, termios.TCSADRAIN, self._saved)
        self._saved = None

    def _follow_output_flags(self) -> None:
        if self._saved is not None:
            attributes = termios.tcgetattr(self._outer)
            flags = termios.tcgetattr(self._main)[_OFLAG]
            if attributes[_OFLAG] != flags:
                attributes[_OFLAG] = flags
                termios.tcsetattr(self._outer, termios.TCSADRAIN, attributes)

    def _stop(self) -> None:
        self._drain()
        self._give_back()
        signal.raise_signal(signal.SIGSTOP)


def is_in_foreground(outer: int) -> bool:
    """Return whether this process may use a terminal, as its shell decides."""
    try:
        return os.tcgetpgrp(outer) == os.getpgrp()
    except OSError:
        return True  # It does not control this session, so no shell decides.


def copy_size(outer: int, main: int) -> None:
    """Give a terminal the size of another one."""
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(outer, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(main, termios.TIOCSWINSZ, size)


def separate(name: str, *kept: int) -> None:
    """Name this process, for ps(1), and close all descriptors but ``kept``."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor not in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _wake_up_by_signals() -> int:
    """Return a descriptor from which the numbers of received signals can be read."""
    numbers, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written)
    for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, _BLOCKED)
    return numbers
