# SPDX-License-Identifier: Apache-2.0
"""Compiles conditions for the native fast path, which evaluates them as ``exchanges/filter.py``.

It knows the fields that a usual exchange decides. What depends on the process of a message only is
evaluated here, once for each process. Conditions on other fields, and patterns with ``[...]``, are
evaluated in Python for all messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from profiler.exchanges.conditions import Conditions
from profiler.exchanges.fields import View
from profiler.exchanges.model import Exchange, Side
from profiler.exchanges.query import Comparison, Condition, Every, Not, Some
from profiler.schema import Record

_TEXTS = frozenset(["method", "url", "path", "host"])
_NUMBERS = frozenset(["status", "interim", "latency", "duration"])
_MOVER = frozenset(
    ["pid", "comm", "cmdline", "user", "cgroup", "container", "pod", "namespace", "direction"]
)
# The bits of an integer, as in fastpath/src/filter.rs.
_LEAVES_MAX = 64

_Leaf = tuple[str, str, bytes, float, float]
"""Field, sign, the text or pattern, and the least and the most number; ``?``: it has a value."""
_Step = tuple[str, int]
"""A leaf with its index, or what is made of the last results and of how many: postfix notation."""


class Program(NamedTuple):
    """Conditions as the native module evaluates them."""

    options: list[str]
    """The option of each condition."""
    conditions: list[list[_Step]]
    leaves: list[_Leaf]
    of_mover: dict[int, Comparison]
    """The leaves that :meth:`holding` evaluates, by index."""

    def holding(self, mover: Record) -> int:
        """Return the set of leaves that hold for a message with these fields of its process."""
        view = View(Exchange(Side(mover, (), None), None), "client", (mover,), over=True)
        found = (index for index, one in self.of_mover.items() if one.evaluate(view))
        return sum(1 << index for index in found)


def compiled(conditions: Conditions) -> Program | None:
    """Return a program; ``None`` if the module cannot evaluate these conditions."""
    program = Program([], [], [], {})
    try:
        for option, condition in conditions.named:
            program.options.append(option)
            program.conditions.append([*_steps(condition, program)])
    except _UnknownError:
        return None
    return program if len(program.leaves) <= _LEAVES_MAX else None


class _UnknownError(Exception):
    """The module does not know this condition."""


def _steps(condition: Condition, program: Program) -> Iterator[_Step]:
    if isinstance(condition, Not):
        yield from _steps(condition.condition, program)
        yield "not", 1
    elif isinstance(condition, (Every, Some)):
        for one in condition.conditions:
            yield from _steps(one, program)
        yield "every" if isinstance(condition, Every) else "some", len(condition.conditions)
    elif isinstance(condition, Comparison):
        yield "leaf", len(program.leaves)
        name = condition.field.name
        if name in _MOVER:
            program.of_mover[len(program.leaves)] = condition
            program.leaves.append(("mover", "", b"", 0, 0))
            return
        program.leaves.append(_leaf(condition))
        if condition.value is None:
            yield "not", 1
    else:
        raise _UnknownError


def _leaf(condition: Comparison) -> _Leaf:
    name, sign, value = condition.field.name, condition.sign, condition.value
    if value is None:
        sign, value = "?", ""
    if name in _TEXTS or name.startswith("header."):
        name = name.lower()
        if sign == "~" and "[" in value:
            raise _UnknownError
        return name, sign, value.encode(errors="surrogateescape"), 0, 0
    if name in _NUMBERS:
        least, most = value if isinstance(value, tuple) else (value or 0, value or 0)
        return name, sign, b"", least, most
    if name == "role" and sign == "=":
        return name, sign, value.encode(), 0, 0
    raise _UnknownError
