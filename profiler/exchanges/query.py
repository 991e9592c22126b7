# SPDX-License-Identifier: Apache-2.0
"""The language of conditions: ``status>=500 and path~/api/*``, ``GET /orders*``, ``failed``.

::

    condition   = both { "or" both }
    both        = one { "and" one }
    one         = "not" one | "(" condition ")" | "failed" | "tls" | request | comparison
    request     = ( METHOD | "*" ) VALUE        a pattern for the path or the target
    comparison  = FIELD sign VALUE
    sign        = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"
    VALUE       = a word | "text in quotes" | 'text in quotes'
    expectation = condition [ sign NUMBER ]     number of exchanges; default >= 1

A word contains no spaces, quotes, parentheses, or any of ``=<>!~``; a text with one of them must be
quoted. ``none`` (without quotes) is the value of a field without a value. ``~`` matches a pattern
(``*``, ``?``, ``[...]``) against the whole text. ``!=`` holds exactly where ``=`` does not.

A syntax error raises :class:`ConditionError` with its column; it never becomes a condition that
matches nothing. A *search*, which users type into a field, may also contain words: each is searched
in method, URL, processes and status, ``-word`` excludes, and a space between two terms means
``and``.

Options such as ``--status`` are short forms (``conditions.py``).
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

from profiler.errors import ProfilerError
from profiler.exchanges.fields import EQUAL, FIELDS, ORDER, TLS, Field, View, field_named, views
from profiler.exchanges.model import Exchange, host, program
from profiler.exchanges.values import is_pattern, pattern

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COUNT: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    **_ORDER,
}
_SIGNS = (*_COUNT, "~")
_SHOWN_MAX = 200


class ConditionError(ProfilerError):
    """A condition is invalid; ``column`` is the place, counted from 1."""

    exit_code = 2

    def __init__(self, text: str, position: int, what: str) -> None:
        shown = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
        super().__init__(f"{shown!r}, column {position + 1}: {what}")
        self.column = position + 1
        self.what = what


# ---- a condition is a tree, evaluated to True, False or None (not known yet)


@dataclass(frozen=True)
class Comparison:
    """Whether a comparison with ``value`` holds for a value of the field; ``None``: no value."""

    field: Field
    sign: str
    value: Any

    def evaluate(self, view: View) -> bool | None:
        """Return whether it holds; ``None`` while that depends on later messages."""
        found = self.field.values(view)
        if self.value is None:
            if any(True for _ in found):
                return False
            return True if self.field.known(view) else None
        if any(map(self._holds, found)):
            return True
        return False if self.field.known(view) else None

    def _holds(self, found: Any) -> bool:
        if self.sign == "~":
            return pattern(self.value).fullmatch(found) is not None
        if self.sign in _ORDER:
            # A status is a range; with < and > it is a single number.
            value = self.value[0] if isinstance(self.value, tuple) else self.value
            return _ORDER[self.sign](found, value)
        same = self.field.kind.same
        return bool(same(self.value, found)) if same else bool(found == self.value)


@dataclass(frozen=True)
class Word:
    """Whether a word of a search occurs in the line of an exchange."""

    word: str

    def evaluate(self, view: View) -> bool | None:
        """Return whether it holds."""
        exchange, asked = view.exchange, view.request
        if re.fullmatch("[1-5]([0-9]{2}|xx)", self.word):
            codes = (str(response.get("status_code", "")) for response in view.responses)
            if any(code.startswith(self.word.rstrip("x")) for code in codes):
                return True
        names = (program(side.records[0]) or "" for side in exchange.sides)
        scheme = "https://" if exchange.is_tls else ""
        line = f"{asked.get('method', '')} {scheme}{host(exchange)}{asked.get('url', '')}"
        return any(self.word in text.lower() for text in (line, *names))


@dataclass(frozen=True)
class Not:
    """Whether another condition does not hold."""

    condition: Condition

    def evaluate(self, view: View) -> bool | None:
        """Return whether it holds; ``None`` while that is not known."""
        holds = self.condition.evaluate(view)
        return None if holds is None else not holds


@dataclass(frozen=True)
class Every:
    """Whether all of several conditions hold (``and``)."""

    conditions: tuple[Condition, ...]

    def evaluate(self, view: View) -> bool | None:
        """Return whether it holds; ``None`` while that is not known."""
        return _first(self.conditions, view, False)


@dataclass(frozen=True)
class Some:
    """Whether one of several conditions holds (``or``)."""

    conditions: tuple[Condition, ...]

    def evaluate(self, view: View) -> bool | None:
        """Return whether it holds; ``None`` while that is not known."""
        return _first(self.conditions, view, True)


Condition = Union[Comparison, Word, Not, Every, Some]


def _first(conditions: Iterable[Condition], view: View, decisive: bool) -> bool | None:
    is_open = False
    for condition in conditions:
        holds = condition.evaluate(view)
        if holds is decisive:
            return decisive
        is_open = is_open or holds is None
    return None if is_open else not decisive


def matches(condition: Condition, exchange: Exchange) -> bool:
    """Whether a condition holds for a finished exchange, as one of its ends saw it."""
    return any(condition.evaluate(view) for view in views(exchange))


@dataclass(frozen=True)
class Expectation:
    """How many exchanges must match a condition."""

    condition: Condition
    sign: str = ">="
    number: int = 1

    def holds(self, count: int) -> bool:
        """Whether ``count`` exchanges meet the expectation."""
        return _COUNT[self.sign](count, self.number)


# ---- the syntax


def parse(text: str) -> Condition:
    """Parse a condition. Raises ConditionError."""
    return _Parser(text).whole()


def parse_search(text: str) -> Condition | None:
    """Parse a search; ``None`` if it is empty. Raises ConditionError."""
    return _Parser(text, is_search=True).whole() if text.strip() else None


def parse_expectation(text: str) -> Expectation:
    """Parse an expectation. Raises ConditionError."""
    return _Parser(text).expectation()


class _Token(NamedTuple):
    kind: str
    """``word``, ``quoted``, ``sign``, ``(``, ``)`` or ``end``."""
    text: str
    position: int
    end: int


_TOKEN = re.compile(
    r"(?P<word>[^\s\"'()=<>!~]+)|(?P<sign>[=<>!~]+)|(?P<paren>[()])"
    r"|\"(?P<double>(?:[^\"\\]|\\.)*)\"|'(?P<single>(?:[^'\\]|\\.)*)'",
    re.DOTALL,
)
# A method is a token (RFC 9110, 5.6.2). All methods in use are upper case; fields are lower case.
_METHOD = re.compile(r"\*|[A-Z][A-Z0-9!#$%&*+.^_`|-]*")
_FLAGS: dict[str, Condition] = {
    "failed": Comparison(FIELDS["outcome"], "=", "failed"),
    "tls": Not(Comparison(TLS, "=", None)),
}
_KEYWORDS = ("and", "or", "not")
# Far below Python's own limit of nested calls.
_DEPTH_MAX = 50


class _Parser:
    def __init__(self, text: str, is_search: bool = False) -> None:
        self._text = text
        self._is_search = is_search
        self._tokens = self._scan()
        self._at = self._depth = 0

    def whole(self) -> Condition:
        condition = self._either()
        token = self._next
        if token.kind == "sign":
            raise self._error("a number of exchanges belongs to an expectation (--expect)", token)
        self._expect_end()
        return condition

    def expectation(self) -> Expectation:
        condition = self._either()
        token = self._next
        if token.kind != "sign":
            self._expect_end()
            return Expectation(condition)
        if token.position == self._tokens[self._at - 1].end:
            raise self._error("put a space before a number of exchanges", token)
        sign = self._sign(tuple(_COUNT), "a number of exchanges")
        number = self._value()
        if not re.fullmatch("[0-9]{1,18}", number.text):
            raise self._error(f"{number.text!r} is not a number of exchanges", number)
        self._expect_end()
        return Expectation(condition, sign, int(number.text))

    def _either(self) -> Condition:
        conditions = [self._both()]
        while self._take_word("or"):
            conditions.append(self._both())
        return conditions[0] if len(conditions) == 1 else Some(tuple(conditions))

    def _both(self) -> Condition:
        conditions = [self._one()]
        while self._take_word("and") or self._begins_another():
            conditions.append(self._one())
        return conditions[0] if len(conditions) == 1 else Every(tuple(conditions))

    def _begins_another(self) -> bool:
        """Whether another term follows: in a search, a space between two terms means ``and``."""
        token = self._next
        return self._is_search and token.kind in ("word", "quoted", "(") and token.text != "or"

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            what = f"`not` and parentheses are nested more than {_DEPTH_MAX} deep"
            raise self._error(what, self._next)
        condition = self._term()
        self._depth -= 1
        return condition

    def _term(self) -> Condition:
        token = self._next
        if self._take_word("not"):
            return Not(self._one())
        if token.kind == "(":
            self._at += 1
            condition = self._either()
            if self._next.kind != ")":
                raise self._error("a parenthesis is not closed", token)
            self._at += 1
            return condition
        following = self._tokens[self._at + 1] if token.kind != "end" else token
        if token.kind == "word" and following.kind == "sign" and self._is_apart(token):
            return self._comparison()
        if token.kind == "word" and token.text in _FLAGS:
            self._at += 1
            return _FLAGS[token.text]
        is_request = following.text[:1] in ("/", "*") or not self._is_search
        if token.kind == "word" and is_request and _METHOD.fullmatch(token.text):
            return self._request()
        if self._is_search and token.kind in ("word", "quoted"):
            self._at += 1
            return _word(token)
        raise self._error(self._missing(token), token)

    def _is_apart(self, token: _Token) -> bool:
        """Whether a sign compares: after a flag or a method it counts exchanges."""
        return not (token.text in _FLAGS or _METHOD.fullmatch(token.text))

    def _request(self) -> Condition:
        method = self._next
        self._at += 1
        if self._next.kind not in ("word", "quoted") or self._next.text in ("and", "or"):
            raise self._error("a path is missing after the method", self._next)
        target = self._value().text
        wanted: list[Condition] = [
            Comparison(FIELDS[name], "~", target) for name in ("path", "url")
        ]
        if method.text == "*":
            return Some(tuple(wanted))
        return Every((Comparison(FIELDS["method"], "=", method.text), Some(tuple(wanted))))

    def _comparison(self) -> Condition:
        name = self._next
        self._at += 1
        field = field_named(name.text)
        if field is None:
            advice = _advice(name.text)
            if self._is_search and "?" not in advice:
                advice = ": put the text in quotes to look for it"
            raise self._error(f"{name.text!r} is not a field{advice}", name)
        sign = self._sign(field.kind.signs, field.name)
        token = self._value()
        if token.kind == "word" and token.text == "none":
            value = None
            if sign not in EQUAL:
                raise self._error("`none` can be compared with = and != only", token)
        else:
            try:
                value = field.kind.read(token.text)
            except ValueError as error:
                raise self._error(str(error), token) from None
            if sign == "~" and not is_pattern(value):
                raise self._error(f"{value!r} is not a pattern", token)
            if isinstance(value, tuple) and value[0] != value[1] and sign in ORDER:
                raise self._error(f"{token.text} can be compared with = and != only", token)
        if sign == "!=":
            return Not(Comparison(field, "=", value))
        return Comparison(field, sign, value)

    def _sign(self, allowed: tuple[str, ...], of: str) -> str:
        token = self._next
        if token.text not in _SIGNS:
            raise self._error(f"{token.text!r} is not an operator: {' '.join(_SIGNS)}", token)
        if token.text not in allowed:
            raise self._error(
                f"{of} cannot be compared with {token.text}: {' '.join(allowed)}", token
            )
        self._at += 1
        return token.text

    def _value(self) -> _Token:
        token = self._next
        if token.kind not in ("word", "quoted"):
            raise self._error("a value is missing", token)
        self._at += 1
        following = self._next
        # Text that touches a word was meant to be part of it.
        if following.position == token.end and following.kind not in (")", "end"):
            raise self._error(
                f"{following.text[0]!r} in a value: put the value in quotes, "
                "or a space before a number of exchanges",
                following,
            )
        return token

    def _take_word(self, word: str) -> bool:
        token = self._next
        is_it = token.kind == "word" and token.text == word
        self._at += is_it
        return is_it

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _expect_end(self) -> None:
        token = self._next
        if token.kind == ")":
            raise self._error("there is no parenthesis to close", token)
        if token.kind != "end":
            raise self._error(f"`and` or `or` is missing before {token.text!r}", token)

    def _missing(self, token: _Token) -> str:
        if token.kind == "word" and token.text not in _KEYWORDS:
            if field_named(token.text):
                return f"an operator is missing after {token.text}"
            return f"{token.text!r} is not a condition{_advice(token.text)}"
        return f"a condition is missing{_advice('')}"

    def _error(self, what: str, token: _Token) -> ConditionError:
        return ConditionError(self._text, token.position, what)

    def _scan(self) -> list[_Token]:
        tokens: list[_Token] = []
        position, text = 0, self._text
        while True:
            position += len(text[position:]) - len(text[position:].lstrip())
            if position == len(text):
                return [*tokens, _Token("end", "", position, position)]
            match = _TOKEN.match(text, position)
            if match is None:
                raise ConditionError(text, position, "the quote is not closed")
            kind, found = match.lastgroup or "", match[match.lastgroup or 0]
            if kind in ("double", "single"):
                kind, found = "quoted", re.sub(r"\\(.)", r"\1", found, flags=re.DOTALL)
            tokens.append(_Token(found if kind == "paren" else kind, found, position, match.end()))
            position = match.end()


def _word(token: _Token) -> Condition:
    text = token.text.lower()
    if token.kind == "word" and text.startswith("-") and len(text) > 1:
        return Not(Word(text[1:]))
    return Word(text)


def _advice(name: str) -> str:
    known = [*FIELDS, *_FLAGS]
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f": fields are {', '.join(FIELDS)}, header.NAME; or `failed`, `tls` or METHOD PATH"
