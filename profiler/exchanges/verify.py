# SPDX-License-Identifier: Apache-2.0
"""Verifies assertions: which exchanges violate a ``--fail-if``, which ``--expect`` is not met.

If messages were lost, an assertion with an upper limit on exchanges fails, because lost ones might
exceed it, unless ``--allow-lost`` is given. An assertion with a lower limit holds as soon as enough
were seen.
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
    """A ``--fail-if`` or ``--expect``, as written and as parsed."""

    kind: str
    text: str
    condition: Condition
    expectation: Expectation | None = None


def fail_if(text: str) -> Assertion:
    """Parse a condition that no exchange may match. Raises ConditionError."""
    return Assertion(FAIL_IF, text, parse(text))


def expect(text: str) -> Assertion:
    """Parse how many exchanges must match a condition. Raises ConditionError."""
    expectation = parse_expectation(text)
    return Assertion(EXPECT, text, expectation.condition, expectation)


@dataclass
class Verdict:
    """The result of one assertion."""

    kind: str
    """``fail-if`` or ``expect``."""

    text: str
    """The assertion as written."""

    count: int = 0
    """The number of exchanges that match the condition."""

    examples: list[str] = field(default_factory=list)
    """For a ``fail-if``: the first matching exchanges, a line each."""

    failure: str | None = None
    """Why it does not hold, in one line; ``None`` if it holds."""

    unproven: bool = False
    """Whether it fails only because messages were lost."""

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
    """Return the number of exchanges, and a verdict for each assertion.

    ``lost`` describes what was lost, if that counts; URLs in the verdicts are redacted.
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
                f"matched {verdict.count} exchanges, expected {expectation.sign} "
                f"{expectation.number}"
            ) + (f" ({lost})" if lost else "")
    if verdict.failure is None and lost and is_at_most:
        verdict.failure = f"cannot be verified: {lost}"
        verdict.unproven = True
