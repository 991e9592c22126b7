# SPDX-License-Identifier: Apache-2.0
"""Reads capture files: returns valid lines as records, and counts damaged ones.

A line is damaged if it is not a JSON object, not a message, or if a field does not have its type in
``schema.py``. So a file from another version cannot lead to wrong results. Unknown fields are kept.
Files may be compressed (gzip, zstd), which their first bytes show. Several files are read in the
order of their first records.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import warnings
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import orjson

from profiler import RECORDING_FORMAT, schema
from profiler.errors import CaptureFileError
from profiler.exchanges.model import nanoseconds

if TYPE_CHECKING:
    from profiler.schema import Record

STDIN = Path("-")

# Above any line that can be written: twice the largest body, times six for escapes.
_LINE_MAX = 1 << 30
_EXAMPLES = 5
_PROGRESS_LINES = 1000
# RFC 1952, 2.3.1, and RFC 8878, 3.1.1.
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UPPER = re.compile("[A-Z]")

Progress = Callable[[str, float], None]
"""Called with the name of what is being read and the share read so far, from 0 to 1."""


def read(path: str | os.PathLike[str], *more: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield the records of capture files, which may be compressed; ``-`` is standard input.

    Damaged lines are skipped, with a warning at the end. Raises CaptureFileError for a file that
    cannot be read or has no records.
    """
    capture = Capture(*map(Path, (path, *more)))
    yield from capture.records()
    if capture.damaged:
        warnings.warn(capture.damaged, stacklevel=2)


@dataclass
class Damage:
    """The damaged lines of a capture."""

    lines: int = 0
    """The number of damaged lines."""

    examples: list[tuple[int, str]] = field(default_factory=list)
    """The first few: the line's number, from 1, and what is wrong with it."""

    def add(self, number: int, why: str) -> None:
        """Count a line."""
        self.lines += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append((number, why))

    def __str__(self) -> str:
        examples = "; ".join(f"line {number}: {why}" for number, why in self.examples)
        rest = self.lines - len(self.examples)
        return f"{self.lines} damaged ({examples}" + (f"; and {rest} more)" if rest else ")")


class Capture:
    """Capture files, read as one. Raises CaptureFileError."""

    def __init__(self, *paths: Path) -> None:
        self.lines = 0
        """Lines read so far, without empty ones."""
        self.damage = Damage()
        self._files = [_File(path, self, len(paths) > 1) for path in dict.fromkeys(paths)]
        more = len(self._files) - 1
        self.name = self._files[0].name + (f" and {more} more" if more else "")

    @property
    def damaged(self) -> str | None:
        """A line about damaged lines; ``None`` if there are none."""
        damage = self.damage
        return f"{self.name}: of {self.lines} lines, {damage}" if damage.lines else None

    def records(self, progress: Progress | None = None) -> Iterator[Record]:
        """Yield the record of each valid line. Raises CaptureFileError if a file has none."""
        if len(self._files) == 1:
            yield from self._files[0].records(progress)
            return
        # Sorted by first record: the names of rotated files do not show their order.
        begun: list[tuple[str, int, Record, Iterator[Record]]] = []
        for file in self._files:
            records = file.records(progress)
            first = next(records, None)
            if first is not None:
                begun.append((first["timestamp"], len(begun), first, records))
        for _, _, first, records in sorted(begun, key=lambda one: one[:2]):
            yield from chain((first,), records)


class _File:
    """One of the files of a capture."""

    def __init__(self, path: Path, capture: Capture, is_one_of_several: bool) -> None:
        self.name = "standard input" if path == STDIN else path.name
        self._path = path
        self._capture = capture
        self._where = f" (in {self.name})" if is_one_of_several else ""
        try:
            self._raw: BinaryIO = sys.stdin.buffer if path == STDIN else path.open("rb")
        except OSError as error:
            raise CaptureFileError(f"cannot read {path}: {error.strerror}") from error

    def records(self, progress: Progress | None) -> Iterator[Record]:
        capture, lines, damaged = self._capture, 0, 0
        first_damage = ""
        try:
            for number, line in self._numbered(progress):
                lines += 1
                capture.lines += 1
                record = _parsed(line)
                if number == 1:
                    self._refuse_recording(record)
                why = fault(record)
                if why is None:
                    yield normalized(cast("Record", record))
                    continue
                if not line.endswith(b"\n"):
                    why = "is cut off"
                damaged += 1
                first_damage = first_damage or f"line {number}: {why}"
                capture.damage.add(number, why + self._where)
        except OSError as error:
            raise CaptureFileError(
                f"cannot read {self._path}: {error.strerror or error}"
            ) from error
        if damaged and damaged == lines:
            raise CaptureFileError(
                f"{self._path} is not a capture file that this version of http-profiler can read: "
                f"none of its {lines} lines is a message ({first_damage})"
            )

    def _numbered(self, progress: Progress | None) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are not empty, with their numbers, from 1."""
        size = 0 if self._path == STDIN else os.fstat(self._raw.fileno()).st_size
        number = 0
        with self._raw:
            file = _uncompressed(self._raw)
            while True:
                try:
                    line = file.readline(_LINE_MAX)
                except _compression_errors() as error:
                    why = f"the compressed file is cut off or damaged here: {error}"
                    self._capture.lines += 1
                    self._capture.damage.add(number + 1, why + self._where)
                    return
                if not line:
                    return
                number += 1
                if number == 1:
                    line = line[3:] if line.startswith(codecs.BOM_UTF8) else line
                if line.strip():
                    yield number, line
                if progress and size and number % _PROGRESS_LINES == 0:
                    progress(self.name, self._raw.tell() / size)

    def _refuse_recording(self, record: object) -> None:
        if isinstance(record, dict) and record.get("format") == RECORDING_FORMAT:
            raise CaptureFileError(
                f"{self._path} is a recording, not a capture file: "
                f"convert it with `http-profiler replay {self._path}`"
            )


def _uncompressed(raw: BinaryIO) -> BinaryIO:
    file = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(Any, raw))
    start = file.peek(4)[:4]
    if start.startswith(_GZIP):
        import gzip

        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if start == _ZSTD:
        return cast(BinaryIO, io.BufferedReader(_zstd().ZstdFile(file)))
    return file


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _compression_errors() -> tuple[type[Exception], ...]:
    import gzip

    return EOFError, zlib.error, gzip.BadGzipFile, _zstd().ZstdError


def _parsed(line: bytes) -> object:
    try:
        return cast(object, orjson.loads(line))
    except orjson.JSONDecodeError:
        return None


def fault(record: object) -> str | None:
    """Return why ``record`` is not a valid record; ``None`` if it is."""
    if not isinstance(record, dict):
        return "is not a JSON object"
    if record.get("type") not in ("request", "response") or "timestamp" not in record:
        return "is not a message"
    checks = schema.checks()
    for name, value in record.items():
        check = checks.get(name)
        if check is not None and not check(value):
            return f"`{name}` has the wrong type"
        if isinstance(value, (dict, list)) and not _can_be_written(value):
            return f"`{name}` is nested too deeply"
    if record.get("body_encoding") == "base64":
        try:
            b64decode(record.get("body", ""), validate=True)
        except ValueError:
            return "`body` is not base64"
    for name in ("timestamp", "process_start"):
        try:
            nanoseconds(str(record.get(name, record["timestamp"])))
        except ValueError:
            return f"`{name}` is not a time"
    return None


def _can_be_written(value: object) -> bool:
    # orjson reads deeper nesting than it writes, and an output nests a record a few times more.
    try:
        orjson.dumps([[[[[[[[value]]]]]]]])
    except (TypeError, orjson.JSONEncodeError):
        return False
    return True


def normalized(record: Record) -> Record:
    """Return a record with header names in lower case; versions before 0.2 wrote them as sent."""
    if "headers" in record and _UPPER.search("".join(record["headers"])):
        record["headers"] = _lowered(record["headers"])
    if "trailers" in record and _UPPER.search("".join(record["trailers"])):
        record["trailers"] = _lowered(record["trailers"])
    return record


def _lowered(headers: schema.Headers) -> schema.Headers:
    found: schema.Headers = {}
    for name, value in headers.items():
        name = name.lower()
        if name in found:
            value = [*_listed(found[name]), *_listed(value)]
        found[name] = value
    return found


def _listed(value: str | list[str]) -> Iterable[str]:
    return value if isinstance(value, list) else (value,)


def body_bytes(record: Record) -> bytes:
    """Return the bytes of a record's content, before they were decoded as text."""
    body = record.get("body", "")
    if record.get("body_encoding") == "base64":
        return b64decode(body)
    try:
        return body.encode(record.get("body_charset", "utf-8"))
    except (LookupError, ValueError):
        return body.encode()


def header_fields(record: Record) -> list[tuple[str, str]]:
    """Return names and values of a record's headers; names as sent, if its bytes show them."""
    head = ""
    if record.get("http_version") in ("1.0", "1.1") and "raw_payload_encoding" not in record:
        head = record.get("raw_payload", "").partition("\r\n\r\n")[0]
    lines = (line.partition(":")[0] for line in head.split("\r\n")[1:])
    sent = {name.lower(): name for name in lines}
    return [
        (sent.get(name, name), one)
        for name, value in record.get("headers", {}).items()
        for one in _listed(value)
    ]
