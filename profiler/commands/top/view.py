# SPDX-License-Identifier: Apache-2.0
"""What the screen shows and what each key does, without a terminal.

There are three levels: groups, the exchanges of one group, and one exchange. While paused, the view
shows a copy of the model, and the model keeps counting.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Union

from profiler.commands.top import tables
from profiler.commands.top.detail import detail
from profiler.commands.top.lines import Line, Shown, Span, heading, line_of
from profiler.commands.top.model import KINDS, Entry, Group, Model
from profiler.exchanges.query import Condition, ConditionError, Every, Word, matches, parse_search
from profiler.exchanges.text import visible
from profiler.outputs.terminal import cells, clip, pad

_HELP = {
    "groups": "↑↓ move  Enter exchanges  Tab by  <> sort  r reverse  / filter  p pause  c clear  "
    "q quit",
    "exchanges": "↑↓ move  Enter headers and body  Esc back  <> sort  r reverse  / filter  p pause"
    "  q quit",
    "detail": "↑↓ PgUp PgDn Home End scroll  Esc back  q quit",
}
_FILTER_MAX = 200
_LAST = 1 << 30

_Row = Union[Group, Entry]


class _Table:
    """How a table is sorted, filtered and scrolled."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.falls = True
        self.filter = ""
        self.condition: Condition | None = None
        """The parsed ``filter``; while that is invalid, the last valid one."""
        self.error = ""
        self.selected: object = None
        """The key of the row under the cursor; ``None``: always the first row."""
        self.top = 0

    def search(self, text: str) -> None:
        """Apply a filter as typed so far."""
        self.filter = text
        try:
            self.condition, self.error = parse_search(text), ""
        except ConditionError as error:
            self.error = f"column {error.column}: {error.what}"


class View:
    """The state of the screen."""

    def __init__(self, model: Model, source: str = "") -> None:
        """``source`` describes where the exchanges come from."""
        self.source = source
        self.lost = ""
        """A description of what is missing."""
        self._model = model
        self._paused: Model | None = None
        self._kind = KINDS[0]
        self._tables = {"groups": _Table("requests"), "exchanges": _Table("time")}
        self._group: object = None
        """The key of the group whose exchanges are shown."""
        self._entry: Entry | None = None
        self._scroll = 0
        self._types = False
        self._height = 1

    def frame(self, height: int, width: int) -> list[Line]:
        """Return the lines of a screen: ``height`` of at most ``width`` cells."""
        self._height = max(height - 3, 0)
        level = self._level
        if level == "detail":
            lines = self._detail(self._height, width)
        else:
            lines = self._list(self._height, width)
        blank: list[Line] = [[] for _ in range(self._height - len(lines))]
        foot = self._typed() if self._types else [Span(_HELP[level], "dim")]
        frame = [self._title(), self._state(level), *lines, *blank, foot]
        return [_cut(line, width) for line in frame[:height]]

    def key(self, key: str) -> bool:
        """Handle a key, by name or character; return ``False`` to quit."""
        level = self._level
        if self._types:
            self._type(key)
        elif key == "q":
            return False
        elif key in ("escape", "left", "backspace"):
            self._back()
        elif key in ("p", " "):
            self._paused = None if self._paused else self._model.frozen()
        elif level == "detail":
            self._scroll += self._step(key)
        elif key in ("enter", "right"):
            self._open()
        elif key == "/":
            self._types = True
        elif key == "\t" and level == "groups":
            self._kind = KINDS[(KINDS.index(self._kind) + 1) % len(KINDS)]
            self._table.selected = None
            self._table.search("")
        elif key in ("<", ">"):
            self._sort_by(-1 if key == "<" else 1)
        elif key == "r":
            self._table.falls = not self._table.falls
        elif key == "c":
            self._model.clear()
            self._paused = self._group = None
        else:
            self._move(self._step(key))
        return True

    @property
    def _shown(self) -> Model:
        return self._paused or self._model

    @property
    def _opened(self) -> Group | None:
        return self._shown.groups[self._kind].get(self._group)

    @property
    def _level(self) -> str:
        if self._entry is not None:
            return "detail"
        # The group may have been dropped meanwhile.
        return "groups" if self._opened is None else "exchanges"

    @property
    def _table(self) -> _Table:
        return self._tables["groups" if self._opened is None else "exchanges"]

    def _columns(self) -> Sequence[Shown[Any]]:
        if self._opened is None:
            return tables.groups(self._shown, self._kind)
        return tables.exchanges()

    def _rows(self) -> list[_Row]:
        """Return the rows, sorted and filtered."""
        table, columns, group = self._table, self._columns(), self._opened
        rows: list[_Row] = [*self._shown.groups[self._kind].values()]
        if group is not None:
            rows = [*group.latest]
        if table.condition is not None:
            rows = [row for row in rows if _matches(row, table.condition)]
        by = next((one for one in columns if one.column.name == table.sort), columns[-1])
        # Equal values need a fixed order too, or rows would jump.
        rows.sort(key=_place)
        rows.sort(key=by.key, reverse=table.falls != by.rises)
        return rows

    def _list(self, height: int, width: int) -> list[Line]:
        table, columns, rows = self._table, self._columns(), self._rows()
        room = max(height - 1, 0)
        at = self._cursor(rows)
        table.top = max(min(table.top, at, max(len(rows) - room, 0)), at - room + 1, 0)
        lines = [heading(columns, width, table.sort, table.falls)]
        for number, row in enumerate(rows[table.top : table.top + room], table.top):
            line = line_of(columns, row, width)
            if number == at:
                line = [Span(pad("".join(span.text for span in line), width), "cursor")]
            lines.append(line)
        if not rows:
            none = "nothing matches the filter" if table.filter else "no exchanges yet"
            lines.append([Span(none, "dim")])
        return lines[:height]

    def _detail(self, height: int, width: int) -> list[Line]:
        assert self._entry is not None
        if self._entry.exchange is None:
            return [[Span("dropped: newer exchanges took its space", "lost")]][:height]
        lines = detail(self._entry.exchange, self._model.redactor, width)
        self._scroll = max(min(self._scroll, len(lines) - height), 0)
        return lines[self._scroll : self._scroll + height]

    def _cursor(self, rows: list[_Row]) -> int:
        selected = self._table.selected
        if selected is None:
            return 0
        return next((at for at, row in enumerate(rows) if _name(row) == selected), 0)

    def _title(self) -> Line:
        model = self._shown
        all_ = model.all
        line = [
            Span("http-profiler top", "bold"),
            Span(f"  {all_.count} exchanges  {model.rate(all_):.1f}/s"),
        ]
        if all_.failed:
            line.append(Span(f"  failed {100 * all_.failed / all_.count:.1f} %", "failed"))
        if model.incomplete:
            reasons = ", ".join(f"{why} {n}" for why, n in model.incomplete.most_common(5))
            line.append(Span(visible(f"  incomplete: {reasons}"), "lost"))
        if self.lost:
            line.append(Span(f"  {self.lost}", "lost"))
        if self._paused:
            line += [Span("  "), Span(" PAUSED ", "cursor")]
        return [*line, Span(visible(f"  {self.source}"), "dim")]

    def _state(self, level: str) -> Line:
        if self._entry is not None:
            return [Span(visible(tables.request_text(self._entry)), "bold")]
        group = self._opened
        if group is not None:
            latest = f"  the latest {len(group.latest)} of {group.count}"
            line = [Span(visible(group.name), "bold"), Span(latest)]
        else:
            line = [Span("by")]
            for kind in KINDS:
                line += [Span(" "), Span(f" {kind} ", "cursor" if kind == self._kind else "")]
            left_out = self._shown.left_out[self._kind]
            if left_out:
                line.append(Span(f"  idle, dropped: {left_out}", "lost"))
        if self._tables[level].filter:
            line.append(Span(visible(f"  filter: {self._tables[level].filter}"), "refused"))
        return line

    def _typed(self) -> Line:
        table = self._table
        typed = Span(f"filter: {visible(table.filter)}_", "bold")
        if table.error:
            return [typed, Span(f"  {visible(table.error)}", "failed")]
        return [
            typed,
            Span("  words, failed, status>=500, GET /a*  Enter: apply  Esc: clear", "dim"),
        ]

    def _type(self, key: str) -> None:
        table = self._table
        if key == "enter":
            self._types = False
        elif key == "escape":
            self._types = False
            table.search("")
        elif key == "backspace":
            table.search(table.filter[:-1])
        elif len(key) == 1 and len(table.filter) < _FILTER_MAX:
            table.search(table.filter + key)

    def _back(self) -> None:
        if self._entry is not None:
            self._entry = None
        else:
            self._group = None

    def _open(self) -> None:
        rows = self._rows()
        if not rows:
            return
        row = rows[self._cursor(rows)]
        self._table.selected = _name(row)
        if isinstance(row, Entry):
            # A copy, so that nothing is dropped from it while it is shown.
            self._entry, self._scroll = copy.copy(row), 0
        else:
            self._group = row.key
            self._table.selected = None
            self._table.search("")

    def _sort_by(self, step: int) -> None:
        names = [one.column.name for one in self._columns()]
        at = names.index(self._table.sort) if self._table.sort in names else len(names) - 1
        self._table.sort = names[(at + step) % len(names)]
        self._table.falls = True

    def _step(self, key: str) -> int:
        page = max(self._height - 2, 1)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "pagedown": page}
        return {**steps, "home": -_LAST, "end": _LAST}.get(key, 0)

    def _move(self, step: int) -> None:
        rows = self._rows()
        if step and rows:
            at = max(min(self._cursor(rows) + step, len(rows) - 1), 0)
            self._table.selected = _name(rows[at]) if at else None


def _name(row: _Row) -> object:
    return row.key if isinstance(row, Group) else row.number


def _matches(row: _Row, condition: Condition) -> bool:
    """Whether an exchange matches; for a group, whether its name or one of its latest does."""
    if isinstance(row, Entry):
        return row.exchange is not None and matches(condition, row.exchange)
    words = condition.conditions if isinstance(condition, Every) else (condition,)
    name = row.name.lower()
    if all(isinstance(word, Word) and word.word in name for word in words):
        return True
    return any(_matches(entry, condition) for entry in row.latest)


def _place(row: _Row) -> tuple[str, int]:
    return (row.name, 0) if isinstance(row, Group) else ("", -row.number)


def _cut(line: Line, width: int) -> Line:
    """Return the part of a line that fits into ``width`` cells."""
    cut: Line = []
    for text, style in line:
        text = clip(text, width)
        width -= cells(text)
        if text:
            cut.append(Span(text, style))
    return cut
