"""Reads a capture's JSON lines: whole ones are records, what is none is counted and remembered.

A line is damaged if it is no JSON object, if it is no message (of a request or a
response, and with a time), or if a field is of another type than
``docs/output-format.md`` says: a file that another version wrote must not become
a wrong answer. Fields that this version does not know are passed on.
"""

from __future__ import annotations

import re
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import orjson

from profiler.errors import CaptureFileError
from profiler.ingest.probe.recording import FORMAT
from profiler.ingest.record import Record

# The fields of docs/output-format.md in their order; of each the type that JSON gives it.
FIELDS: dict[str, tuple[type, ...]] = {
    "timestamp": (str,),
    "pid": (int,),
    "comm": (str,),
    "cmdline": (str,),
    "direction": (str,),
    "source_ip": (str,),
    "source_port": (int,),
    "dest_ip": (str,),
    "dest_port": (int,),
    "source_path": (str,),
    "dest_path": (str,),
    "bytes": (int,),
    "method": (str,),
    "url": (str,),
    "status_code": (int,),
    "reason": (str,),
    "http_version": (str,),
    "headers": (dict,),
    "trailers": (dict,),
    "upgrade": (str,),
    "body": (str,),
    "raw_payload": (str,),
    "body_encoding": (str,),
    "raw_payload_encoding": (str,),
    "body_charset": (str,),
    "body_codings": (list,),
    "type": (str,),
    "role": (str,),
    "exchange": (str,),
    "request": (dict,),
    "latency_ms": (int, float),
    "duration_ms": (int, float),
    "stream": (int,),
    "syscall": (str,),
    "connection": (str,),
    "sequence": (int,),
    "socket": (int,),
    "netns": (int,),
    "tid": (int,),
    "process_start": (str,),
    "uid": (int,),
    "cgroup": (str,),
    "captured": (int,),
    "incomplete": (list,),
    "error_code": (str,),
}
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
# Above any line that can be written: the largest body, six times over for its escapes, twice.
_LINE_MAX = 1 << 30
_TOLD = 5


@dataclass
class Damage:
    """What of a capture could not be read."""

    lines: int = 0
    """How many lines are no message."""

    examples: list[tuple[int, str]] = field(default_factory=list)
    """Of the first few: the line's number, from 1 on, and what is wrong with it."""

    def add(self, number: int, why: str) -> None:
        """Count a line."""
        self.lines += 1
        if len(self.examples) < _TOLD:
            self.examples.append((number, why))

    def __str__(self) -> str:
        told = "; ".join(f"line {number}: {why}" for number, why in self.examples)
        rest = self.lines - len(self.examples)
        return f"{self.lines} damaged ({told}" + (f"; and {rest} more)" if rest else ")")


class Capture:
    """A file of JSON lines; ``-`` is standard input. Raises CaptureFileError."""

    def __init__(self, path: Path) -> None:
        self.name = "standard input" if path == Path("-") else path.name
        self.lines = 0
        """Lines that were read, empty ones apart."""
        self.damage = Damage()
        try:
            self._file: BinaryIO = sys.stdin.buffer if path == Path("-") else path.open("rb")
        except OSError as error:
            raise CaptureFileError(f"cannot read {path}: {error.strerror}") from error
        self._path = path

    def records(self) -> Iterator[Record]:
        """Yield the record of each whole line. Raises CaptureFileError if there is none at all."""
        try:
            with self._file:
                yield from self._records()
        except OSError as error:
            raise CaptureFileError(f"cannot read {self._path}: {error.strerror}") from error
        if self.damage.lines and self.damage.lines == self.lines:
            raise CaptureFileError(
                f"{self._path} is no capture of http-profiler that this version can read: "
                f"of its {self.lines} lines none is a message "
                f"(line {self.damage.examples[0][0]}: {self.damage.examples[0][1]})"
            )

    def _records(self) -> Iterator[Record]:
        number = 0
        while True:
            line = self._file.readline(_LINE_MAX)
            if not line:
                return
            number += 1
            if not line.strip():
                continue
            self.lines += 1
            record = _parsed(line)
            if number == 1 and isinstance(record, dict) and record.get("format") == FORMAT:
                raise CaptureFileError(
                    f"{self._path} is a raw capture: "
                    f"make JSON lines of it with `http-profiler replay {self._path}`"
                )
            why = fault(record)
            if why is None:
                yield record  # type: ignore[misc]  # `fault` has looked
            elif not line.endswith(b"\n"):
                self.damage.add(number, "is cut off")
            else:
                self.damage.add(number, why)


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def fault(record: object) -> str | None:
    """Return what keeps ``record`` from being a message's; ``None`` if nothing does."""
    if not isinstance(record, dict):
        return "is no JSON object"
    if record.get("type") not in ("request", "response") or "timestamp" not in record:
        return "is no message"
    for name, value in record.items():
        types = FIELDS.get(name)
        # To Python, true is an integer.
        if types is not None and (not isinstance(value, types) or isinstance(value, bool)):
            return f"`{name}` is of another type"
    return _fault_inside(record)


def _fault_inside(record: Record) -> str | None:
    for name in ("headers", "trailers"):
        for value in record.get(name, {}).values():
            values = value if isinstance(value, list) else [value]
            if not all(isinstance(one, str) for one in values):
                return f"`{name}` is of another type"
    if not all(isinstance(value, str) for value in record.get("request", {}).values()):
        return "`request` is of another type"
    for name in ("incomplete", "body_codings"):
        if not all(isinstance(value, str) for value in record.get(name, ())):
            return f"`{name}` is of another type"
    if record.get("body_encoding") == "base64":
        try:
            b64decode(record.get("body", ""), validate=True)
        except ValueError:
            return "`body` is no base64"
    try:
        nanoseconds(record["timestamp"])
    except ValueError:
        return "`timestamp` is no time"
    return None


def nanoseconds(timestamp: str) -> int:
    """Return the nanoseconds since 1970 of a record's time. Raises ValueError."""
    if _TIMESTAMP.fullmatch(timestamp) is None:
        raise ValueError(timestamp)
    return _second(timestamp[:19]) * 1_000_000_000 + int(timestamp[20:-1].ljust(9, "0") or 0)


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp())


def body_bytes(record: Record) -> bytes:
    """Return the bytes of a record's content, as they were before they were read as text."""
    body = str(record.get("body", ""))
    if record.get("body_encoding") == "base64":
        return b64decode(body)
    try:
        return body.encode(record.get("body_charset", "utf-8"))
    except (LookupError, UnicodeEncodeError):
        return body.encode()
