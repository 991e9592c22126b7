# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.exchanges.text import visible
from profiler.outputs.terminal import (
    Column,
    cells,
    clip,
    fit,
    pad,
    size_text,
    time_text,
    wrap,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /a?b=1", "GET /a?b=1"),
        ("é 日本", "é 日本"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\x9b31m", "⟨U+009B⟩31m"),
        ("a\r\n\0", "a⟨U+000D⟩⟨U+000A⟩⟨U+0000⟩"),
        ("\u202egnp.exe\u2066", "⟨U+202E⟩gnp.exe⟨U+2066⟩"),
        ("a\u200bb\ufeff\xad", "a⟨U+200B⟩b⟨U+FEFF⟩⟨U+00AD⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("e\u0301", "e\u0301"),
        ("e" + "\u0301" * 6, "e" + "\u0301" * 4 + "⟨U+0301⟩⟨U+0301⟩"),
    ],
)
def test_control_and_hidden_characters_are_shown_as_numbers(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_nothing_acts_on_a_terminal(text: str) -> None:
    for character in visible(text):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp"), text
        assert unicodedata.bidirectional(character) not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        ), text  # fmt: skip


@given(st.text(), st.integers(0, 30))
def test_a_text_is_cut_to_its_cells(text: str, width: int) -> None:
    text = visible(text)
    assert cells(clip(text, width)) <= width
    assert cells(pad(text, width)) == width
    if cells(text) <= width:
        assert clip(text, width) == text


@given(st.text(), st.integers(2, 30))
def test_a_text_is_wrapped_whole(text: str, width: int) -> None:
    text = visible(text)
    assert "".join(wrap(text, width)) == text
    assert all(cells(piece) <= width for piece in wrap(text, width))


def test_wide_characters_take_two_cells() -> None:
    assert cells("日本") == 4
    assert clip("日本語", 5) == "日本…"
    assert pad("日本語", 4) == "日… "
    assert pad("x", 3, right=True) == "  x"


def test_columns_go_in_the_order_of_their_rank() -> None:
    columns = (Column("a", 10, 2), Column("b", 10), Column("c", 0), Column("d", 10, 1))
    assert [(c.name, width) for c, width in fit(columns, 60)] == [
        ("a", 10), ("b", 10), ("c", 27), ("d", 10)
    ]  # fmt: skip
    assert [c.name for c, _ in fit(columns, 50)] == ["b", "c", "d"]
    assert [c.name for c, _ in fit(columns, 40)] == ["b", "c"]
    assert [(c.name, width) for c, width in fit(columns, 3)] == [("b", 10), ("c", 1)]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123456, "123 kB"), (999999, "1.0 MB"),
     (5e12, "5.0 TB")],
)  # fmt: skip
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [(0.004, "0.00 ms"), (9.9, "9.90 ms"), (12.34, "12.3 ms"), (438, "438 ms"), (1250, "1.2 s"),
     (240000, "240 s")],
)  # fmt: skip
def test_times(time: float, text: str) -> None:
    assert time_text(time) == text
