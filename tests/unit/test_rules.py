# SPDX-License-Identifier: Apache-2.0
"""The table of rules in ``tests/cases/README.md`` names cases and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit import test_http1

FOLDER = Path(__file__).parents[1] / "cases"
README = (FOLDER / "README.md").read_text()


def test_each_rule_has_a_case_that_keeps_it_and_one_that_breaks_it() -> None:
    rows = re.findall(r"^\| (9\d{3}, .*?) \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    assert len(rows) > 20
    known = {*test_http1.CASES, *test_http1.LOOK_ALIKES, *vars(test_http1)}
    for rule, kept, broken in rows:
        for cell in (kept, broken):
            folders = re.findall(r"`([^`]+)`", re.sub(r"\(.*?\)", "", cell))
            tests = re.findall(r'"([^"]+)"', cell)
            assert folders or tests, rule
            assert [name for name in folders if not (FOLDER / name).is_dir()] == [], rule
            assert [name for name in tests if name not in known] == [], rule
