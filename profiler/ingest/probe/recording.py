# SPDX-License-Identifier: Apache-2.0
"""Writes and reads recordings: files with the raw records of the wire.

The first line of a recording is a JSON object with its format and origin. The records of
the wire follow, each after its length (32 bits, in the byte order that the first line
names). A truncated file is read up to the last complete record.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from profiler import RECORDING_FORMAT
from profiler.errors import CaptureFileError, OutputError, UnsafeFile
from profiler.outputs.opened import open_empty

VERSION = 3
_HEADER_MAX = 4096
# Far above the largest record; a greater length means that the file is damaged.
_RECORD_MAX = 16 * 1024 * 1024
_LENGTH = struct.Struct("=I")
# How each recording begins, whatever its version.
_START = json.dumps({"format": RECORDING_FORMAT}).encode()[:-1]


@dataclass(frozen=True)
class Origin:
    """Where and how a recording was made."""

    machine: str
    """Architecture as printed by ``uname -m``: it determines the syscall numbers."""

    kernel: str
    route: str
    byteorder: str = sys.byteorder


class Recorder:
    """Writes a recording: creates a file with mode 0600, or overwrites an older recording.

    Raises OutputError if the file cannot be written, or has other content.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self._path = path
        header = {"format": RECORDING_FORMAT, "version": VERSION, **asdict(origin)}
        try:
            self._file = os.fdopen(open_empty(path, _START), "wb")
            self._file.write(json.dumps(header).encode() + b"\n")
        except (OSError, UnsafeFile) as error:
            raise self._error(error) from error

    def write(self, record: bytes) -> None:
        """Append one record. Raises OutputError."""
        try:
            self._file.write(_LENGTH.pack(len(record)))
            self._file.write(record)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Flush and close the file. Raises OutputError."""
        try:
            self._file.close()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError | UnsafeFile) -> OutputError:
        text, another = f"cannot write the recording {self._path}", "or choose another --record"
        if isinstance(error, UnsafeFile):
            return OutputError(f"{text}: {error}, {another}")
        return OutputError(f"{text}: {error.strerror}; free space or permissions there, {another}")


class Recording:
    """A recording opened for reading. Raises CaptureFileError if the file is not a recording."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise CaptureFileError(f"cannot read the recording {path}: {error.strerror}") from error
        try:
            self.origin = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def records(self) -> Iterator[bytes]:
        """Yield the records.

        Raises CaptureFileError after the last complete record if the file is damaged.
        """
        with self._file:
            while length_bytes := self._file.read(_LENGTH.size):
                position = self._file.tell() - len(length_bytes)
                if len(length_bytes) == _LENGTH.size:
                    (length,) = _LENGTH.unpack(length_bytes)
                    if length > _RECORD_MAX:
                        raise CaptureFileError(
                            f"the recording {self._path} is damaged at byte {position}: "
                            f"a record of {length} bytes; the records before it were read"
                        )
                    record = self._file.read(length)
                    if len(record) == length:
                        yield record
                        continue
                raise CaptureFileError(
                    f"the recording {self._path} is cut off in the record at byte {position}; "
                    "the records before it were read"
                )

    def _read_header(self) -> Origin:
        line = self._file.readline(_HEADER_MAX)
        try:
            header = json.loads(line)
            if header.pop("format") != RECORDING_FORMAT:
                raise ValueError
            version = header.pop("version")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CaptureFileError(
                f"{self._path} is not a recording of http-profiler, which `--record` writes"
                + ("; it is a capture file, which needs no replay" if line[:1] == b"{" else "")
            ) from None
        if version != VERSION:
            raise CaptureFileError(
                f"the recording {self._path} has format version {version}; "
                f"this http-profiler reads version {VERSION}"
            )
        try:
            origin = Origin(**header)
            if not all(isinstance(value, str) for value in header.values()):
                raise TypeError
        except TypeError:
            raise CaptureFileError(f"the first line of {self._path} is damaged") from None
        if origin.byteorder != sys.byteorder:
            raise CaptureFileError(
                f"the recording {self._path} comes from a {origin.byteorder}-endian machine, "
                f"this one is {sys.byteorder}-endian"
            )
        return origin
