# SPDX-License-Identifier: Apache-2.0
"""A sink that redacts records before it passes them to another sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.exchanges.redact import Redactor
from profiler.outputs import Sink

if TYPE_CHECKING:
    from profiler.privileges.helper import Helper
    from profiler.schema import Record


class Redacted:
    """Passes on each record as a redacted copy."""

    def __init__(self, sink: Sink, redactor: Redactor) -> None:
        self.sink = sink
        self.redactor = redactor

    def share(self, helper: Helper) -> None:
        """Share the other sink."""
        self.sink.share(helper)

    def write(self, record: Record) -> None:
        """Take one record."""
        self.sink.write(self.redactor.record(record))

    def flush(self) -> None:
        """Flush the other sink."""
        self.sink.flush()

    def close(self) -> None:
        """Close the other sink."""
        self.sink.close()
