# SPDX-License-Identifier: Apache-2.0
"""The query language in Python; ``tests/browser/test_query.py`` runs the same cases in Chromium."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from profiler.exchanges.pair import Exchanges
from profiler.exchanges.query import ConditionError, matches, parse, parse_search
from profiler.exchanges.read import read

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

QUERIES = Path(__file__).parents[1] / "queries"
CASES = tomllib.loads((QUERIES / "cases.toml").read_text())
EXCHANGES = list(Exchanges(read(QUERIES / "capture.jsonl")))


def cases(kind: str) -> Any:
    return pytest.mark.parametrize("case", CASES[kind], ids=lambda case: case["query"])


def rows(condition: Any) -> list[int]:
    return [row for row, exchange in enumerate(EXCHANGES) if matches(condition, exchange)]


@cases("match")
def test_matches(case: dict[str, Any]) -> None:
    assert rows(parse(case["query"])) == case["rows"]


@cases("search")
def test_searches(case: dict[str, Any]) -> None:
    assert rows(parse_search(case["query"])) == case["rows"]


@cases("error")
def test_syntax_errors(case: dict[str, Any]) -> None:
    with pytest.raises(ConditionError) as error:
        parse(case["query"])
    assert (error.value.column, error.value.what) == (case["column"], case["message"])


@cases("search_error")
def test_syntax_errors_of_searches(case: dict[str, Any]) -> None:
    with pytest.raises(ConditionError) as error:
        parse_search(case["query"])
    assert (error.value.column, error.value.what) == (case["column"], case["message"])


@pytest.mark.parametrize("text", ["", " \t\n"])
def test_a_blank_search_has_no_condition(text: str) -> None:
    assert parse_search(text) is None


def test_an_error_shows_200_characters_of_the_condition() -> None:
    for text, shown in (("x" * 200, "x" * 200), ("x" * 201, "x" * 200 + "…")):
        with pytest.raises(ConditionError) as error:
            parse(text)
        assert str(error.value).startswith(f"{shown!r}, column 1: ")


def test_only_a_search_proposes_quotes() -> None:
    with pytest.raises(ConditionError) as error:
        parse("q=cart")
    assert error.value.what.startswith("'q' is not a field: fields are status, ")


def test_the_limit_is_on_nesting_not_on_length() -> None:
    long = " or ".join(["failed"] * 60)
    assert rows(parse(long)) == rows(parse("failed"))
    for deep, is_accepted in (
        ("(" * 49 + "failed" + ")" * 49, True),
        ("not " * 50 + "failed", False),
    ):
        text = f"{long} or {deep}"
        if is_accepted:
            parse(text)
        else:
            with pytest.raises(ConditionError, match="50 deep"):
                parse(text)
