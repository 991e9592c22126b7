# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import stat
from pathlib import Path

import pytest

from profiler.errors import CaptureFileError, OutputError
from profiler.ingest.probe.recording import Origin, Recorder, Recording

ORIGIN = Origin("x86_64", "6.1.0", "socket")
RECORDS = [b"first", b"", b"x" * 100_000]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "capture"
    recorder = Recorder(path, ORIGIN)
    for record in RECORDS:
        recorder.write(record)
    recorder.close()
    return path


def test_write_and_read(path: Path) -> None:
    recording = Recording(path)
    assert recording.origin == ORIGIN
    assert list(recording.records()) == RECORDS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_older_recording_is_replaced(path: Path) -> None:
    Recorder(path, ORIGIN).close()
    assert list(Recording(path).records()) == []


def test_an_empty_file_becomes_a_recording(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    Recorder(tmp_path / "empty", ORIGIN).close()
    assert Recording(tmp_path / "empty").origin == ORIGIN


@pytest.mark.parametrize("content", [b"{", b'{"format": "HAR"}\n', b"\n", b"precious\n" * 1000])
def test_a_file_with_other_content_is_not_emptied(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(OutputError, match=r"other content.* choose another --record$") as caught:
        Recorder(path, ORIGIN)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_cut_anywhere_is_read_up_to_the_cut(path: Path) -> None:
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    boundaries = [start, start + 9, start + 13, len(whole)]
    for cut in [*range(start, start + 40), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        read: list[bytes] = []
        if cut in boundaries:
            read += Recording(path).records()
        else:
            with pytest.raises(CaptureFileError, match="cut off"):
                for record in Recording(path).records():
                    read.append(record)
        assert read == RECORDS[: sum(cut >= b for b in boundaries[1:])]


def test_damage_is_distinguished_from_a_cut(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\xff\xff\xff\xff garbage")
    with pytest.raises(CaptureFileError, match="damaged at byte"):
        list(Recording(path).records())


@pytest.mark.parametrize(
    ("first_line", "said"),
    [
        (b"hello\n", "is not a recording"),
        (b"", "is not a recording"),
        (b"\x00" * 10_000, "is not a recording"),
        (b"[]\n", "is not a recording"),
        (b'{"format": "pcap", "version": 1}\n', "is not a recording"),
        (b'{"format": "http-profiler capture", "version": 1}\n', "version 1"),
        (b'{"format": "http-profiler capture", "version": 3, "x": 1}\n', "first line"),
    ],
)
def test_a_foreign_file(tmp_path: Path, first_line: bytes, said: str) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(first_line)
    with pytest.raises(CaptureFileError, match=said):
        Recording(path)


def test_a_capture_from_a_machine_with_the_other_byte_order(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"little"', b'"big"'))
    with pytest.raises(CaptureFileError, match="big-endian"):
        Recording(path)


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CaptureFileError, match="No such file"):
        Recording(tmp_path / "missing")
    with pytest.raises(OutputError, match="--record"):
        Recorder(tmp_path / "no" / "directory", ORIGIN)


def test_reports_a_full_disk() -> None:
    recorder = Recorder(Path("/dev/full"), ORIGIN)
    with pytest.raises(OutputError, match="No space left"):
        for _ in range(100):
            recorder.write(b"x" * 1000)
    with pytest.raises(OutputError, match="No space left"):
        recorder.close()
