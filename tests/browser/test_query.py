# SPDX-License-Identifier: Apache-2.0
"""The query language in JavaScript; ``tests/unit/test_query.py`` runs the same cases in Python."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Browser
from tests.unit.test_query import QUERIES, cases

Run = Callable[[str, str], Any]

SCRIPTS = ("elements.js", "data.js", "values.js", "fields.js", "query.js")
# Defines what the tests call, and what the report's capture is.
DEFINE = """
const done = arguments[0];
%s
const functions = { parse, parseSearch };
window.run = async (name, text) => {
  try {
    const found = await capture.find(functions[name](text), () => {}, () => false);
    return [...capture.everyRow].filter((row) => found[row]);
  } catch (error) {
    if (error instanceof ConditionError) return [error.column, error.message];
    throw error;
  }
};
let capture;
Capture.read().then((read) => { capture = read; done(capture.count); });
"""


@pytest.fixture(scope="module")
def run(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory, report: Callable[..., Path]
) -> Run:
    """Call functions of the page's scripts, which the page keeps to itself, by the debugger."""
    capture = tmp_path_factory.mktemp("queries") / "capture.jsonl"
    shutil.copy(QUERIES / "capture.jsonl", capture)
    chromium.open(report(capture, "--no-redact"))
    page = files("profiler.outputs.report") / "page"
    scripts = "".join((page / name).read_text("utf-8") for name in SCRIPTS)
    assert chromium.driver.execute_async_script(DEFINE % scripts) == 10
    return lambda name, text: chromium.run("run(arguments[0], arguments[1])", name, text)


@cases("match")
def test_what_matches(run: Run, case: dict[str, Any]) -> None:
    assert run("parse", case["query"]) == case["rows"]


@cases("search")
def test_what_a_search_finds(run: Run, case: dict[str, Any]) -> None:
    assert run("parseSearch", case["query"]) == case["rows"]


@cases("error")
def test_what_is_not_understood(run: Run, case: dict[str, Any]) -> None:
    assert run("parse", case["query"]) == [case["column"], case["message"]]


@cases("search_error")
def test_what_a_search_does_not_understand(run: Run, case: dict[str, Any]) -> None:
    assert run("parseSearch", case["query"]) == [case["column"], case["message"]]
