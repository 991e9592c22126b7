# SPDX-License-Identifier: Apache-2.0
"""The findings of `python -m packages.prose`, and what it ignores."""

from pathlib import Path

import pytest

from packages import prose

RULES = {
    "longest_sentence": 8,
    "average_sentence": 6,
    "rules": [{"pattern": r"\bgoes on\b", "instead": "continues"}],
}


def found(name: str, text: str) -> list[tuple[int, str]]:
    return [tuple(one) for one in prose.check(Path(name), text, RULES)]


def test_a_phrase_over_two_lines_of_markdown() -> None:
    text = "# A page\n\nIt stops, then it goes\non.\n"
    assert found("a.md", text) == [(3, "'goes on': continues")]


def test_a_phrase_in_a_docstring_and_in_a_comment_but_not_in_code() -> None:
    text = '"""It goes on."""\nx = "it goes on"\n# it goes\n# on\ny = 1  # `goes on`\n'
    assert found("a.py", text) == [(1, "'goes on': continues"), (3, "'goes on': continues")]


def test_a_long_sentence_has_its_line() -> None:
    text = "Short enough.\n\nOne two three. One two three four five six seven eight nine.\n"
    assert found("a.md", text) == [(3, "a sentence of 9 words: 'One two three four five six' ...")]


def test_the_average_of_a_page() -> None:
    text = "One two three four five six seven. One two three four five six seven.\n"
    assert found("a.md", text) == [(1, "7.0 words in an average sentence")]


@pytest.mark.parametrize(
    "skipped",
    [
        "```sh\none two three four five six seven eight nine goes on\n```\n",
        "| one two three four five six seven eight nine goes on |\n",
        "<!-- one two three four five six seven eight nine goes on -->\n",
        "`one two three four five six seven eight nine goes on`\n",
        "[one](http://two.example/three/goes%20on)\n",
    ],
)
def test_what_is_not_prose_is_skipped(skipped: str) -> None:
    assert found("a.md", skipped) == []


def test_items_of_a_list_are_sentences_of_their_own() -> None:
    text = "- one two three four five\n- one two three four five\n"
    assert found("a.md", text) == []


def test_another_kind_of_file_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        prose.main(["docs"])
    assert end.value.code == 2
    assert "docs is neither Markdown nor Python" in capsys.readouterr().err


def test_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("It goes on.\n")
    assert prose.main([str(page)]) == 1
    assert capsys.readouterr().out.startswith(f"{page}:1: 'goes on':")
    page.write_text("It continues.\n")
    assert prose.main([str(page)]) == 0
