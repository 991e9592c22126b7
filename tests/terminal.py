# SPDX-License-Identifier: Apache-2.0
"""Runs a program in a real pseudo-terminal, with an emulator that shows what it draws."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import TracebackType

import pyte

ROOT = Path(__file__).parents[1]
SECONDS = 60.0
QUIET_SECONDS = 1.5
KEYS = {"up": "\x1b[A", "down": "\x1b[B", "pagedown": "\x1b[6~", "end": "\x1b[4~", "esc": "\x1b"}
PROFILER = [sys.executable, "-m", "profiler.cli"]
# Escape sequences that an emulator obeys and a test must see: all output is kept.
_ENVIRONMENT = {"TERM": "linux", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONPATH": str(ROOT)}


class Terminal:
    """Runs ``command`` in a terminal; a context manager."""

    def __init__(
        self, command: list[str], lines: int = 24, columns: int = 100, **environment: str
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.sent = b""
        """Everything that was written to the terminal."""
        self.exit_code: int | None = None
        self.seconds = SECONDS
        """How long to wait for expected output."""
        self._stream = pyte.ByteStream(self.screen)
        # Only this terminal's size counts: curses prefers LINES and COLUMNS.
        variables = {
            name: value
            for name, value in os.environ.items()
            if name not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        self.pid, self._fd = pty.fork()
        if not self.pid:
            # Set the size before the program reads it.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            with contextlib.suppress(OSError):
                os.execvpe(command[0], command, {**variables, **_ENVIRONMENT, **environment})
            os._exit(127)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    @property
    def text(self) -> str:
        """The screen as displayed."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    @property
    def is_raw(self) -> bool:
        """Whether the terminal passes all keys on, also Ctrl-C."""
        return not termios.tcgetattr(self._fd)[3] & (termios.ICANON | termios.ISIG)

    def press(self, *keys: str) -> None:
        """Press keys, by name or character."""
        for key in keys:
            os.write(self._fd, KEYS.get(key, key).encode())

    def resize(self, lines: int, columns: int) -> None:
        """Resize the window."""
        self.screen.resize(lines, columns)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, wanted: Callable[[str], object] | str) -> str:
        """Wait until the screen has a text, or satisfies ``wanted``; return the screen."""
        is_there = wanted if callable(wanted) else lambda text: wanted in text
        deadline = time.monotonic() + self.seconds
        while not is_there(self.text):
            assert time.monotonic() < deadline, f"not on the screen: {wanted}\n{self.text}"
            assert self._read(), f"the program has ended: {wanted}\n{self.text}"
        return self.text

    def still(self) -> str:
        """Wait until nothing is drawn for some frames; return the screen."""
        quiet = time.monotonic()
        deadline = quiet + self.seconds
        while time.monotonic() - quiet < QUIET_SECONDS:
            assert time.monotonic() < deadline, f"the screen keeps changing\n{self.text}"
            before = len(self.sent)
            assert self._read(), f"the program has ended\n{self.text}"
            if len(self.sent) > before:
                quiet = time.monotonic()
        return self.text

    def end(self) -> str:
        """Wait until the program has ended; return the screen."""
        deadline = time.monotonic() + self.seconds
        while self._read():
            assert time.monotonic() < deadline, f"the program does not exit\n{self.text}"
        self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.text

    def signal(self, number: int) -> None:
        """Send a signal to the program."""
        os.kill(self.pid, number)

    def page(self) -> str:
        """Return the screen as an HTML page, for a screenshot."""
        rows = []
        for number in range(self.screen.lines):
            row = self.screen.buffer[number]
            rows.append("".join(_cell(row[at]) for at in range(self.screen.columns)))
        return _PAGE.format("\n".join(rows))

    def _read(self) -> bool:
        if not select.select([self._fd], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the other end is closed.
            return False
        self.sent += data
        self._stream.feed(data)
        return bool(data)


_COLOURS = {
    "black": "#0d1117",
    "red": "#ff7b72",
    "green": "#56d364",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#56d4dd",
    "white": "#c9d1d9",
    "default": "",
}
_PAGE = """<!doctype html><meta charset="utf-8"><style>
html {{ background: #0d1117; }}
body {{ margin: 0; padding: 12px; width: max-content; }}
pre {{ margin: 0; color: #c9d1d9; font: 15px/1.3 "DejaVu Sans Mono", monospace; }}
</style><script>addEventListener("load", () => document.documentElement.dataset.ready = "yes")
</script><pre>{}</pre>"""


def _cell(cell: pyte.screens.Char) -> str:
    front, back = _COLOURS.get(cell.fg, cell.fg), _COLOURS.get(cell.bg, cell.bg)
    if cell.reverse:
        front, back = back or "#0d1117", front or "#c9d1d9"
    style = (
        (f"color:{front};" if front else "")
        + (f"background:{back};" if back else "")
        + ("font-weight:bold;" if cell.bold else "")
        + ("text-decoration:underline;" if cell.underscore else "")
    )
    text = escape(cell.data)
    return f'<span style="{style}">{text}</span>' if style else text
