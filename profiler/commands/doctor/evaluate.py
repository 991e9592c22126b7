# SPDX-License-Identifier: Apache-2.0
"""Compares the profiler's lines with the script: the result of every message at either end.

A message is *captured* if exactly one line matches it: the bytes, the process and both
addresses; *partial* if its line reports that something is missing; *missed* if it has no
line; *wrong* if a line contradicts the script, or matches no message in it. A case has the
result of its worst message.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from profiler.commands.doctor.cases import (
    CAPTURED,
    MISSED,
    PARTIAL,
    RESULTS,
    TLS,
    UNAVAILABLE,
    WRONG,
    Case,
    Less,
)
from profiler.commands.doctor.script import (
    ENDS,
    NAME_HEADER,
    REQUEST,
    RESPONSE,
    SEND,
    End,
    Outcome,
    Sent,
    message,
    url,
)

Record = dict[str, Any]

SKIPPED = "the kernel skipped the probe for some calls, as the account reports"
SKIPPABLE = ("lost", "closed_early")

# Reasons that leave the size of the message known: the rest was counted.
_COUNTED = {"lost", "body_limit"}


@dataclass(frozen=True)
class Evaluation:
    """One row: a case at one end.

    ``what`` describes the case, ``expected`` is the right result on this machine, ``worse``
    whether ``result`` is worse than that, ``reason`` why it is not ``captured``.
    """

    group: str
    name: str
    what: str
    route: str
    end: str
    result: str
    expected: str
    worse: bool
    reason: str


@dataclass(frozen=True)
class _Verdict:
    label: str
    result: str
    expected: str
    reason: str
    worse: bool
    why: str


class Lines:
    """The profiler's records, indexed by message and by socket."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._named: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
        self._of_socket: dict[Any, list[Record]] = defaultdict(list)
        for record in records:
            self._named[record["type"], record["direction"], name_of(record)].append(record)
            self._of_socket[record.get("socket")].append(record)

    def of(self, token: str, case: str, sent: Sent, end: str) -> list[Record]:
        """Return the lines of a message at one end."""
        return self._named.get((sent.type, end, url(token, case, sent.number)), [])

    def of_socket(self, inode: int) -> list[Record]:
        """Return all lines of a socket."""
        return self._of_socket.get(inode, [])


def evaluate(
    case: Case,
    outcome: Outcome,
    lines: Lines,
    token: str,
    route: str,
    kernel: tuple[int, int],
    skipped: bool = False,
) -> list[Evaluation]:
    """Return the results of a case at both ends, on ``kernel``, such as (6, 1).

    ``skipped``: the profiler reported that the kernel skipped the probe for some calls.
    """
    if outcome.unavailable is not None:
        there = kernel >= case.since
        since = "" if there else f" (needs Linux {case.since[0]}.{case.since[1]} or newer)"
        if there and case.option:
            there, since = False, f" (a kernel may be built without {case.option})"
        if case.program:
            there = False
        expected = CAPTURED if there else UNAVAILABLE
        reason = f"not on this machine: {outcome.unavailable}{since}"
        row = (case.group, case.name, case.what, route)
        return [Evaluation(*row, end, UNAVAILABLE, expected, there, reason) for end in ENDS]
    evaluations = [_evaluate_end(case, outcome.sent, lines, token, route, end) for end in ENDS]
    return [_excused(each) for each in evaluations] if skipped else evaluations


def _excused(evaluation: Evaluation) -> Evaluation:
    """Accept what a skipped call can cause: a missing or partial line, which was counted."""
    if not evaluation.worse or evaluation.result not in (PARTIAL, MISSED):
        return evaluation
    if evaluation.result == PARTIAL and not evaluation.reason.startswith(SKIPPABLE):
        return evaluation
    return replace(evaluation, worse=False, reason=f"{evaluation.reason}: {SKIPPED}")


def _evaluate_end(
    case: Case, script: tuple[Sent, ...], lines: Lines, token: str, route: str, end: str
) -> Evaluation:
    verdicts = []
    known: set[int] = set()
    for sent in script:
        found = lines.of(token, case.name, sent, end)
        known.update(map(id, found))
        verdicts.append(_evaluate_message(case, sent, found, lines, token, route, end))
    sockets = {_here(sent, end).socket for sent in script}
    strays = [
        record
        for inode in sockets
        for record in lines.of_socket(inode)
        if record["direction"] == end and id(record) not in known
    ]
    if strays:
        what = f"a line that matches no message: {_short(strays[0], token)}"
        verdicts.append(_Verdict(f"{len(strays)} in all", WRONG, CAPTURED, what, True, ""))
    result = max((v.result for v in verdicts), key=RESULTS.index)
    expected = max((v.expected for v in verdicts), key=RESULTS.index)
    worse = any(v.worse for v in verdicts)
    return Evaluation(
        case.group, case.name, case.what, route, end, result, expected, worse, _reasons(verdicts)
    )


def _evaluate_message(
    case: Case, sent: Sent, found: list[Record], lines: Lines, token: str, route: str, end: str
) -> _Verdict:
    less = _less(case, sent, route, end)
    expected = less.result if less else CAPTURED
    result, reasons = _compare(case, sent, found, lines, token, end)
    worse = RESULTS.index(result) > RESULTS.index(expected)
    if less and result == expected == PARTIAL:
        worse = not set(reasons) <= set(less.incomplete)
    why = less.why if less and result != CAPTURED and not worse else ""
    return _Verdict(sent.label, result, expected, ", ".join(reasons), worse, why)


def _less(case: Case, sent: Sent, route: str, end: str) -> Less | None:
    for less in case.less:
        if (
            end in less.ends
            and (not less.messages or sent.label in less.messages)
            and less.route in (None, route)
        ):
            return less
    return None


def _compare(
    case: Case, sent: Sent, found: list[Record], lines: Lines, token: str, end: str
) -> tuple[str, list[str]]:
    """Return the result of one message, and the reasons for it."""
    if not found:
        return MISSED, ["no line"]
    if len(found) > 1:
        return WRONG, [f"{len(found)} lines"]
    record = found[0]
    contradictions = [
        f"{name} is {record.get(name)!r}, not {value!r}"
        for name, value in _facts(case, sent, token, end).items()
        if record.get(name) != value
    ]
    if case.group == TLS and "tls" not in record:
        contradictions.append("it has no field tls")
    contradictions += _content(record, message(token, case.name, sent.type, sent.number, sent.size))
    if contradictions:
        return WRONG, contradictions
    missing = list(record.get("incomplete", ()))
    unpaired = sent.type == RESPONSE and "request" not in record
    if unpaired and lines.of(token, case.name, _request_of(sent), _other(end)):
        missing.append("not paired with its request")
    return (PARTIAL if missing else CAPTURED), missing


def _facts(case: Case, sent: Sent, token: str, end: str) -> dict[str, Any]:
    """The fields that the record must have, apart from its content; ``None``: must be absent."""
    here = _here(sent, end)
    is_sender, is_request = end == SEND, sent.type == REQUEST
    target = url(token, case.name, sent.number)
    facts: dict[str, Any] = {
        "source_ip": sent.sender.ip,
        "source_port": sent.sender.port,
        "source_path": sent.sender.path,
        "dest_ip": sent.receiver.ip,
        "dest_port": sent.receiver.port,
        "dest_path": sent.receiver.path,
        "socket": here.socket,
        "netns": here.netns,
        "method": "POST" if is_request else None,
        "url": target if is_request else None,
        "status_code": None if is_request else 200,
        "role": "client" if is_sender == is_request else "server",
    }
    if here.pid is not None:
        facts["pid"] = here.pid
    if case.calls:
        facts["syscall"] = case.calls[ENDS.index(end)]
    return facts


def _content(record: Mapping[str, Any], whole: bytes) -> list[str]:
    """What is wrong with a record's bytes, ``whole`` being the message on the wire."""
    text = whole.decode()
    head, _, body = text.partition("\r\n\r\n")
    raw, kept = record["raw_payload"], record["body"]
    incomplete = set(record.get("incomplete", ()))
    wrong = []
    if not incomplete:
        if raw != text:
            wrong.append("raw_payload differs from what was sent")
        if kept != body:
            wrong.append("body differs from what was sent")
    elif not text.startswith(raw) or not raw.startswith(head) or not body.startswith(kept):
        wrong.append("the captured part is not the beginning of what was sent")
    if record["bytes"] != len(whole) and incomplete <= _COUNTED:
        wrong.append(f"bytes is {record['bytes']}, not {len(whole)}")
    if record["captured"] != len(raw):
        wrong.append(f"captured is {record['captured']}, not {len(raw)}")
    request = record.get("request", {}).get("url")
    if request is not None and request != name_of(record):
        wrong.append(f"it is paired with another request, {request}")
    return wrong


def _here(sent: Sent, end: str) -> End:
    return sent.sender if end == SEND else sent.receiver


def _other(end: str) -> str:
    """The direction of a response's request, at the same process."""
    return ENDS[1 - ENDS.index(end)]


def _request_of(sent: Sent) -> Sent:
    return Sent(REQUEST, sent.number, sent.size, sent.receiver, sent.sender)


def name_of(record: Mapping[str, Any]) -> str | None:
    """Return the URL of the exchange: a response of the canary repeats it in a header."""
    name = record.get("url") if record["type"] == REQUEST else record["headers"].get(NAME_HEADER)
    return name if isinstance(name, str) else None


def _short(record: Mapping[str, Any], token: str) -> str:
    """Name a line; without its content, unless the canary made it: reports are sent to others."""
    name = name_of(record) or ""
    if name.startswith(f"/{token}/"):
        return f"{record['type']} {name}"
    return f"a {record['type']} of {record['bytes']} bytes from another program"


def _reasons(verdicts: list[_Verdict]) -> str:
    """The verdicts that are not ``captured``, those with the same reason together."""
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.result != CAPTURED:
            together[verdict.reason, verdict.why].append(verdict.label)
    parts = []
    for (reason, why), labels in together.items():
        which = f" ({', '.join(labels)})" if len(labels) < len(verdicts) else ""
        parts.append(f"{reason}{which}{f': {why}' if why else ''}")
    return "; ".join(parts)
