# SPDX-License-Identifier: Apache-2.0
"""One readable line per exchange: time, process, method, URL, status, size, latency.

On a terminal, lines fit its width and, unless ``NO_COLOR`` is set, have colours; elsewhere they
have neither. An exchange between two processes of one machine is one line (``exchanges/pair.py``).
A request that waits for more than five seconds also gets a line, with the status ``wait``; a
request without a response has ``none``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.exchanges.pair import Paired, Pairing
from profiler.exchanges.redact import Redactor
from profiler.exchanges.summary import Summary, summary
from profiler.exchanges.text import visible
from profiler.outputs import Rotation
from profiler.outputs.jsonl import Lines
from profiler.outputs.terminal import (
    Column,
    encoded,
    fit,
    has_colours,
    pad,
    size_text,
    time_text,
    width_of,
)

if TYPE_CHECKING:
    from profiler.privileges.helper import Helper
    from profiler.schema import Record

_COLUMNS = (
    Column("time", 12, 3),
    Column("process", 22, 1),
    Column("method", 7),
    Column("url", 0),
    Column("status", 4, right=True),
    Column("size", 8, 2, right=True),
    Column("latency", 8, 0, right=True),
)
_RESET = "\x1b[0m"
_STYLES = {
    "dim": "\x1b[2m",
    "bold": "\x1b[1m",
    "good": "\x1b[32m",
    "moved": "\x1b[36m",
    "refused": "\x1b[33m",
    "failed": "\x1b[1;31m",
    "lost": "\x1b[35m",
}
_SLOW_MS = 1000.0
# For output that is not a terminal.
_URL_LEAST = 40


class Pretty:
    """Writes readable lines to ``path`` or standard output. Raises OutputError."""

    def __init__(
        self,
        path: Path | None,
        redactor: Redactor | None,
        clock: Callable[[], int] | None = None,
        rotation: Rotation | None = None,
    ) -> None:
        """``clock`` returns nanoseconds since 1970; without one, records give the time."""
        self._lines = Lines(path, rotation=rotation)
        self._redactor = redactor
        self._clock = clock
        self._pairing = Pairing(max_body=0)
        self._has_colours = has_colours(self._lines.fd)
        self._width = width_of(self._lines.fd)

    def share(self, helper: Helper) -> None:
        """Share the file."""
        self._lines.share(helper)

    def write(self, record: Record) -> None:
        """Take one record."""
        self._add(self._pairing.add(record))

    def flush(self) -> None:
        """Write exchanges that are over, and requests that have waited long."""
        if self._clock is not None:
            self._add(self._pairing.expire(self._clock()))
        self._lines.flush()
        # The window may have been resized.
        self._width = width_of(self._lines.fd)

    def close(self) -> None:
        """Write what is still open, and close."""
        try:
            self._add(self._pairing.finish())
        finally:
            self._lines.close()

    def _add(self, found: list[Paired]) -> None:
        for one in found:
            text = self._line(summary(one, self._redactor))
            self._lines.add(encoded(text) + b"\n")

    def _line(self, seen: Summary) -> str:
        fields = {
            "time": (seen.clock, "dim"),
            "process": (seen.process, ""),
            "method": (seen.method, "bold"),
            "status": (seen.status_text, style_of(seen)),
            "size": ("" if seen.size is None else size_text(seen.size), ""),
            "latency": (
                "" if seen.latency is None else time_text(seen.latency),
                "failed" if (seen.latency or 0) >= _SLOW_MS else "",
            ),
        }
        notes = visible(f"! {', '.join(seen.notes)}" if seen.notes else "")
        if self._width is None:
            columns = [(column, column.width) for column in _COLUMNS]
        else:
            columns = fit(_COLUMNS, self._width)
        parts = []
        for column, width in columns:
            if column.name == "url":
                parts += self._url(visible(seen.url), notes, width)
            else:
                text, style = fields[column.name]
                parts.append(self._styled(pad(visible(text), width, column.right), style))
        return " ".join(parts).rstrip(" ")

    def _url(self, url: str, notes: str, width: int) -> list[str]:
        if not width:
            url = url.ljust(_URL_LEAST)
            return [url, notes] if notes else [url]
        if not notes:
            return [pad(url, width)]
        # Notes on missing data matter more than the end of a long URL.
        room = min(len(notes), width // 2)
        return [pad(url, width - room - 1), self._styled(pad(notes, room), "lost")]

    def _styled(self, text: str, style: str) -> str:
        return f"{_STYLES[style]}{text}{_RESET}" if style and self._has_colours else text


def style_of(seen: Summary) -> str:
    """Return the style of an exchange's status."""
    if seen.outcome == "failed":
        return "failed"
    return {2: "good", 3: "moved", 4: "refused"}.get((seen.status or 0) // 100, "lost")
