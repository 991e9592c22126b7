"""Holds exchanges against assertions: which violate a ``--fail-if``, which ``--expect`` is missing.

The rule about loss: an assertion is not shown to hold by what was not seen. So where
messages were lost, one that says how much there may be at most fails with them, unless
that is allowed; one that says how much there must be is shown by what was seen.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from profiler.exchanges.model import absolute_url
from profiler.exchanges.query import Condition, Expectation
from profiler.exchanges.redact import Redactor
from profiler.exchanges.store import Exchange

FAIL_IF, EXPECT = "fail-if", "expect"
_TOLD = 20


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
        return f"{self.kind} {plain(self.text)}"

    def lines(self) -> list[str]:
        """What violates it, a line each; empty if it holds."""
        if self.failure is None:
            return []
        if not self.examples:
            return [f"{self.name}: {self.failure}"]
        rest = self.count - len(self.examples)
        more = [f"{self.name}: and {rest} more"] if rest else []
        return [f"{self.name}: {example}" for example in self.examples] + more


def judge(
    exchanges: Iterable[Exchange],
    conditions: Sequence[Condition] = (),
    expectations: Sequence[Expectation] = (),
    lost: str | None = None,
) -> tuple[int, list[Verdict]]:
    """Return how many exchanges there were, and a verdict on each condition and expectation.

    ``lost`` says what was lost, if that is to count; URLs in the verdicts are redacted.
    """
    redactor = Redactor()
    violated = [(one, Verdict(FAIL_IF, one.text)) for one in conditions]
    expected = [(one, Verdict(EXPECT, one.text)) for one in expectations]
    number = 0
    for exchange in exchanges:
        number += 1
        for condition, verdict in violated:
            if condition.holds(exchange):
                verdict.count += 1
                if len(verdict.examples) < _TOLD:
                    verdict.examples.append(described(exchange, redactor))
        for expectation, verdict in expected:
            verdict.count += expectation.condition.holds(exchange)
    for _, verdict in violated:
        if verdict.count:
            verdict.failure = f"{verdict.count} of {number} exchanges"
        elif lost:
            _fail_for_loss(verdict, lost)
    for expectation, verdict in expected:
        if not expectation.holds(verdict.count):
            verdict.failure = (
                f"seen {verdict.count} times, must be {expectation.operator} {expectation.number}"
            )
            if lost:
                verdict.failure += f" ({lost})"
        elif lost and not expectation.operator.startswith(">"):
            _fail_for_loss(verdict, lost)
    return number, [verdict for _, verdict in (*violated, *expected)]


def _fail_for_loss(verdict: Verdict, lost: str) -> None:
    verdict.failure = f"cannot be shown to hold: {lost}"
    verdict.unproven = True


def described(exchange: Exchange, redactor: Redactor) -> str:
    """Return an exchange in one line: who asked whom for what, and what came of it."""
    first = exchange.side.records[0]
    asked, answered = exchange.asked, exchange.answered
    url = absolute_url(asked, first) if "url" in asked else "(request not seen)"
    words = [asked.get("method", ""), redactor.url(url)]
    if answered is None:
        words.append("no response seen")
    else:
        words.append(str(answered.get("status_code", "")))
        if "latency_ms" in answered:
            words.append(f"{answered['latency_ms']:.1f} ms")
    ends = [
        f"{role} {side.records[0].get('comm', '?')}[{side.records[0].get('pid', '?')}]"
        for role, side in (("client", exchange.client), ("server", exchange.server))
        if side is not None
    ]
    words.append(f"({', '.join(ends)}, {first['timestamp']})")
    if exchange.incomplete:
        words.append(f"incomplete: {' '.join(exchange.incomplete)}")
    return plain(" ".join(word for word in words if word))


def plain(text: str) -> str:
    """Return text that does not command the terminal that shows it."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" else c for c in text
    )
