# SPDX-License-Identifier: Apache-2.0
"""Which sink: by the options, and by whether standard output is a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from profiler.exchanges.redact import Redactor
from profiler.outputs import Sink
from profiler.outputs.jsonl import JsonLines
from profiler.outputs.redacted import Redacted

_STDOUT = 1


class Choice(NamedTuple):
    """A sink, and who hides secrets on the way to it; ``None`` if nobody does."""

    sink: Sink
    redactor: Redactor | None


def choose(
    path: Path | None,
    form: str | None,
    redact: bool | None,
    clock: Callable[[], int] | None = None,
) -> Choice:
    """Open the sink for ``path``; ``None`` is standard output. Raises OutputError.

    ``form`` is ``pretty`` or ``jsonl``; ``None``: lines for people on a terminal, else JSON.
    ``redact`` says whether secrets are hidden; ``None``: they are in lines for people, while JSON
    lines hold the complete payload.
    """
    if form is None:
        form = "pretty" if path is None and os.isatty(_STDOUT) else "jsonl"
    hides = form == "pretty" if redact is None else redact
    redactor = Redactor() if hides else None
    if form == "pretty":
        # What pairs messages and paints them is not loaded for lines of JSON.
        from profiler.outputs.pretty import Pretty

        return Choice(Pretty(path, redactor, clock), redactor)
    lines = JsonLines(path)
    return Choice(Redacted(lines, redactor) if redactor else lines, redactor)
