# SPDX-License-Identifier: Apache-2.0
"""Parses the cases of ``tests/cases`` (README.md there has the format), and plays them.

``python -m tests.replay.script NAME ...`` writes the current result as
``expected.jsonl``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Union

from profiler.ingest import wire
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.wire import (
    FLAG_AFTER_LOSS,
    FLAG_CONTINUED,
    FLAG_EXIT,
    FLAG_JOINED,
    FLAG_LIMIT,
    FLAG_RESET,
    RECV,
    SEND,
)
from profiler.schema import Record
from tests.unit.wires import SOCKET, chunk

CASES = Path(__file__).parents[1] / "cases"

ENDINGS = {"reset": FLAG_RESET, "exit": FLAG_EXIT}
DIRECTIONS = {">": SEND, "<": RECV}
MILLISECOND = 1_000_000

# The process and addresses: the same in each line.
_LEFT_OUT = {
    *("pid", "comm", "source_ip", "source_port", "dest_ip", "dest_port"),
    *("connection", "socket", "netns", "tid", "process_start"),
}

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\"}


@dataclass(frozen=True)
class Call:
    """One call as the kernel reports it: it moved ``beyond`` bytes more than ``payload``."""

    socket: int
    direction: int
    time: int
    payload: bytes
    beyond: int = 0
    continued: bool = False


@dataclass(frozen=True)
class Lost:
    """Bytes that moved and could not be delivered."""

    socket: int
    direction: int
    size: int


@dataclass(frozen=True)
class Ended:
    """A direction ended."""

    socket: int
    direction: int
    time: int
    flags: int = 0


Step = Union[Call, Lost, Ended]


@dataclass
class Script:
    """The steps of a case."""

    steps: list[Step] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    joined: bool = False
    calls_matter: bool = False
    only_whole: bool = False
    pipelines: bool = False


def read(path: Path) -> Script:
    """Parse a ``stream.txt``. Raises ValueError with the invalid line."""
    script = Script()
    time, socket = 1000 * MILLISECOND, SOCKET
    call: tuple[int, bytearray] | None = None

    def end_call() -> None:
        nonlocal call, time
        if call is not None:
            script.steps.append(Call(socket, call[0], time, bytes(call[1])))
            time += MILLISECOND
        call = None

    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark, rest = line[:1], line[1:]
        if mark in DIRECTIONS:
            if rest[:1] not in ("", " "):
                raise ValueError(f"{path}:{number}: no blank after {mark}")
            direction = DIRECTIONS[mark]
            if call is None or call[0] != direction:
                end_call()
                call = direction, bytearray()
            call[1].extend(_bytes_of(rest[1:]))
            continue
        if mark == "#":
            continue
        end_call()
        if not line:
            continue
        words = rest.split()
        if mark != "!" or not words:
            raise ValueError(f"{path}:{number}: {line!r}")
        if words[0] == "wait":
            time += int(words[1]) * MILLISECOND
        elif words[0] == "end":
            flags = sum(ENDINGS[word] for word in words[2:])
            script.steps.append(Ended(socket, DIRECTIONS[words[1]], time, flags))
            time += MILLISECOND
        elif words[0] == "lost":
            script.steps.append(Lost(socket, DIRECTIONS[words[1]], int(words[2])))
        elif words[0] == "beyond":
            script.steps[-1] = replace(script.steps[-1], beyond=int(words[2]))
        elif words[0] == "socket":
            socket = SOCKET + int(words[1])
        elif words[0] == "settings":
            changes = dict(word.split("=") for word in words[1:])
            numbers = {name: int(value) for name, value in changes.items()}
            script.settings = replace(script.settings, **numbers)
        elif words == ["joined"]:
            script.joined = True
        elif words == ["calls", "matter"]:
            script.calls_matter = True
        elif words == ["only", "whole"]:
            script.only_whole = True
        elif words == ["pipelines"]:
            script.pipelines = True
        else:
            raise ValueError(f"{path}:{number}: {line!r}")
    end_call()
    return script


def _bytes_of(text: str) -> bytes:
    data = text.encode()
    # An odd number of backslashes: the last one is not escaped.
    stripped = data.rstrip(b"\\")
    if (len(data) - len(stripped)) % 2:
        return _unescape(data[:-1])
    return _unescape(data) + b"\r\n"


def _unescape(data: bytes) -> bytes:
    def one(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPES[code]

    return _ESCAPE.sub(one, data)


def records(steps: Iterable[Step], joined: bool = False) -> list[bytes]:
    """Return the records of the wire for ``steps``."""
    position: dict[tuple[int, int], int] = {}
    lost: set[tuple[int, int]] = set()
    out = []
    for step in steps:
        key = step.socket, step.direction
        at = position.get(key, 0)
        if isinstance(step, Lost):
            position[key] = at + step.size
            lost.add(key)
            continue
        if isinstance(step, Ended):
            out.append(
                wire.encode(wire.End(step.direction, step.time, step.socket, at, step.flags))
            )
            continue
        size = len(step.payload) + step.beyond
        flags = (
            (FLAG_JOINED if joined else 0)
            | (FLAG_AFTER_LOSS if key in lost else 0)
            | (FLAG_CONTINUED if step.continued else 0)
            | (FLAG_LIMIT if step.beyond else 0)
        )
        lost.discard(key)
        item = chunk(
            step.payload, socket=step.socket, direction=step.direction, time=step.time,
            position=at, size=size, flags=flags,
        )  # fmt: skip
        out.append(wire.encode(item))
        position[key] = at + size
    return out


def play(script: Script, steps: Iterable[Step] | None = None, joined: bool = False) -> list[Record]:
    """Run a script, or other ``steps`` instead, through the pipeline."""
    written: list[Record] = []

    class Sink:
        write = staticmethod(written.append)

    pipeline = Pipeline(script.settings, Sink(), Processes(None), "x86_64")
    for record in records(script.steps if steps is None else steps, script.joined or joined):
        pipeline.feed(record)
    pipeline.finish()
    assert not pipeline.account.faults, pipeline.account.faults
    return [{k: v for k, v in line.items() if k not in _LEFT_OUT} for line in written]


def main(*names: str) -> None:
    """Write the current result as the expected one."""
    for name in names or sorted(path.parent.name for path in CASES.glob("*/stream.txt")):
        lines = play(read(CASES / name / "stream.txt"))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (CASES / name / "expected.jsonl").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
