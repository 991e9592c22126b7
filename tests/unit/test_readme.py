# SPDX-License-Identifier: Apache-2.0
"""The pages that a newcomer meets first: their size, their links and their outputs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import console

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text("utf-8")
FILES = "https://github.com/http-profiler/http-profiler/blob/main/"
PICTURES = "https://raw.githubusercontent.com/http-profiler/http-profiler/main/"
COMPARISON = REPOSITORY / "docs" / "explanation" / "comparison.md"


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 900


def test_what_it_sees_stands_in_the_first_ten_lines() -> None:
    beginning = README.splitlines()[:10]
    assert any("It does not see" in line for line in beginning)


@pytest.mark.parametrize("address", re.findall(r"\]\(([^)]+)\)", README))
def test_a_link_of_the_readme_works_on_a_package_index_too(address: str) -> None:
    path = address.removeprefix(FILES).removeprefix(PICTURES)
    assert path != address, "it must be absolute"
    assert (REPOSITORY / path).is_file()


def test_the_rows_of_the_readme_are_those_of_the_comparison() -> None:
    rows, whole = (table(text) for text in (README, COMPARISON.read_text("utf-8")))
    assert len(rows) == 6
    for name, cells in rows.items():
        assert cells.items() <= whole[name].items()


def table(text: str) -> dict[str, dict[str, str]]:
    """Return the cells of the first table, by the names of its rows and columns."""
    lines = re.findall(r"^\| (.*) \|$", text.replace("| |", "|  |"), re.MULTILINE)
    (_, *columns), _, *rows = ([cell.strip() for cell in line.split("|")] for line in lines)
    return {name: dict(zip(columns, cells)) for name, *cells in rows}


@pytest.mark.parametrize("path", console.DOCUMENTS, ids=lambda path: path.name)
def test_an_output_in_a_document_is_what_the_command_prints(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text == console.renewed(text), "to renew it: python -m tests.console"


def test_the_first_part_of_the_tutorial_has_outputs() -> None:
    first, _, _ = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8").partition("\n## Capture")
    assert first.count("```console\n$ v/bin/http-profiler ") > 3
