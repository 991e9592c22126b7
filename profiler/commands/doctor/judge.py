"""Lines against script: what became of every message, at either end.

The rule: a message is *captured* if there is exactly one line that says what was
said, byte for byte, by whom and between whom; *partial* if its line admits that
something is missing; *missed* if there is none; and *wrong* if a line contradicts
the script, or nobody said it. A case is as good as its worst message.
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
    Said,
    message,
    url,
)

Record = dict[str, Any]

SKIPPED = "the kernel skipped the probe for some calls, and the account says so"
SKIPPABLE = ("lost", "closed_early")

# Reasons that leave the size of the message known: the rest was counted.
_COUNTED = {"lost", "body_limit"}


@dataclass(frozen=True)
class Judgement:
    """One row: a case at one end.

    ``what`` describes the case in words, ``expected`` is the result that is right
    here, ``worse`` whether this one is worse than that, ``reason`` says why it is
    not ``captured``.
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
    """The profiler's records, by the message that each says it is."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._named: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
        self._of_socket: dict[Any, list[Record]] = defaultdict(list)
        for record in records:
            self._named[record["type"], record["direction"], name_of(record)].append(record)
            self._of_socket[record.get("socket")].append(record)

    def of(self, token: str, case: str, said: Said, end: str) -> list[Record]:
        """Return the lines of a message at one end."""
        return self._named.get((said.type, end, url(token, case, said.number)), [])

    def of_socket(self, inode: int) -> list[Record]:
        """Return all lines of a socket."""
        return self._of_socket.get(inode, [])


def judge(
    case: Case,
    outcome: Outcome,
    lines: Lines,
    token: str,
    route: str,
    kernel: tuple[int, int],
    skipped: bool = False,
) -> list[Judgement]:
    """Return what became of a case at both ends, on a ``kernel`` of (version, patch level).

    ``skipped``: the profiler said that the kernel did not run the probe for some calls.
    """
    if outcome.unavailable is not None:
        there = kernel >= case.since
        since = "" if there else f" (it is there from Linux {case.since[0]}.{case.since[1]} on)"
        if there and case.option:
            there, since = False, f" (a kernel may be built without {case.option})"
        expected = CAPTURED if there else UNAVAILABLE
        reason = f"not on this machine: {outcome.unavailable}{since}"
        row = (case.group, case.name, case.what, route)
        return [Judgement(*row, end, UNAVAILABLE, expected, there, reason) for end in ENDS]
    judgements = [_judge_end(case, outcome.said, lines, token, route, end) for end in ENDS]
    return [_excused(each) for each in judgements] if skipped else judgements


def _excused(judgement: Judgement) -> Judgement:
    """What a call that the kernel hid may have done: never a wrong line, and it was counted."""
    if not judgement.worse or judgement.result not in (PARTIAL, MISSED):
        return judgement
    if judgement.result == PARTIAL and not judgement.reason.startswith(SKIPPABLE):
        return judgement
    return replace(judgement, worse=False, reason=f"{judgement.reason}: {SKIPPED}")


def _judge_end(
    case: Case, script: tuple[Said, ...], lines: Lines, token: str, route: str, end: str
) -> Judgement:
    verdicts = []
    known: set[int] = set()
    for said in script:
        found = lines.of(token, case.name, said, end)
        known.update(map(id, found))
        verdicts.append(_judge_message(case, said, found, lines, token, route, end))
    sockets = {_here(said, end).socket for said in script}
    strays = [
        record
        for inode in sockets
        for record in lines.of_socket(inode)
        if record["direction"] == end and id(record) not in known
    ]
    if strays:
        what = f"a line that nobody said: {_short(strays[0])}"
        verdicts.append(_Verdict(f"{len(strays)} in all", WRONG, CAPTURED, what, True, ""))
    result = max((v.result for v in verdicts), key=RESULTS.index)
    expected = max((v.expected for v in verdicts), key=RESULTS.index)
    worse = any(v.worse for v in verdicts)
    return Judgement(
        case.group, case.name, case.what, route, end, result, expected, worse, _reasons(verdicts)
    )


def _judge_message(
    case: Case, said: Said, found: list[Record], lines: Lines, token: str, route: str, end: str
) -> _Verdict:
    less = _less(case, said, route, end)
    expected = less.result if less else CAPTURED
    result, reasons = _look_at(case, said, found, lines, token, end)
    worse = RESULTS.index(result) > RESULTS.index(expected)
    if less and result == expected == PARTIAL:
        worse = not set(reasons) <= set(less.incomplete)
    why = less.why if less and result != CAPTURED and not worse else ""
    return _Verdict(said.label, result, expected, ", ".join(reasons), worse, why)


def _less(case: Case, said: Said, route: str, end: str) -> Less | None:
    for less in case.less:
        if (
            end in less.ends
            and (not less.messages or said.label in less.messages)
            and less.route in (None, route)
        ):
            return less
    return None


def _look_at(
    case: Case, said: Said, found: list[Record], lines: Lines, token: str, end: str
) -> tuple[str, list[str]]:
    """Return the result of one message, and the reasons for it."""
    if not found:
        return MISSED, ["no line"]
    if len(found) > 1:
        return WRONG, [f"{len(found)} lines"]
    record = found[0]
    contradictions = [
        f"{name} is {record.get(name)!r}, not {value!r}"
        for name, value in _facts(case, said, token, end).items()
        if record.get(name) != value
    ]
    contradictions += _content(record, message(token, case.name, said.type, said.number, said.size))
    if contradictions:
        return WRONG, contradictions
    missing = list(record.get("incomplete", ()))
    unpaired = said.type == RESPONSE and "request" not in record
    if unpaired and lines.of(token, case.name, _request_of(said), _other(end)):
        missing.append("not paired with its request")
    return (PARTIAL if missing else CAPTURED), missing


def _facts(case: Case, said: Said, token: str, end: str) -> dict[str, Any]:
    """What the record must say, but for the content; a field of ``None`` must be absent."""
    here = _here(said, end)
    sent, asks = end == SEND, said.type == REQUEST
    target = url(token, case.name, said.number)
    facts: dict[str, Any] = {
        "source_ip": said.sender.ip,
        "source_port": said.sender.port,
        "source_path": said.sender.path,
        "dest_ip": said.receiver.ip,
        "dest_port": said.receiver.port,
        "dest_path": said.receiver.path,
        "socket": here.socket,
        "netns": here.netns,
        "method": "POST" if asks else None,
        "url": target if asks else None,
        "status_code": None if asks else 200,
        "role": "client" if sent == asks else "server",
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
            wrong.append("raw_payload is not what was said")
        if kept != body:
            wrong.append("body is not what was said")
    elif not text.startswith(raw) or not raw.startswith(head) or not body.startswith(kept):
        wrong.append("what is kept is not the beginning of what was said")
    if record["bytes"] != len(whole) and incomplete <= _COUNTED:
        wrong.append(f"bytes is {record['bytes']}, not {len(whole)}")
    if record["captured"] != len(raw):
        wrong.append(f"captured is {record['captured']}, not {len(raw)}")
    request = record.get("request", {}).get("url")
    if request is not None and request != name_of(record):
        wrong.append(f"it is paired with another request, {request}")
    return wrong


def _here(said: Said, end: str) -> End:
    return said.sender if end == SEND else said.receiver


def _other(end: str) -> str:
    """The direction of a response's request, at the same process."""
    return ENDS[1 - ENDS.index(end)]


def _request_of(said: Said) -> Said:
    return Said(REQUEST, said.number, said.size, said.receiver, said.sender)


def name_of(record: Mapping[str, Any]) -> str | None:
    """Return the URL of the exchange: a response of the canary repeats it in a header."""
    name = record.get("url") if record["type"] == REQUEST else record["headers"].get(NAME_HEADER)
    return name if isinstance(name, str) else None


def _short(record: Mapping[str, Any]) -> str:
    return f"{record['type']} {name_of(record) or repr(record['raw_payload'][:40])}"


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
