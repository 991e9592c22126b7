# SPDX-License-Identifier: Apache-2.0
"""What root opens cannot be turned against the machine by another user."""

from __future__ import annotations

import grp
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from profiler.errors import OutputError
from profiler.ingest.probe.recording import Origin, Recorder
from profiler.outputs import Rotation
from profiler.outputs.file import output
from profiler.outputs.jsonl import JsonLines

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of several users need root")

MALLORY, ALICE = 65534, 54321
GROUP = 65534
LINE = b'{"a":1}\n'


def append(path: Path) -> None:
    sink = JsonLines(path)
    sink.write({"a": 1})
    sink.close()


def record(path: Path) -> None:
    Recorder(path, Origin("x86_64", "6.1.0", "socket")).close()


def report(path: Path) -> None:
    with output(path) as file:
        file.write(b"page")


Write = Callable[[Path], None]


@pytest.fixture(params=[append, record, report])
def write(request: pytest.FixtureRequest) -> Write:
    """Each way in which an output is opened."""
    function: Write = request.param
    return function


@pytest.fixture(autouse=True)
def nobody_called_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    directory = tmp_path / "sticky"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def make_directory(path: Path, owner: int = 0, group: int = 0, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


def make_file(path: Path, owner: int = 0, mode: int = 0o600, content: bytes = b"") -> Path:
    path.write_bytes(content)
    os.chown(path, owner, GROUP if owner else 0)
    path.chmod(mode)
    return path


def make_link(path: Path, target: Path, owner: int) -> Path:
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)
    return path


def refused(write: Write, path: Path) -> str:
    """Write to the path, which must fail; return the error, which is one line."""
    with pytest.raises(OutputError) as caught:
        write(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def test_a_directory_of_another_user_is_refused(write: Write, tmp_path: Path) -> None:
    directory = make_directory(tmp_path / "hers", MALLORY)
    text = refused(write, directory / "out")
    assert f"the directory {directory} belongs to nobody; choose a directory" in text
    assert list(directory.iterdir()) == []


def test_so_is_one_above(write: Write, tmp_path: Path) -> None:
    above = make_directory(tmp_path / "hers", MALLORY)
    make_directory(above / "ours")
    assert f"the directory {above} belongs to nobody" in refused(write, above / "ours" / "out")


def test_a_directory_that_every_user_can_write_to_is_refused(write: Write, tmp_path: Path) -> None:
    directory = make_directory(tmp_path / "open", mode=0o777)
    make_directory(directory / "ours")
    for path in (directory / "out", directory / "ours" / "out"):
        assert f"every user can write to the directory {directory}" in refused(write, path)


def test_a_group_can_write_to_a_directory_above_but_not_to_the_last(
    write: Write, tmp_path: Path
) -> None:
    """As ``/var/log`` is on Ubuntu, with the service's directory in it."""
    directory = make_directory(tmp_path / "log", group=GROUP, mode=0o775)
    name = grp.getgrgid(GROUP).gr_name
    assert f"the group {name} can write" in refused(write, directory / "out")
    make_directory(directory / "ours")
    write(directory / "ours" / "out")
    make_link(directory / "link", directory / "ours", 0)
    assert "is a symbolic link" in refused(write, directory / "link" / "out")


def test_a_group_of_one_trusted_user_may_write(write: Write, tmp_path: Path) -> None:
    directory = make_directory(tmp_path / "ours", group=0, mode=0o775)
    write(directory / "out")


def test_an_access_control_list_counts(write: Write, tmp_path: Path) -> None:
    directory = make_directory(tmp_path / "listed", mode=0o775)
    entries = (
        *((0x01, 7, 0xFFFFFFFF), (0x02, 7, MALLORY)),  # the owner, a user
        *((0x04, 5, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF)),  # group, mask, all
    )
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(directory, "system.posix_acl_access", value)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error.strerror}")
    assert "an access control list can write" in refused(write, directory / "out")


def test_a_sticky_directory_is_allowed(write: Write, sticky: Path) -> None:
    for _ in range(2):
        write(sticky / "out")
        assert stat.S_IMODE((sticky / "out").stat().st_mode) == 0o600


def test_a_file_of_another_user_is_refused(write: Write, sticky: Path, tmp_path: Path) -> None:
    for directory in (sticky, tmp_path):
        path = make_file(directory / "out", MALLORY, content=b"hers\n")
        assert "belongs to nobody; remove it, or choose" in refused(write, path)
        assert path.read_bytes() == b"hers\n"


@pytest.mark.parametrize("owner", [MALLORY, 0])
def test_no_link_in_a_sticky_directory_is_followed(
    write: Write, owner: int, sticky: Path, tmp_path: Path
) -> None:
    """Not even one of root: another user can move it there."""
    target = make_file(tmp_path / "target", content=b"precious\n")
    link = make_link(sticky / "out", target, owner)
    refused(write, link)
    make_link(sticky / "directory", tmp_path, owner)
    refused(write, sticky / "directory" / "new")
    assert target.read_bytes() == b"precious\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("write", [append, record])
def test_a_file_that_others_may_have_opened_or_linked_is_refused(
    write: Write, sticky: Path, tmp_path: Path
) -> None:
    path = make_file(sticky / "out", mode=0o644)
    assert "may have opened" in refused(write, path)
    path.chmod(0o600)
    write(path)
    os.link(path, tmp_path / "other")
    assert "has another name" in refused(write, path)


def test_a_fifo_of_another_user_is_refused_without_waiting(write: Write, sticky: Path) -> None:
    os.mkfifo(sticky / "out", 0o600)
    os.chown(sticky / "out", MALLORY, GROUP)
    assert "belongs to nobody" in refused(write, sticky / "out")


def test_links_of_root_are_followed_and_those_of_others_not(write: Write, tmp_path: Path) -> None:
    real = make_directory(tmp_path / "real")
    make_link(tmp_path / "directory", real, 0)
    make_link(real / "link", Path("target"), 0)
    write(tmp_path / "directory" / "link")
    assert (real / "target").exists() and (real / "link").is_symlink()
    os.chown(tmp_path / "directory", MALLORY, GROUP, follow_symlinks=False)
    assert "belongs to nobody" in refused(write, tmp_path / "directory" / "out")
    os.chown(real / "link", MALLORY, GROUP, follow_symlinks=False)
    assert "belongs to nobody" in refused(write, real / "link")


def test_links_in_a_circle_end(write: Write, tmp_path: Path) -> None:
    make_link(tmp_path / "a", tmp_path / "b", 0)
    make_link(tmp_path / "b", tmp_path / "a", 0)
    assert "Too many levels of symbolic links" in refused(write, tmp_path / "a")
    assert "Too many levels of symbolic links" in refused(write, tmp_path / "a" / "out")


def test_the_user_who_called_sudo_is_trusted(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_directory(tmp_path / "home", ALICE)
    make_file(home / "old", ALICE)
    make_link(home / "link", home / "linked", ALICE)
    refused(write, home / "out")
    monkeypatch.setenv("SUDO_UID", str(ALICE))
    for name in ("out", "old", "link"):
        write(home / name)
    os.chown(home, MALLORY, GROUP)
    refused(write, home / "new")


def test_a_relative_path_begins_in_the_current_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_directory(tmp_path / "hers", MALLORY)
    make_directory(directory / "ours")
    monkeypatch.chdir(directory / "ours")
    write(Path("out"))
    assert (directory / "ours" / "out").exists()
    assert f"the directory {directory / 'ours' / '..'}" in refused(write, Path("../out"))
    monkeypatch.chdir(directory)
    assert f"the directory {directory} belongs to nobody" in refused(write, Path("out"))


def test_an_ordinary_user_writes_wherever_the_kernel_permits(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_directory(tmp_path / "shared", ALICE, mode=0o777)
    target = make_directory(directory / "target", mode=0o777)
    make_link(directory / "link", Path("target"), ALICE)
    monkeypatch.chdir(directory)  # An ordinary user cannot reach it by its path.
    os.seteuid(MALLORY)
    try:
        write(Path("out"))
        write(Path("link/out"))
    finally:
        os.seteuid(0)
    assert (target / "out").stat().st_uid == MALLORY


def test_a_file_that_others_can_read_becomes_private(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_file(tmp_path / "out", mode=0o640, content=b"old\n")
    append(path)
    assert path.read_bytes() == b"old\n" + LINE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"http-profiler: {path} had mode 0640; now it is 0600, because others could access it"
    )
    append(path)
    assert capfd.readouterr().err == ""


def test_a_file_that_another_program_creates_becomes_private_too(
    tmp_path: Path, soon: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """As ``create 0644`` of logrotate does."""
    path = tmp_path / "out"
    sink = JsonLines(path)
    path.rename(tmp_path / "out.1")
    make_file(path, mode=0o644)
    soon()
    sink.write({"a": 1})
    sink.close()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (LINE, 0o600)
    assert "had mode 0644" in capfd.readouterr().err


def test_a_file_that_becomes_another_users_ends_the_output(
    tmp_path: Path, soon: Callable[[], None]
) -> None:
    path = tmp_path / "out"
    sink = JsonLines(path)
    path.unlink()
    make_file(path, MALLORY)
    soon()
    sink.write({"a": 1})
    with pytest.raises(OutputError, match=r"\(lines not written: 1\): .* belongs to nobody"):
        sink.close()
    assert path.read_bytes() == b""


def test_only_files_and_fifos_and_character_devices_are_opened(
    write: Write, tmp_path: Path
) -> None:
    # Not bind(): an address has at most 108 bytes (unix(7)), pytest's folder may have more.
    os.mknod(tmp_path / "socket", 0o600 | stat.S_IFSOCK)
    assert "no file, FIFO or character device" in refused(write, tmp_path / "socket")
    with suppress(PermissionError):  # A container may not make devices.
        os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 200))
        assert "no file, FIFO or character device" in refused(write, tmp_path / "disk")


@pytest.mark.parametrize("place", ["", "sticky"])
def test_a_fifo_of_root_is_written_to(tmp_path: Path, sticky: Path, place: str) -> None:
    fifo = tmp_path / place / "fifo"
    os.mkfifo(fifo, 0o600)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    append(fifo)
    assert os.read(reading, 100) == LINE
    os.close(reading)


def test_a_terminal_is_written_to() -> None:
    ours, theirs = os.openpty()
    append(Path(os.ttyname(theirs)))
    assert os.read(ours, 100) == LINE.replace(b"\n", b"\r\n")
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_an_open_descriptor_is_written_to(tmp_path: Path, name: str, kind: str) -> None:
    """Whoever started the program opened it, so its owner and directory do not matter."""
    directory = make_directory(tmp_path / "hers", MALLORY)
    program = (
        "import sys, time; from pathlib import Path; from profiler.outputs import jsonl\n"
        "jsonl.monotonic = iter(range(1000)).__next__\n"
        "sink = jsonl.JsonLines(Path(sys.argv[1]))\n"
        "for _ in range(2): sink.write({'a': 1}); sink.flush()\n"
        "sink.close()"
    )
    command = [sys.executable, "-c", program, name]
    if kind == "pipe":
        assert subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout == 2 * LINE
    else:
        path = make_file(directory / "out", MALLORY, mode=0o644)
        with path.open("wb") as file:
            subprocess.run(command, check=True, stdout=file)
        assert path.read_bytes() == 2 * LINE
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("rotation", [None, Rotation(len(LINE), 2)])
def test_a_rename_of_the_directory_does_not_redirect_a_capture(
    tmp_path: Path, soon: Callable[[], None], rotation: Rotation | None
) -> None:
    directory, moved = make_directory(tmp_path / "logs"), tmp_path / "moved"
    victim = make_directory(tmp_path / "victim")
    make_file(victim / "out", content=b"precious\n")
    sink = JsonLines(directory / "out", rotation=rotation)
    for number in range(3):
        sink.write({"a": 1})
        sink.flush()
        if number == 0:
            directory.rename(moved)
            directory.symlink_to(victim)
        if rotation is None:
            (moved / "out").rename(moved / f"out.{number}")
        soon()
    sink.close()
    assert {file.name: file.read_bytes() for file in victim.iterdir()} == {"out": b"precious\n"}
    assert [file.read_bytes() for file in moved.iterdir()] == 3 * [LINE]


def test_old_files_of_others_are_not_rotated(sticky: Path) -> None:
    sink = JsonLines(sticky / "out", rotation=Rotation(len(LINE), 3))
    make_file(sticky / "out.1", MALLORY, content=b"forged\n")
    for _ in range(2):
        sink.write({"a": 1})
    with pytest.raises(OutputError, match=r"out\.1 belongs to nobody"):
        sink.flush()
    sink.close()
    assert (sticky / "out").read_bytes() == LINE
    assert (sticky / "out.1").read_bytes() == b"forged\n"


def at_opening(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Call ``act`` once, directly before ``name`` is opened."""
    open_really, acts = os.open, [act]

    def opened(path: str, *arguments: int, **others: int) -> int:
        if path == name and acts:
            acts.pop()()
        return open_really(path, *arguments, **others)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize("write", [append, record])
def test_a_file_that_is_replaced_while_it_is_opened(
    write: Write, sticky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else that runs as root, such as tmpreaper(8), removes it in between."""
    path, target = make_file(sticky / "out"), make_file(tmp_path / "target", content=b"precious\n")

    def replace_by_file() -> None:
        path.unlink()
        make_file(path, MALLORY)

    def replace_by_link() -> None:
        path.unlink()
        make_link(path, target, MALLORY)

    at_opening(monkeypatch, "out", replace_by_file)
    assert "belongs to nobody" in refused(write, path)
    path.unlink()
    make_file(path)
    at_opening(monkeypatch, "out", replace_by_link)
    assert "Too many levels of symbolic links" in refused(write, path)
    assert target.read_bytes() == b"precious\n"


def test_a_directory_that_is_replaced_while_it_is_opened(
    write: Write, sticky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_directory(sticky / "hers", MALLORY)
    victim = make_directory(tmp_path / "victim")

    def replace() -> None:
        directory.rmdir()
        make_link(directory, victim, MALLORY)

    at_opening(monkeypatch, "hers", replace)
    assert "Not a directory" in refused(write, directory / "out")
    assert list(victim.iterdir()) == []


@contextmanager
def attacker(attack: Callable[[], None], directory: Path) -> Iterator[None]:
    """Call ``attack`` in ``directory`` and in a process of another user, for at most a minute.

    The block begins when there is a file ``ready``.
    """
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            os.chdir(directory)
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(MALLORY)
            attack()
        finally:
            os._exit(1)
    try:
        while not (directory / "ready").exists():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the attacker ended"
            time.sleep(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def swap(path: Path, target: Path) -> None:
    """Make ``path`` a file, a symbolic link to the target and a FIFO, again and again."""
    hers, link, fifo = Path("hers"), Path("link"), Path("fifo")
    hers.touch()
    link.symlink_to(target)
    os.mkfifo(fifo)
    Path("ready").touch()
    while True:
        for kind in (hers, link, fifo):
            with suppress(OSError):
                os.link(kind, path, follow_symlinks=False)
                path.unlink()


def test_an_attacker_who_swaps_files_gets_nothing(
    write: Write, sticky: Path, tmp_path: Path
) -> None:
    target = make_file(tmp_path / "target", content=b"precious\n")
    path = sticky / "out"
    refusals = 0
    with attacker(lambda: swap(Path("out"), target), sticky):
        for _ in range(300):
            try:
                write(path)
            except OutputError:
                refusals += 1
            else:
                # It is our own file now: she cannot remove it.
                assert path.stat().st_uid == 0
                path.unlink()
    assert target.read_bytes() == b"precious\n"
    assert (sticky / "hers").read_bytes() == b""
    assert refusals
