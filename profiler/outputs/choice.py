"""Which sink: by the settings, and by whether somebody looks on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from profiler.exchanges.redact import Redactor
from profiler.ingest.settings import Settings
from profiler.outputs import Sink
from profiler.outputs.jsonl import JsonLines
from profiler.outputs.redacted import Redacted

_STDOUT = 1


class Choice(NamedTuple):
    """A sink, and who hides secrets on the way to it; ``None`` if nobody does."""

    sink: Sink
    redactor: Redactor | None


def choose(settings: Settings, clock: Callable[[], int] | None = None) -> Choice:
    """Open the sink that the settings ask for. Raises OutputError.

    Without a format: lines for people on a terminal, else JSON. Without a word about
    secrets: they are hidden from who looks on; JSON lines hold the complete payload.
    """
    form = settings.format
    if form is None:
        form = "pretty" if settings.output is None and os.isatty(_STDOUT) else "jsonl"
    hides = form == "pretty" if settings.redact is None else settings.redact
    redactor = Redactor() if hides else None
    if form == "pretty":
        # What pairs messages and paints them is not loaded for lines of JSON.
        from profiler.outputs.pretty import Pretty

        return Choice(Pretty(settings.output, redactor, clock), redactor)
    lines = JsonLines(settings.output)
    return Choice(Redacted(lines, redactor) if redactor else lines, redactor)
