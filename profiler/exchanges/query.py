"""The language of conditions: ``status>=500 and path~/api/*``, ``GET /healthz``.

::

    expectation = condition [ operator number ]          how many exchanges; default >= 1
    condition   = ( request | comparison ) { "and" comparison }
    request     = ( METHOD | "*" ) TARGET                two words; TARGET may be a pattern
    comparison  = FIELD operator VALUE
    operator    = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"
    VALUE       = a word | "text in quotes" | 'text in quotes'

Read from left to right, once, and strictly: what is not understood is an error that names
the column. ``none`` (without quotes) is the value of a field that has none; ``!=`` is true
exactly where ``=`` is not, and nothing else is true of a field without a value.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from profiler.errors import ProfilerError
from profiler.exchanges.fields import (
    FIELDS,
    HEADER,
    NUMBER,
    ROLE,
    STATUS,
    TEXT,
    TIME,
    Field,
    View,
    field_named,
    views,
)
from profiler.exchanges.store import Exchange

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COUNT: dict[str, Callable[[Any, Any], bool]] = {**_ORDER, "=": operator.eq, "!=": operator.ne}
_OPERATORS = (*_COUNT, "~")
_ALLOWED = {TEXT: ("=", "!=", "~"), ROLE: ("=", "!=")}

_FIELD = re.compile(r"[a-z_]+(?:\.[^\s=!<>~\"']+)?")
_OPERATOR = re.compile(r"[=!<>~]+")
_WORD = re.compile(r"[^\s\"']+")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'")
_BLANK = re.compile(r"\s*")
_AND = re.compile(r"and(?=\s|$)")
# A method is a token (RFC 9110, 5.6.2), and all in use are upper case; fields are lower case.
_METHOD = re.compile(r"(?:\*|[A-Z][A-Z0-9!#$%&'*+.^_`|~-]*)(?=\s|$)")
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m)")
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class ConditionError(ProfilerError):
    """A condition cannot be understood; ``column`` is where, from 1 on."""

    exit_code = 2

    def __init__(self, text: str, position: int, what: str) -> None:
        super().__init__(f"{text!r}, column {position + 1}: {what}")
        self.column = position + 1


_Test = Callable[[View], bool]


@dataclass(frozen=True)
class Condition:
    """What an exchange may fulfil; ``text`` as it was written."""

    text: str
    tests: tuple[_Test, ...]

    def holds(self, exchange: Exchange) -> bool:
        """Is it fulfilled, as one of the ends saw the exchange?"""
        return any(all(test(view) for test in self.tests) for view in views(exchange))


@dataclass(frozen=True)
class Expectation:
    """How many exchanges must fulfil a condition; ``text`` as it was written."""

    text: str
    condition: Condition
    operator: str = ">="
    number: int = 1

    def holds(self, count: int) -> bool:
        """Are ``count`` exchanges as many as there must be?"""
        return _COUNT[self.operator](count, self.number)


def parse_condition(text: str) -> Condition:
    """Read a condition. Raises ConditionError."""
    reader = _Reader(text)
    condition = reader.condition()
    if reader.sees(_OPERATOR):
        raise reader.error("a number of exchanges belongs to an expectation")
    reader.end()
    return condition


def parse_expectation(text: str) -> Expectation:
    """Read an expectation. Raises ConditionError."""
    reader = _Reader(text)
    condition = reader.condition()
    if not reader.sees(_OPERATOR):
        reader.end()
        return Expectation(text, condition)
    sign = reader.operator(tuple(_COUNT), "a number of exchanges")
    position, word, _ = reader.value()
    if not _is_number(word):
        raise reader.error(f"{word!r} is not a number of exchanges", position)
    reader.end()
    return Expectation(text, condition, sign, int(word))


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._skip_blanks()

    def error(self, what: str, position: int | None = None) -> ConditionError:
        return ConditionError(self._text, self._position if position is None else position, what)

    def sees(self, pattern: re.Pattern[str]) -> bool:
        return pattern.match(self._text, self._position) is not None

    def condition(self) -> Condition:
        tests = self._request() if self.sees(_METHOD) else [self._comparison()]
        while self._take(_AND) is not None:
            tests.append(self._comparison())
        return Condition(self._text, tuple(tests))

    def operator(self, allowed: tuple[str, ...], of: str) -> str:
        position = self._position
        found = self._take(_OPERATOR)
        if found is None:
            raise self.error(f"an operator is missing: {' '.join(allowed)}")
        if found not in _OPERATORS:
            raise self.error(f"{found!r} is not an operator: {' '.join(_OPERATORS)}", position)
        if found not in allowed:
            raise self.error(f"{of} cannot be asked with {found}: {' '.join(allowed)}", position)
        return found

    def value(self) -> tuple[int, str, bool]:
        """Return position and text of a value, and whether it was quoted."""
        position = self._position
        match = _QUOTED.match(self._text, position)
        if match:
            self._move(match.end())
            text = match[1] if match[1] is not None else match[2]
            return position, re.sub(r"\\(.)", r"\1", text), True
        if self._text[position : position + 1] in ('"', "'"):
            raise self.error("the quote is not closed")
        word = self._take(_WORD)
        if word is None:
            raise self.error("a value is missing")
        return position, word, False

    def end(self) -> None:
        if self._position == len(self._text):
            return
        rest = self._text[self._position :].split()[0]
        hint = "; there is no `or`: give the option twice" if rest == "or" else ""
        raise self.error(f"`and` is missing before {rest!r}{hint}")

    def _request(self) -> list[_Test]:
        method = self._take(_METHOD)
        if self.sees(_OPERATOR) or self._position == len(self._text):
            raise self.error("a path is missing behind the method")
        _, target, _ = self.value()
        tests = [_either(FIELDS["path"], FIELDS["url"], target)]
        if method != "*":
            tests.insert(0, _test(FIELDS["method"], "=", method))
        return tests

    def _comparison(self) -> _Test:
        position = self._position
        name = self._take(_FIELD)
        if name is None:
            raise self.error(f"a field is missing: {_names()}")
        field = field_named(name)
        if field is None:
            raise self.error(f"{name!r} is not a field: {_names()}", position)
        sign = self.operator(_ALLOWED.get(field.kind, tuple(_COUNT)), field.name)
        at, text, quoted = self.value()
        if text == "none" and not quoted:
            if sign not in ("=", "!="):
                raise self.error("`none` can be asked with = and != only", at)
            return _test(field, sign, None)
        if field.kind == STATUS and re.fullmatch("[1-5]xx", text):
            if sign not in ("=", "!="):
                raise self.error(f"{text} can be asked with = and != only", at)
            return _test(field, sign, range(int(text[0]) * 100, int(text[0]) * 100 + 100))
        value, wanted = _read(field, text)
        if value is None:
            raise self.error(f"{text!r} is not {wanted}", at)
        return _test(field, sign, value)

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._position)
        if match is None:
            return None
        self._move(match.end())
        return match[0]

    def _move(self, position: int) -> None:
        self._position = position
        self._skip_blanks()

    def _skip_blanks(self) -> None:
        match = _BLANK.match(self._text, self._position)
        assert match is not None, "it may match nothing"
        self._position = match.end()


def _read(field: Field, text: str) -> tuple[object, str]:
    """Return the value that ``text`` is, ``None`` if it is none, and what it should be."""
    if field.kind == TIME:
        match = _TIME.fullmatch(text)
        value = float(match[1]) * _MILLISECONDS[match[2]] if match else None
        return value, "a time: a number with us, ms, s or m behind it"
    if field.kind == ROLE:
        return text if text in ("client", "server") else None, "`client` or `server`"
    if field.kind == NUMBER:
        return int(text) if _is_number(text) else None, "a number"
    if field.kind == STATUS:
        is_status = _is_number(text) and len(text) == 3
        return int(text) if is_status else None, "a status: three digits, or a class such as 5xx"
    return text.lower() if field.name == "host" else text, "text"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _test(field: Field, sign: str, value: Any) -> _Test:
    if sign == "!=":
        equals = _test(field, "=", value)
        return lambda view: not equals(view)
    if value is None:
        return lambda view: not any(True for _ in field.values(view))
    if sign == "=" and isinstance(value, range):
        return lambda view: any(one in value for one in field.values(view))
    if sign == "~":
        return lambda view: any(fnmatchcase(one, value) for one in field.values(view))
    compare = _COUNT[sign]
    return lambda view: any(compare(one, value) for one in field.values(view))


def _either(first: Field, second: Field, pattern: str) -> _Test:
    tests = _test(first, "~", pattern), _test(second, "~", pattern)
    return lambda view: any(test(view) for test in tests)


def _names() -> str:
    return f"{', '.join(FIELDS)}, {HEADER}NAME"
