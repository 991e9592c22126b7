# SPDX-License-Identifier: Apache-2.0
"""Chooses the sink, by the options and by whether standard output is a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from profiler.exchanges.redact import Redactor
from profiler.outputs import Rotation, Sink
from profiler.outputs.jsonl import JsonLines
from profiler.outputs.redacted import Redacted

_STDOUT = 1


class Choice(NamedTuple):
    """A sink, and the redactor before it; ``None``: nothing is redacted."""

    sink: Sink
    redactor: Redactor | None


def choose(
    path: Path | None,
    form: str | None,
    redact: bool | None,
    clock: Callable[[], int] | None = None,
    rotation: Rotation | None = None,
) -> Choice:
    """Open the sink for ``path``; ``None`` is standard output. Raises OutputError.

    ``form`` is ``pretty`` or ``jsonl``; ``None``: ``pretty`` on a terminal, else ``jsonl``.
    ``redact``: whether secrets are hidden; ``None``: only in ``pretty`` lines, while JSON lines
    have the complete payload. ``rotation`` applies if ``path`` is a regular file.
    """
    if form is None:
        form = "pretty" if path is None and os.isatty(_STDOUT) else "jsonl"
    hides = form == "pretty" if redact is None else redact
    redactor = Redactor() if hides else None
    if form == "pretty":
        # JSON lines need neither pairing nor colours, so these modules are not loaded for them.
        from profiler.outputs.pretty import Pretty

        return Choice(Pretty(path, redactor, clock, rotation), redactor)
    lines = JsonLines(path, rotation=rotation)
    return Choice(Redacted(lines, redactor) if redactor else lines, redactor)
