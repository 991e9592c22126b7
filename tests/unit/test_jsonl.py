# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import orjson
import pytest

from profiler.errors import OutputClosed, OutputError
from profiler.outputs import Rotation, Sink
from profiler.outputs.jsonl import JsonLines


def lines(path: Path) -> list[object]:
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [orjson.loads(line) for line in data.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_records_become_lines(path: Path) -> None:
    sink: Sink = JsonLines(path)
    sink.write({"a": 1, "text": "\u00e4\n"})
    sink.write({"b": [2]})
    sink.close()
    assert path.read_bytes() == '{"a":1,"text":"\u00e4\\n"}\n{"b":[2]}\n'.encode()


def test_lines_are_written_with_flush_and_not_before(path: Path) -> None:
    sink = JsonLines(path)
    sink.write({"a": 1})
    assert lines(path) == []
    sink.flush()
    assert lines(path) == [{"a": 1}]
    sink.close()
    assert lines(path) == [{"a": 1}]


def test_a_full_batch_is_written_without_a_flush(path: Path) -> None:
    sink = JsonLines(path)
    sink.write({"a": "x" * 70_000})
    assert len(lines(path)) == 1
    sink.close()


def test_a_renamed_file_is_replaced_by_a_new_one(path: Path, soon: Callable[[], None]) -> None:
    sink = JsonLines(path)
    old, older = path.with_suffix(".1"), path.with_suffix(".2")
    sink.write({"a": 1})
    sink.flush()
    path.rename(older)
    soon()
    sink.write({"a": 2})
    sink.flush()
    path.rename(old)
    soon()
    # Nothing is written, so no file is created.
    sink.flush()
    assert not path.exists()
    sink.write({"a": 3})
    sink.close()
    assert [lines(file) for file in (older, old, path)] == [[{"a": 1}], [{"a": 2}], [{"a": 3}]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_renamed_file_is_noticed_at_most_ten_times_a_second(
    path: Path, soon: Callable[[], None]
) -> None:
    sink = JsonLines(path)
    path.rename(old(path, 1))
    for n in range(3):
        sink.write({"n": n})
        sink.flush()
    soon()
    for n in range(3, 6):
        sink.write({"n": n})
        sink.flush()
    sink.close()
    assert lines(old(path, 1)) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert lines(path) == [{"n": 3}, {"n": 4}, {"n": 5}]


def test_a_new_file_after_a_rename_is_appended_to(path: Path, soon: Callable[[], None]) -> None:
    sink = JsonLines(path)
    path.rename(path.with_suffix(".1"))
    path.write_text("{}\n")
    soon()
    sink.write({"a": 1})
    sink.close()
    assert lines(path) == [{}, {"a": 1}]
    assert lines(path.with_suffix(".1")) == []


def test_reports_a_directory_that_is_gone(tmp_path: Path, soon: Callable[[], None]) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    sink = JsonLines(directory / "out.jsonl")
    shutil.rmtree(directory)
    for _ in range(2):
        soon()
        sink.write({"a": 1})
        with pytest.raises(
            OutputError, match=r"No such file or directory \(lines not written: 1\)"
        ):
            sink.flush()
    sink.close()


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_file_is_for_its_owner_alone(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        JsonLines(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_file_is_appended_to(path: Path) -> None:
    path.write_bytes(b'{"old":1}\n')
    sink = JsonLines(path)
    sink.write({"new": 2})
    sink.close()
    assert lines(path) == [{"old": 1}, {"new": 2}]


def test_a_partial_line_of_an_earlier_crash_is_terminated(path: Path) -> None:
    path.write_bytes(b'{"old":1}\n{"ha')
    sink = JsonLines(path)
    sink.write({"new": 2})
    sink.close()
    assert path.read_bytes() == b'{"old":1}\n{"ha\n{"new":2}\n'


class Disk:
    """``os.write`` on a disk with room for this many bytes, a few per call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, at_once: int = 7) -> None:
        self.room, self.at_once = room, at_once
        self._write = os.write
        monkeypatch.setattr("profiler.outputs.jsonl.os.write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        size = min(len(data), self.at_once, self.room)
        self.room -= size
        return self._write(fd, data[:size])


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JsonLines(path)
    Disk(monkeypatch, room=1000)
    for n in range(20):
        sink.write({"n": n})
    sink.close()
    assert lines(path) == [{"n": n} for n in range(20)]


@pytest.mark.parametrize("room", range(30))
def test_a_full_disk_leaves_whole_lines_only(
    path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path.write_bytes(b'{"old":1}\n')
    sink = JsonLines(path)
    disk = Disk(monkeypatch, room)
    for n in range(4):
        sink.write({"n": n})  # eight bytes each
    lost = 4 - room // 8
    with pytest.raises(
        OutputError, match=f"No space left on device.*not written: {lost}\\b"
    ) as caught:
        sink.flush()
    assert str(path) in str(caught.value)
    assert lines(path) == [{"old": 1}, *({"n": n} for n in range(room // 8))]
    disk.room = 1000
    sink.write({"later": 1})
    sink.close()
    assert lines(path)[-1] == {"later": 1}
    assert len(lines(path)) == 2 + room // 8


def test_closing_on_a_full_disk_fails_once_and_releases_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonLines(path)
    Disk(monkeypatch, room=3)
    sink.write({"n": 1})
    opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (of this process, at this moment)
    with pytest.raises(OutputError):
        sink.close()
    # The file and its directory.
    assert len(os.listdir("/proc/self/fd")) == opened - 2  # noqa: PTH208
    sink.close()
    assert lines(path) == []


@pytest.mark.parametrize(
    ("name", "advice"),
    [("missing/out.jsonl", "create the directory"), (".", "name a file in it")],
)
def test_a_path_that_cannot_be_opened(tmp_path: Path, name: str, advice: str) -> None:
    with pytest.raises(OutputError, match=advice) as caught:
        JsonLines(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@contextmanager
def stdout() -> Iterator[int]:
    """Replace standard output with a pipe; yield its reading end.

    Not a fixture: between a fixture and its test, pytest installs its own file again.
    """
    kept = os.dup(1)
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(writing)
    try:
        yield reading
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_standard_output_stays_open() -> None:
    with stdout() as reading:
        for n in range(2):
            sink = JsonLines(None)
            sink.write({"n": n})
            sink.close()
        assert os.read(reading, 100) == b'{"n":0}\n{"n":1}\n'


def test_a_closed_pipe() -> None:
    with stdout() as reading:
        sink = JsonLines(None)
        os.close(reading)
        sink.write({"n": 1})
        with pytest.raises(OutputClosed, match="standard output"):
            sink.flush()
        sink.close()


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    received = bytearray()
    with stdout() as reading:
        sink = JsonLines(None)
        os.set_blocking(sink.fd, False)

        def receive() -> None:
            while len(received) < 200_000:
                received.extend(os.read(reading, 65536))

        # Not before the pipe is full.
        reader = Timer(0.2, receive)
        reader.start()
        for _ in range(10):
            sink.write({"x": "y" * 20_000})
        sink.close()
        reader.join(10)
    assert len(received) >= 200_000


def old(path: Path, number: int) -> Path:
    return Path(f"{path}.{number}")


def files(path: Path) -> dict[str, list[object]]:
    return {file.name: lines(file) for file in sorted(path.parent.iterdir())}


LINE = b'{"n":0}\n'


@pytest.mark.parametrize("flushed", [1, 3, 100])
def test_a_file_rotates_before_it_exceeds_its_size(path: Path, flushed: int) -> None:
    sink = JsonLines(path, rotation=Rotation(3 * len(LINE) + 1, 2))
    for n in range(8):
        sink.write({"n": n})
        if n % flushed == 0:
            sink.flush()
    sink.close()
    numbers = [[{"n": n} for n in part] for part in ((6, 7), (3, 4, 5), (0, 1, 2))]
    assert files(path) == dict(zip(("out.jsonl", "out.jsonl.1", "out.jsonl.2"), numbers))
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_the_oldest_file_is_overwritten(path: Path) -> None:
    sink = JsonLines(path, rotation=Rotation(len(LINE), 2))
    for n in range(9):
        sink.write({"n": n})
    sink.close()
    assert files(path) == {
        "out.jsonl": [{"n": 8}],
        "out.jsonl.1": [{"n": 7}],
        "out.jsonl.2": [{"n": 6}],
    }


def test_a_line_longer_than_the_limit_has_a_file_of_its_own(path: Path) -> None:
    sink = JsonLines(path, rotation=Rotation(20, 3))
    long = {"a": "x" * 100}
    for record in ({"n": 0}, long, {"n": 1}):
        sink.write(record)
    sink.close()
    assert [lines(file) for file in (old(path, 2), old(path, 1), path)] == [
        [{"n": 0}],
        [long],
        [{"n": 1}],
    ]


def test_what_the_file_had_before_counts(path: Path) -> None:
    path.write_bytes(2 * LINE)
    sink = JsonLines(path, rotation=Rotation(3 * len(LINE), 1))
    sink.write({"n": 1})
    sink.flush()
    assert not old(path, 1).exists()
    sink.write({"n": 2})
    sink.close()
    assert lines(old(path, 1)) == [{"n": 0}, {"n": 0}, {"n": 1}]
    assert lines(path) == [{"n": 2}]


def test_a_file_that_another_program_renamed_rotates_anew(path: Path) -> None:
    sink = JsonLines(path, rotation=Rotation(2 * len(LINE), 3))
    for n in range(2):
        sink.write({"n": n})
    sink.flush()
    path.rename(path.with_suffix(".moved"))
    for n in range(2, 5):
        sink.write({"n": n})
    sink.close()
    assert files(path) == {
        "out.jsonl": [{"n": 4}],
        "out.jsonl.1": [{"n": 2}, {"n": 3}],
        "out.moved": [{"n": 0}, {"n": 1}],
    }


def test_a_rotation_that_fails_is_one_error(path: Path) -> None:
    sink = JsonLines(path, rotation=Rotation(2 * len(LINE), 3))
    old(path, 1).mkdir()
    old(path, 2).mkdir()
    old(path, 3).write_text("")
    for n in range(5):
        sink.write({"n": n})
    with pytest.raises(
        OutputError, match=r"cannot rename .*\.2 to .*\.3: .*not written: 3"
    ) as caught:
        sink.flush()
    assert "\n" not in str(caught.value)
    assert lines(path) == [{"n": 0}, {"n": 1}]
    old(path, 3).unlink()
    sink.write({"n": 5})
    sink.close()
    assert lines(path) == [{"n": 5}]


@pytest.mark.parametrize("room", range(0, 44, 3))
def test_a_full_disk_leaves_whole_lines_in_every_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    sink = JsonLines(path, rotation=Rotation(2 * len(LINE), 5))
    Disk(monkeypatch, room)
    for n in range(6):
        sink.write({"n": n})
    written = room // len(LINE)
    with pytest.raises(OutputError, match=f"not written: {6 - written}\\b"):
        sink.flush()
    found = files(path)
    numbers = sorted(record["n"] for part in found.values() for record in part)  # type: ignore[index]
    assert numbers == list(range(written))


def test_a_link_is_not_rotated(path: Path) -> None:
    path.symlink_to(path.with_suffix(".target"))
    with pytest.raises(OutputError, match="is a symbolic link"):
        JsonLines(path, rotation=Rotation(100, 1))


def test_what_is_no_file_is_not_rotated() -> None:
    sink = JsonLines(Path("/dev/null"), rotation=Rotation(1, 1))
    for n in range(3):
        sink.write({"n": n})
    sink.close()
    assert not Path("/dev/null.1").exists()
