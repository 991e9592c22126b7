# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema (2020-12) of JSON values as far as they were seen.

Invariant: every value that was added is valid for the schema. What is left out for a bound, or
unknown because redaction replaced it, is not constrained. The schema has names of properties, but
no value; names that look like ids are data, and become ``additionalProperties``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Any

from profiler.exchanges.endpoint import is_id
from profiler.exchanges.redact import is_placeholder

DEPTH_MAX = 10
PROPERTIES_MAX = 100
"""Properties of one object; an object with more is a map, whose names are data."""
NODES_MAX = 50_000
"""Schemas of one inventory, with those in them."""

_NAME_MAX = 100
# RFC 3339, 5.6, without leap seconds, which few readers accept.
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    r"[Tt ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


@dataclass
class Limit:
    """The nodes that the schemas of one inventory may still get."""

    nodes: int = NODES_MAX
    left_out: int = 0
    """Values that were not described for lack of nodes, or because they were too deep."""

    def takes(self, depth: int) -> bool:
        """Take a node, if there is one for this depth."""
        if self.nodes <= 0 or depth > DEPTH_MAX:
            self.left_out += 1
            return False
        self.nodes -= 1
        return True


class BodySchema:
    """What the JSON values at one place have in common."""

    __slots__ = (
        "_additional", "_formats", "_is_any", "_is_map", "_is_open", "_items", "_objects",
        "_properties", "_seen", "_types",
    )  # fmt: skip

    def __init__(self) -> None:
        self._seen = self._objects = 0
        self._types: set[str] = set()
        self._is_any = False
        self._formats: set[str | None] = set()
        self._items: BodySchema | None = None
        self._properties: dict[str, BodySchema] = {}
        self._additional: BodySchema | None = None
        # Whether all names are data; whether some properties are not described.
        self._is_map = self._is_open = False

    def add(self, value: object, limit: Limit, depth: int = 0) -> None:
        """Extend the schema, so that a value as ``json.loads`` returns it is valid."""
        self._seen += 1
        if value is None:
            self._types.add("null")
        elif isinstance(value, bool):
            self._types.add("boolean")
        elif isinstance(value, int):
            self._types.add("integer")
        elif isinstance(value, float):
            self._types.add("number")
        elif isinstance(value, str):
            self._add_text(value)
        elif isinstance(value, list):
            self._types.add("array")
            for item in value:
                if self._items is None:
                    if not limit.takes(depth + 1):
                        break
                    self._items = BodySchema()
                self._items.add(item, limit, depth + 1)
        elif isinstance(value, dict):
            self._types.add("object")
            self._objects += 1
            for name, member in value.items():
                self._add_member(name, member, limit, depth + 1)

    def _add_text(self, text: str) -> None:
        if is_placeholder(text):
            # Its type was redacted too.
            self._is_any = True
            return
        self._types.add("string")
        self._formats.add(_format(text))

    def _add_member(self, name: str, value: object, limit: Limit, depth: int) -> None:
        child = self._properties.get(name)
        if child is None and (self._is_map or len(name) > _NAME_MAX or is_id(name)):
            child = self._additional
        if child is None:
            if not limit.takes(depth):
                self._is_open = True
                return
            child = BodySchema()
            if self._is_map or len(name) > _NAME_MAX or is_id(name):
                self._additional = child
            else:
                self._properties[name] = child
        child.add(value, limit, depth)
        if len(self._properties) > PROPERTIES_MAX:
            self._become_map()

    def _become_map(self) -> None:
        self._is_map = True
        for child in self._properties.values():
            self._additional = child._merged(self._additional)
        self._properties = {}

    def _merged(self, other: BodySchema | None) -> BodySchema:
        """Return a schema for the values of both; neither may be used afterwards."""
        if other is None:
            return self
        self._seen += other._seen
        self._objects += other._objects
        self._types |= other._types
        self._formats |= other._formats
        self._is_any |= other._is_any
        self._is_open |= other._is_open
        if other._items is not None:
            self._items = other._items._merged(self._items)
        if other._additional is not None:
            self._additional = other._additional._merged(self._additional)
        for name, child in other._properties.items():
            self._properties[name] = child._merged(self._properties.get(name))
        if self._is_map or other._is_map or len(self._properties) > PROPERTIES_MAX:
            self._become_map()
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the schema; ``{}`` if nothing is known. Required is what all objects have."""
        if self._is_any or not self._types:
            return {}
        # An integer is a number.
        types = sorted(self._types - ({"integer"} if "number" in self._types else set()))
        found: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
        if len(self._formats) == 1 and None not in self._formats:
            found["format"] = next(iter(self._formats))
        if self._items is not None:
            found["items"] = self._items.to_json()
        if self._properties:
            found["properties"] = {
                name: child.to_json() for name, child in sorted(self._properties.items())
            }
        required = [
            name for name, child in self._properties.items() if child._seen == self._objects
        ]
        if required:
            found["required"] = sorted(required)
        if self._additional is not None and not self._is_open:
            found["additionalProperties"] = self._additional.to_json()
        return found


def _format(text: str) -> str | None:
    """Return the format that a text surely has (JSON Schema Validation 2020-12, 7.3)."""
    if _UUID.fullmatch(text):
        return "uuid"
    if not _DATE.fullmatch(text[:10]):
        return None
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return None
    if len(text) == 10:
        return "date"
    return "date-time" if _TIME.fullmatch(text, 10) else None
