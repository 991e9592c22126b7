# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from profiler.ingest.containers import Files
from profiler.ingest.probe import cgroups as hierarchy
from profiler.ingest.process import Identity, Processes
from profiler.ingest.wire import Cgroup, Process, Workload


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    root = tmp_path / "cgroup"
    (root / "system.slice" / "nginx.service").mkdir(parents=True)
    (root / "user.slice").mkdir()
    return root


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand in for the kernel, which opens only directories of cgroup2 by number, and for root.

    Return the numbers that were looked up; tests/e2e/test_floods.py does it with the kernel.
    """
    numbers = []

    def open_inode(number: int, root: Path) -> int:
        numbers.append(number)
        for path in (root, *root.rglob("*")):
            if inode(path) == number:
                return os.open(path, os.O_PATH)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(hierarchy, "_open_inode", open_inode)
    return numbers


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    proc = tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    (proc / "7" / "cgroup").write_text("1:name=systemd:/x\n0::/system.slice/nginx.service\n")
    return proc


def inode(path: Path) -> int:
    return path.stat().st_ino


def process(cgroup: int = 0, pid: int = 7, start_time: int = 500, cmdline: bytes = b"") -> Process:
    return Process(pid, start_time, cgroup, 33, cmdline)


def test_the_identity_of_a_process(proc: Path, cgroups: Path) -> None:
    processes = Processes(proc, cgroups)
    number = inode(cgroups / "system.slice" / "nginx.service")
    found = processes.learn(process(number, cmdline=b"nginx:\0worker\xff\0"))
    assert found == [Cgroup(number, b"/system.slice/nginx.service")]
    identity = processes.identity(7, 500)
    assert identity is not None
    assert identity[:3] == ("nginx: worker\ufffd", 33, "/system.slice/nginx.service")
    assert identity.workload is not None
    assert identity.workload.fields == {"service": "nginx"}
    assert processes.learn(process(number)) == []  # reported once


def test_a_process_that_is_not_introduced_is_unknown(proc: Path, cgroups: Path) -> None:
    processes = Processes(proc, cgroups)
    processes.learn(process(start_time=500))
    assert processes.identity(7, 501) is None
    assert processes.identity(8, 500) is None


def test_active_processes_are_not_evicted_by_newer_ones() -> None:
    """The kernel introduces a process once, and again only after it ran another program."""
    processes = Processes(None)
    processes.learn(process(pid=1, cmdline=b"daemon\0"))
    processes.learn(process(pid=2, cmdline=b"silent\0"))
    for pid in range(3, 10_000):
        assert processes.identity(1, 500) == Identity("daemon", 33, None)
        processes.learn(process(pid=pid))
    assert processes.identity(1, 500) is not None
    assert processes.identity(2, 500) is None


def test_a_process_that_runs_another_program_is_introduced_again(proc: Path, cgroups: Path) -> None:
    processes = Processes(proc, cgroups)
    processes.learn(process(cmdline=b"sh\0"))
    assert processes.identity(7, 500) == Identity("sh", 33, None)
    processes.learn(process(cmdline=b"curl\0x\0"))
    identity = processes.identity(7, 500)
    assert identity is not None
    assert identity.cmdline == "curl x"


def test_a_cmdline_that_could_not_be_read_is_not_known(proc: Path, cgroups: Path) -> None:
    processes = Processes(proc, cgroups)
    processes.learn(process(cmdline=b""))
    assert processes.identity(7, 500) == Identity(None, 33, None)


@pytest.mark.parametrize("pid", [7, 9])
def test_the_cgroup_of_a_process_that_ended_or_moved(proc: Path, cgroups: Path, pid: int) -> None:
    """/proc names another cgroup than the kernel, or none: the kernel's number decides."""
    processes = Processes(proc, cgroups)
    assert processes.learn(process(inode(cgroups / "user.slice"), pid))
    identity = processes.identity(pid, 500)
    assert identity is not None
    assert identity.cgroup == "/user.slice"


def test_the_root_and_an_unknown_cgroup(proc: Path, cgroups: Path) -> None:
    processes = Processes(proc, cgroups)
    processes.learn(process(inode(cgroups), pid=1))
    processes.learn(process(2**60, pid=2))
    assert processes.identity(1, 500) == Identity(None, 33, "/")
    assert processes.identity(2, 500) == Identity(None, 33, None)


def test_an_unknown_cgroup_is_looked_up_once(
    proc: Path, cgroups: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many directories there are, no search goes through them."""
    monkeypatch.setattr(os, "walk", None)
    processes = Processes(proc, cgroups)
    for pid in range(1000):
        assert processes.learn(process(2**60, pid)) == []
    assert opened == [2**60]


def test_a_cgroup_that_is_removed_while_it_is_looked_up(
    proc: Path, cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = cgroups / "user.slice"
    number = inode(directory)
    opened = os.open(directory, os.O_PATH)
    directory.rmdir()
    monkeypatch.setattr(hierarchy, "_open_inode", lambda number, root: opened)
    assert Processes(proc, cgroups).learn(process(number)) == []


def test_a_cgroup_outside_of_what_is_mounted(
    proc: Path, cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = inode(cgroups.parent)
    opened = os.open(cgroups.parent, os.O_PATH)
    monkeypatch.setattr(hierarchy, "_open_inode", lambda number, root: opened)
    assert Processes(proc, cgroups).learn(process(number)) == []


def test_what_is_no_hierarchy_has_no_cgroups(
    cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real call, on a file system that is not cgroup2
    assert hierarchy.path_of(inode(cgroups) + 2**40, cgroups) is None


def test_a_replay_does_not_read_proc(proc: Path, cgroups: Path) -> None:
    processes = Processes(proc=None, cgroups=cgroups)
    number = inode(cgroups / "user.slice")
    assert processes.learn(process(number)) == []
    assert processes.identity(7, 500) == Identity(None, 33, None)
    processes.learn_cgroup(Cgroup(number, b"/elsewhere"))
    assert processes.identity(7, 500) == Identity(None, 33, "/elsewhere")


def test_where_the_hierarchy_is_mounted(proc: Path, cgroups: Path) -> None:
    (proc / "mounts").write_text(f"proc /proc proc rw 0 0\ncgroup2 {cgroups} cgroup2 rw 0 0\n")
    processes = Processes(proc)
    assert processes.learn(process(inode(cgroups / "user.slice")))


def test_a_machine_without_cgroups(proc: Path) -> None:
    processes = Processes(proc)
    assert processes.learn(process(5)) == []
    assert processes.identity(7, 500) == Identity(None, 33, None)


def test_memory_is_bounded(proc: Path, cgroups: Path) -> None:
    processes = Processes(proc, cgroups)
    for pid in range(5000):
        processes.learn(process(pid=pid))
    assert processes.identity(0, 500) is None
    assert processes.identity(4999, 500) is not None


@pytest.mark.parametrize("gone", [False, True])
def test_the_name_of_a_cgroup_need_not_be_utf8(proc: Path, cgroups: Path, gone: bool) -> None:
    directory = cgroups / os.fsdecode(b"caf\xe9")
    directory.mkdir()
    (proc / "7" / "cgroup").write_bytes(b"0::/x\xe9\n" if gone else b"0::/caf\xe9\n")
    processes = Processes(proc, cgroups)
    number = inode(directory)
    assert processes.learn(process(number)) == [Cgroup(number, b"/caf\xe9")]
    replayed = Processes(None)
    replayed.learn(process(number))
    replayed.learn_cgroup(Cgroup(number, b"/caf\xe9"))
    for each in (processes, replayed):
        assert each.identity(7, 500) == Identity(None, 33, "/caf\ufffd")


ID = "0123456789abcdef" * 4


def test_a_recording_has_what_files_report_about_a_container(
    tmp_path: Path, proc: Path, cgroups: Path
) -> None:
    described = tmp_path / "var/lib/docker/containers" / ID / "config.v2.json"
    described.parent.mkdir(parents=True)
    described.write_text('{"Name": "/web", "Config": {"Image": "nginx"}}')
    directory = cgroups / f"docker-{ID}.scope"
    directory.mkdir()
    (proc / "7" / "cgroup").write_text(f"0::/docker-{ID}.scope\n")
    live = Processes(proc, cgroups, Files(tmp_path))
    cgroup, workload = live.learn(process(inode(directory)))
    described.unlink()
    assert live.learn(process(inode(directory), pid=8)) == []

    assert isinstance(cgroup, Cgroup)
    assert isinstance(workload, Workload)
    replayed = Processes(None)
    replayed.learn(process(inode(directory)))
    replayed.learn_cgroup(cgroup)
    assert workload_of(replayed) == {"container": {"id": ID, "runtime": "docker"}}
    replayed.learn_workload(workload)
    for each in (live, replayed):
        assert workload_of(each) == {
            "container": {"id": ID, "name": "web", "image": "nginx", "runtime": "docker"}
        }


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        (b"", None),
        (b"[1]", None),
        (b"{}", None),
        (b'{"container": 1, "service": null, "pod": {"name": 5}, "pid": 1}', None),
        (b'{"container": {"id": 5}, "service": "a"}', {"service": "a"}),
    ],
)
def test_a_damaged_recording(document: bytes, fields: object) -> None:
    replayed = Processes(None)
    replayed.learn(process(5))
    replayed.learn_workload(Workload(5, document))
    assert workload_of(replayed) == fields
    replayed.learn_cgroup(Cgroup(5, b"/a.service"))
    assert workload_of(replayed) == {"service": "a"}


def workload_of(processes: Processes) -> object:
    identity = processes.identity(7, 500)
    assert identity is not None
    return identity.workload.fields if identity.workload else None
