# SPDX-License-Identifier: Apache-2.0
"""Verifies assertions: which exchanges violate a ``--fail-if``, which ``--expect`` is missing.

What was not seen does not show that an assertion holds. So where messages were lost, one that
says how many exchanges there may be at most fails, unless that is allowed; one that says how many
there must be is shown by what was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from profiler.exchanges.model import Exchange
from profiler.exchanges.query import Condition, Expectation, matches, parse, parse_expectation
from profiler.exchanges.redact import Redactor
from profiler.exchanges.summary import describe
from profiler.exchanges.text import visible

FAIL_IF, EXPECT = "fail-if", "expect"
_EXAMPLES = 20


class Assertion(NamedTuple):
    """A ``--fail-if`` or ``--expect``, as it was written and as it was understood."""

    kind: str
    text: str
    condition: Condition
    expectation: Expectation | None = None


def fail_if(text: str) -> Assertion:
    """Read a condition that no exchange may fulfil. Raises ConditionError."""
    return Assertion(FAIL_IF, text, parse(text))


def expect(text: str) -> Assertion:
    """Read how many exchanges must fulfil a condition. Raises ConditionError."""
    expectation = parse_expectation(text)
    return Assertion(EXPECT, text, expectation.condition, expectation)


@dataclass
class Verdict:
    """What became of one assertion."""

    kind: str
    """``fail-if`` or ``expect``."""

    text: str
    """The assertion as it was written."""

    count: int = 0
    """Exchanges that fulfil the condition."""

    examples: list[str] = field(default_factory=list)
    """Of a ``fail-if``: the first of them, a line each."""

    failure: str | None = None
    """Why it does not hold, in one line; ``None`` if it holds."""

    unproven: bool = False
    """Nothing speaks against it but that messages were lost."""

    @property
    def name(self) -> str:
        """Kind and text."""
        return f"{self.kind} {visible(self.text)}"

    def lines(self) -> list[str]:
        """Return what violates it, a line each; empty if it holds."""
        if self.failure is None:
            return []
        if not self.examples:
            return [f"{self.name}: {self.failure}"]
        rest = self.count - len(self.examples)
        more = [f"{self.name}: and {rest} more"] if rest else []
        return [f"{self.name}: {example}" for example in self.examples] + more


def verify(
    exchanges: Iterable[Exchange], assertions: Sequence[Assertion], lost: str | None = None
) -> tuple[int, list[Verdict]]:
    """Return how many exchanges there were, and a verdict on each assertion.

    ``lost`` says what was lost, if that is to count; URLs in the verdicts are redacted.
    """
    redactor = Redactor()
    verdicts = [Verdict(assertion.kind, assertion.text) for assertion in assertions]
    number = 0
    for exchange in exchanges:
        number += 1
        for assertion, verdict in zip(assertions, verdicts):
            if matches(assertion.condition, exchange):
                verdict.count += 1
                if assertion.kind == FAIL_IF and len(verdict.examples) < _EXAMPLES:
                    verdict.examples.append(describe(exchange, redactor))
    for assertion, verdict in zip(assertions, verdicts):
        _decide(assertion.expectation, verdict, number, lost)
    return number, verdicts


def _decide(
    expectation: Expectation | None, verdict: Verdict, number: int, lost: str | None
) -> None:
    if expectation is None:
        is_at_most = True
        if verdict.count:
            verdict.failure = f"{verdict.count} of {number} exchanges"
    else:
        is_at_most = not expectation.sign.startswith(">")
        if not expectation.holds(verdict.count):
            verdict.failure = (
                f"seen {verdict.count} times, must be {expectation.sign} {expectation.number}"
            ) + (f" ({lost})" if lost else "")
    if verdict.failure is None and lost and is_at_most:
        verdict.failure = f"cannot be shown to hold: {lost}"
        verdict.unproven = True
