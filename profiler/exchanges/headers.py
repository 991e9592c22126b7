# SPDX-License-Identifier: Apache-2.0
"""Headers of a record, by their names in lower case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.schema import Record


def values(record: Record, name: str) -> Iterator[str]:
    """Yield the values of a header, and of a trailer, of that name in lower case."""
    for fields in (record.get("headers"), record.get("trailers")):
        value = fields.get(name) if fields else None
        if value is not None:
            yield from value if isinstance(value, list) else (value,)


def header(record: Record, name: str) -> str | None:
    """Return the first value of a header, by its name in lower case; ``None`` without one."""
    value = record.get("headers", {}).get(name)
    return next(iter(value), None) if isinstance(value, list) else value
