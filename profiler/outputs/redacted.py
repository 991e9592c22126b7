# SPDX-License-Identifier: Apache-2.0
"""A sink before another: what that one gets has no secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.exchanges.redact import Redactor
from profiler.outputs import Sink

if TYPE_CHECKING:
    from profiler.schema import Record


class Redacted:
    """Hands each record on as a copy without its secrets."""

    def __init__(self, sink: Sink, redactor: Redactor) -> None:
        self._sink = sink
        self._redactor = redactor

    def write(self, record: Record) -> None:
        """Take one record."""
        self._sink.write(self._redactor.record(record))

    def flush(self) -> None:
        """Hand everything on."""
        self._sink.flush()

    def close(self) -> None:
        """Flush and release."""
        self._sink.close()
