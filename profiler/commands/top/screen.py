# SPDX-License-Identifier: Apache-2.0
"""The terminal: takes the whole screen, draws frames, reads keys, and restores the screen."""

from __future__ import annotations

import contextlib
import curses
import os
import select
from collections.abc import Iterator, Sequence

from profiler.commands.top.lines import Line
from profiler.errors import OutputError

_ADVICE = "use a terminal, or --format pretty or jsonl without `top`"
_COLOURS = {
    "good": curses.COLOR_GREEN,
    "moved": curses.COLOR_CYAN,
    "refused": curses.COLOR_YELLOW,
    "failed": curses.COLOR_RED,
    "lost": curses.COLOR_MAGENTA,
}
_ATTRIBUTES = {
    "bold": curses.A_BOLD,
    "dim": curses.A_DIM,
    "head": curses.A_BOLD | curses.A_UNDERLINE,
    "cursor": curses.A_REVERSE,
    "failed": curses.A_BOLD,
}
_KEYS: dict[int | str, str] = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "pageup",
    curses.KEY_NPAGE: "pagedown",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_ENTER: "enter",
    curses.KEY_RESIZE: "resize",
    "\x7f": "backspace",
    "\b": "backspace",
    "\n": "enter",
    "\r": "enter",
    "\x1b": "escape",
    "\x0c": "redraw",
}


class Screen:
    """The whole screen of the terminal at standard input and output. Raises OutputError."""

    def __init__(self) -> None:
        for file, name in ((0, "input"), (1, "output")):
            if not os.isatty(file):
                raise OutputError(
                    f"top needs a terminal, but standard {name} is not one; {_ADVICE}"
                )
        term = os.environ.get("TERM") or "dumb"
        try:
            curses.setupterm(term, 1)
        except curses.error:
            raise OutputError(
                f"this machine has no description of the terminal {term}; {_ADVICE}"
            ) from None
        if not curses.tigetstr("cup"):
            raise OutputError(f"the terminal {term} cannot move its cursor; {_ADVICE}")
        self._window: curses.window | None = None
        self._styles: dict[str, int] = {"": curses.A_NORMAL, **_ATTRIBUTES}

    def open(self) -> None:
        """Take the screen."""
        # An escape sequence arrives at once, so the Escape key needs no long timeout.
        curses.set_escdelay(50)
        self._window = window = curses.initscr()
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        window.nodelay(True)
        with contextlib.suppress(curses.error):  # A cursor that cannot be hidden.
            curses.curs_set(0)
        if not os.environ.get("NO_COLOR"):
            self._add_colours()

    def close(self) -> None:
        """Restore the screen; a second call does nothing."""
        if self._window is not None:
            self._window = None
            curses.endwin()

    @property
    def size(self) -> tuple[int, int]:
        """Lines and columns, as they are now."""
        assert self._window is not None
        return self._window.getmaxyx()

    def draw(self, lines: Sequence[Line]) -> None:
        """Show a frame."""
        window = self._window
        assert window is not None
        window.erase()
        encoding = window.encoding
        for number, line in enumerate(lines):
            with contextlib.suppress(curses.error):  # There is no cell after the last one.
                window.move(number, 0)
                for text, style in line:
                    shown = text.encode(encoding, "replace").decode(encoding)
                    window.addstr(shown, self._styles.get(style, curses.A_NORMAL))
        window.refresh()

    def wait(self, seconds: float) -> None:
        """Wait for a key, at most ``seconds``."""
        select.select([0], [], [], seconds)

    def pressed(self) -> Iterator[str]:
        """Yield the keys pressed since the last call, by name or character."""
        while self._window is not None:
            try:
                key = self._window.get_wch()
            except curses.error:
                return
            if key == curses.KEY_RESIZE:
                # Text already on its way to the old window may be anywhere in the new one.
                self._window.clearok(True)
            name = _KEYS.get(key)
            if name == "redraw":
                self._window.clearok(True)
            elif name is not None:
                yield name
            elif isinstance(key, str) and (key.isprintable() or key == "\t"):
                yield key

    def _add_colours(self) -> None:
        with contextlib.suppress(curses.error):
            curses.start_color()
            curses.use_default_colors()
        if not curses.has_colors():
            return
        for number, (style, colour) in enumerate(_COLOURS.items(), 1):
            curses.init_pair(number, colour, -1)
            self._styles[style] = curses.color_pair(number) | _ATTRIBUTES.get(style, 0)


def keyboard_instead_of_input() -> int:
    """Replace standard input by the terminal; return a descriptor of the former input.

    Raises OutputError.
    """
    data = os.dup(0)
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError as error:
        raise OutputError(f"top needs a terminal: /dev/tty: {error.strerror}; {_ADVICE}") from error
    os.dup2(terminal, 0)
    os.close(terminal)
    return data
