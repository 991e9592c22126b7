# SPDX-License-Identifier: Apache-2.0
"""The cases of ``tests/cases``, each replayed in every way that bytes may reach an observer.

Whole, and with any cuts, a case gives its expected lines. With holes, or from a later start,
it gives fewer; then :func:`check_sound` applies: a message marked as whole is one of the
expected ones, and any other is the beginning of one.
"""

from __future__ import annotations

import json
import random
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.schema import Record
from tests.records import read_records
from tests.replay.script import CASES, Call, Lost, Script, Step, play, read

SCRIPTS = {path.parent.name: read(path) for path in sorted(CASES.glob("*/stream.txt"))}
DAMAGED = [name for name, script in SCRIPTS.items() if not script.only_whole]

EXPECTED = sorted(Path(__file__).parents[1].rglob("expected.jsonl"))

SEEDS = range(12)
# A case with more places than this is replayed from some of them only.
JOINS = 250


@pytest.fixture
def script(name: str) -> Script:
    return SCRIPTS[name]


@pytest.fixture
def expected(name: str) -> list[Record]:
    text = (CASES / name / "expected.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


damaged = pytest.mark.parametrize("name", DAMAGED)


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.parent.name)
def test_the_expected_lines_match_the_schema(path: Path) -> None:
    text = path.read_text()
    assert len(read_records(text)) == text.count("\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_whole(script: Script, expected: list[Record]) -> None:
    assert play(script) == expected


@damaged
def test_byte_by_byte(script: Script, expected: list[Record]) -> None:
    check(script, expected, [piece for step in script.steps for piece in pieces(step, 1)])


@damaged
@pytest.mark.parametrize("seed", SEEDS)
def test_random_cuts(script: Script, expected: list[Record], seed: int) -> None:
    chance = random.Random(seed)
    check(script, expected, [piece for step in script.steps for piece in cut(step, chance)])


@damaged
@pytest.mark.parametrize("seed", SEEDS)
def test_with_holes(script: Script, expected: list[Record], seed: int) -> None:
    chance = random.Random(seed)
    steps = [piece for step in script.steps for piece in cut(step, chance)]
    calls = [index for index, step in enumerate(steps) if isinstance(step, Call)]
    for index in chance.sample(calls, min(len(calls), chance.randint(1, 3))):
        call = steps[index]
        size = len(call.payload) + call.beyond
        steps[index] = Lost(call.socket, call.direction, size)
    check_sound(play(script, steps), expected, script.pipelines)


@damaged
def test_each_call_may_be_missing(script: Script, expected: list[Record]) -> None:
    for index, step in enumerate(script.steps):
        if isinstance(step, Call):
            size = len(step.payload) + step.beyond
            hole = [Lost(step.socket, step.direction, size)]
            steps = [*script.steps[:index], *hole, *script.steps[index + 1 :]]
            check_sound(play(script, steps), expected, script.pipelines)


@damaged
def test_joined_anywhere(script: Script, expected: list[Record]) -> None:
    places = [
        (index, at)
        for index, step in enumerate(script.steps)
        if isinstance(step, Call)
        for at in range(len(step.payload))
    ]
    if len(places) > JOINS:
        inside = random.Random(0).sample(places, JOINS)
        places = [place for place in places if place[1] < 2] + inside
    for index, at in places:
        first = script.steps[index]
        first = replace(first, payload=first.payload[at:], continued=at > 0)
        lines = play(script, [first, *script.steps[index + 1 :]], joined=True)
        check_sound(lines, expected, script.pipelines)
        if at == 0 and not script.calls_matter:
            check_nothing_is_missing(lines, expected, script.steps[index:])


# ---- how bytes are cut


def pieces(step: Step, size: int) -> list[Step]:
    """Split a call into calls of ``size`` bytes."""
    if not isinstance(step, Call):
        return [step]
    return split(step, range(0, len(step.payload), size))


def cut(step: Step, chance: random.Random) -> list[Step]:
    """Split a call into several events."""
    if not isinstance(step, Call):
        return [step]
    places = (chance.randrange(len(step.payload)) for _ in range(chance.randint(0, 4)))
    first, *others = split(step, {0, *places})
    return [first, *(replace(each, continued=True) for each in others)]


def split(call: Call, places: Iterable[int]) -> list[Call]:
    edges = [*sorted(places), len(call.payload)]
    parts = [
        replace(call, payload=call.payload[start:stop], beyond=0)
        for start, stop in zip(edges, edges[1:])
    ]
    return [*parts[:-1], replace(parts[-1], beyond=call.beyond)]


# ---- what must be true


def check(script: Script, expected: list[Record], steps: list[Step]) -> None:
    lines = play(script, steps)
    if script.calls_matter:
        check_sound(lines, expected, script.pipelines)
    else:
        assert lines == expected


def start_of(line: Record) -> tuple[object, ...]:
    names = ("type", "method", "url", "status_code", "reason", "http_version")
    return tuple(line.get(name) for name in names)


def starts_like(line: Record, each: Record) -> bool:
    """A partial message may lack parts of its start (HTTP/2)."""
    found, true = start_of(line), start_of(each)
    if line.get("http_version") != "2" or "incomplete" not in line:
        return found == true
    return all(a in (None, b) for a, b in zip(found, true))


def data_of(line: Record, name: str) -> bytes:
    value = line[name]
    encoded = line.get(f"{name}_encoding") == "base64"
    return b64decode(value) if encoded else value.encode()


def content_of(line: Record) -> str:
    """Return the content of a line, without references to other messages and without times."""
    names = ("headers", "trailers", "upgrade", "body", "raw_payload", "bytes")
    return json.dumps([start_of(line), [line.get(name) for name in names]])


def check_sound(lines: list[Record], expected: list[Record], pipelines: bool) -> None:
    left = Counter(map(content_of, expected))
    for line in lines:
        alike = [each for each in expected if starts_like(line, each)]
        if line.get("incomplete") == ["no_response", "reset"] and not alike:
            # The loss of the response only shows later.
            alike = [
                each
                for each in expected
                if each.get("stream") == line["stream"] and "reset" in each.get("incomplete", ())
            ]
        if "incomplete" not in line and not is_tunnel(line, alike):
            content = content_of(line)
            assert left[content] > 0, f"invented: {line}"
            left[content] -= 1
            alike = [each for each in alike if content_of(each) == content]
        raw = data_of(line, "raw_payload")
        alike = [
            each
            for each in alike
            if data_of(each, "raw_payload").startswith(raw) or is_tunnel(line, [each])
        ]
        assert alike, f"the beginning of no message: {line}"
        if "request" in line and not pipelines:
            asked = line["request"].items()
            assert any(asked <= each.get("request", line["request"]).items() for each in alike)
        assert line["captured"] == len(raw) <= line["bytes"]


def is_tunnel(line: Record, alike: list[Record]) -> bool:
    """Without its CONNECT, the response looks like one that lasts until the close."""
    return "request" not in line and any(each.get("upgrade") == "tunnel" for each in alike)


def check_nothing_is_missing(lines: list[Record], expected: list[Record], steps: list[Step]):
    """All whole requests that begin with a call after the start of the capture are present."""
    begin = {step.time: step.payload for step in steps if isinstance(step, Call)}
    found = Counter(content_of(line) for line in lines)
    for line in expected:
        time = round(float(line["timestamp"][17:-1]) * 1e9)
        raw = data_of(line, "raw_payload")
        if line["type"] != "request" or "incomplete" in line or line["http_version"] == "2":
            continue
        if time in begin and begin[time].startswith(raw[:16]):
            found[content_of(line)] -= 1
            assert found[content_of(line)] >= 0, f"missing: {line}"
