# SPDX-License-Identifier: Apache-2.0
"""Where records go: each sink takes records and writes one form of output."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from profiler.privileges.helper import Helper
    from profiler.schema import Record


class Rotation(NamedTuple):
    """When a file is renamed to ``PATH.1``, and how many old files are kept.

    A file has at most ``max_size`` bytes, unless a single line is longer. ``files`` old ones are
    kept; ``PATH.1`` is the newest.
    """

    max_size: int
    files: int


class Sink(Protocol):
    """What the pipeline requires of a sink. Raises :class:`~profiler.errors.OutputError`."""

    def share(self, helper: Helper) -> None:
        """Offer ``helper`` what needs privileges: this process will lose its own."""

    def write(self, record: Record) -> None:
        """Take one record; it may be held back until :meth:`flush`."""

    def flush(self) -> None:
        """Write everything: the pipeline calls this whenever it has caught up."""

    def close(self) -> None:
        """Flush, and release resources."""
