# SPDX-License-Identifier: Apache-2.0
"""The schema of JSON bodies: every body that was seen is valid, whatever the bounds are."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from profiler.exchanges import body_schema
from profiler.exchanges.body_schema import BodySchema, Limit

PLACEHOLDER = "redacted-0123456789abcdef"
# Few names, so that objects share some, and ids.
NAMES = st.sampled_from(["a", "b", "name", "17", "u-4711", "x" * 120, ""]) | st.text(
    string.ascii_letters, min_size=1, max_size=2
)
TEXTS = st.sampled_from(["", "2026-01-01", "2026-01-01T10:00:00Z", PLACEHOLDER]) | st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS | st.uuids().map(str) | st.dates().map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
)  # fmt: skip


def schema_of(*values: object, limit: Limit | None = None) -> dict[str, Any]:
    schema = BodySchema()
    limit = limit or Limit()
    for value in values:
        schema.add(value, limit)
    found = schema.to_json()
    Draft202012Validator.check_schema(found)
    return found


def check_valid(schema: dict[str, Any], *values: object) -> None:
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for value in values:
        validator.validate(value)


@given(st.lists(VALUES, max_size=6))
def test_every_value_is_valid(values: list[Any]) -> None:
    check_valid(schema_of(*values), *values)


@given(st.lists(VALUES, max_size=8), st.integers(0, 12), st.integers(0, 3), st.integers(0, 3))
def test_every_value_is_valid_within_any_bounds(
    values: list[Any], nodes: int, depth: int, properties: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_schema, "DEPTH_MAX", depth)
        patch.setattr(body_schema, "PROPERTIES_MAX", properties)
        schema = schema_of(*values, limit=Limit(nodes))
        check_valid(schema, *values)
        assert count(schema) <= nodes + 1
        assert deepest(schema) <= depth


@given(st.lists(VALUES, max_size=6))
def test_the_order_does_not_matter(values: list[Any]) -> None:
    assert schema_of(*values) == schema_of(*reversed(values))


def inner(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [*schema.get("properties", {}).values()]
    return found + [schema[name] for name in ("items", "additionalProperties") if name in schema]


def count(schema: dict[str, Any]) -> int:
    return 1 + sum(map(count, inner(schema)))


def deepest(schema: dict[str, Any]) -> int:
    return max((1 + deepest(one) for one in inner(schema)), default=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], {}),
        ([True], {"type": "boolean"}),
        ([1, 2], {"type": "integer"}),
        ([1, 2.5], {"type": "number"}),
        ([1, None], {"type": ["integer", "null"]}),
        ([[]], {"type": "array"}),
        ([[1], ["a"]], {"type": "array", "items": {"type": ["integer", "string"]}}),
        ([PLACEHOLDER], {}),
        ([f"Bearer {PLACEHOLDER}"], {"type": "string"}),
        (
            [{"a": 1, "b": "x"}, {"a": 2}],
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
                "required": ["a"],
            },
        ),
        (
            [{"17": 1, "name": "x"}, {"18": 2.5, "name": "y"}],
            {
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
                "additionalProperties": {"type": "number"},
            },
        ),
    ],
    ids=json.dumps,
)
def test_schemas(values: list[object], expected: dict[str, Any]) -> None:
    assert schema_of(*values) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2024-02-29"], "date"),
        (["2023-02-29"], None),
        (["2024-02-29T10:00:00Z", "2024-02-29T10:00:00.5+02:00"], "date-time"),
        (["2024-02-29T10:00:00"], None),
        (["2024-02-29T25:00:00Z"], None),
        (["2024-02-29", "2024-02-29T10:00:00Z"], None),
        (["2024-02-29", "soon"], None),
        (["550e8400-e29b-41d4-a716-446655440000"], "uuid"),
        (["550e8400-e29b-41d4-a716-44665544000g"], None),
        (["٢٠٢٤-02-29"], None),
    ],
)
def test_formats_are_given_only_if_all_have_them(texts: list[str], expected: str | None) -> None:
    assert schema_of(*texts).get("format") == expected


def test_an_object_with_many_names_is_a_map() -> None:
    letters = [f"{one}{two}" for one in string.ascii_lowercase for two in string.ascii_lowercase]
    value = {name: {"size": 1} for name in letters[:120]}
    schema = schema_of(value, {"zz": {"size": None}})
    assert schema == {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {"size": {"type": ["integer", "null"]}},
            "required": ["size"],
        },
    }


def test_the_values_of_a_map_share_a_schema() -> None:
    names = [f"{one}{two}" for one in string.ascii_lowercase for two in string.ascii_lowercase]
    # Each name has one kind of value: a date, an array of integers, or one of objects.
    kinds: list[Any] = ["2026-01-01", [1], [{"a": 1}], "soon"]
    # The last of them makes it a map.
    value = {name: kinds[number % 4] for number, name in enumerate(names[:101])}
    schema = schema_of(value)
    assert schema["additionalProperties"] == {
        "type": ["array", "string"],
        "items": {
            "type": ["integer", "object"],
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
        },
    }
    check_valid(schema, value)


def test_what_exceeds_a_bound_is_counted() -> None:
    limit = Limit(2)
    assert schema_of({"a": 1, "b": 2, "c": 3, "d": 4}, limit=limit)["properties"].keys() == {
        "a",
        "b",
    }
    assert limit.left_out == 2
