# SPDX-License-Identifier: Apache-2.0
"""Headers of a record, by lower-case name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.schema import Record


def values(record: Record, name: str) -> Iterator[str]:
    """Yield the values of a header or trailer, by its lower-case name."""
    for fields in (record.get("headers"), record.get("trailers")):
        value = fields.get(name) if fields else None
        if value is not None:
            yield from value if isinstance(value, list) else (value,)


def header(record: Record, name: str) -> str | None:
    """Return the first value of a header, by its lower-case name; ``None`` if it is absent."""
    value = record.get("headers", {}).get(name)
    return next(iter(value), None) if isinstance(value, list) else value
