# SPDX-License-Identifier: Apache-2.0
"""Attaching to the libraries of processes in a made-up /proc; the test stands in for the kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from profiler.accounting import Uncaptured
from profiler.ingest.probe import libraries as module
from profiler.ingest.probe.generate import UPROBE, Attachment, LibraryPrograms
from profiler.ingest.probe.libraries import LATE, POINTS_MAX, QUIC, Libraries, Probes
from profiler.ingest.wire import HANDSHAKE, HANDSHAKE_RECORD
from profiler.privileges.helper import Helper
from tests.unit.elf_files import BASE, Elf
from tests.unit.test_tls_processes import PID, Process

NAMES = ("SSL_read", "SSL_write", "SSL_free", "other")
FILE = Elf(dict.fromkeys(NAMES, b"\x31\xc0\xc3"))
CONTENT = FILE.build()
LEAVE = Attachment(UPROBE, "", "leave_library")
HOOKS = tuple(
    LibraryPrograms("openssl", name, Attachment(UPROBE, name, f"enter_{name}"), leave)
    for name, leave in (("SSL_read", LEAVE), ("SSL_write", LEAVE), ("SSL_free", None))
)
# Processes that have called a probed function.
CALLERS = {PID + 1}
PROGRAMS = {"leave_library": 10, "enter_SSL_read": 11, "enter_SSL_write": 12, "enter_SSL_free": 13}


class Kernel:
    """Records what is attached, and refuses ``refused`` offsets."""

    def __init__(self) -> None:
        self.attached: list[tuple[int, bytes, int]] = []
        self.descriptors: list[int] = []
        self.refused: set[int] = set()
        self.why = errno.EINVAL

    def attach(self, program: int, file: int, offset: int) -> int:
        if offset in self.refused:
            raise OSError(self.why, os.strerror(self.why))
        self.attached.append((program, os.pread(file, 4, 0), offset))
        self.descriptors.append(os.open(os.devnull, os.O_RDONLY))
        return self.descriptors[-1]

    def open(self) -> int:
        """Return how many attachments are still open."""
        links = (Path(f"/proc/self/fd/{each}") for each in self.descriptors)
        return sum(link.is_symlink() for link in links)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(module, "attach_to_file", kernel.attach)
    return kernel


@pytest.fixture
def process(tmp_path: Path) -> Process:
    process = Process(tmp_path)
    process.add("usr/lib/libssl.so.3", CONTENT)
    process.map("/usr/lib/libssl.so.3")
    process.files()
    return process


def probes_of(process: Process) -> Probes:
    return Probes(HOOKS, PROGRAMS, CALLERS.__contains__, None, process.proc, process.root)


def libraries_of(probes: Probes) -> Libraries:
    return Libraries(probes, [hook.function for hook in HOOKS])


def test_returns_are_attached_before_entries(process: Process, kernel: Kernel) -> None:
    probes = probes_of(process)
    assert libraries_of(probes).attach_all() == []
    entry = {name: address - BASE for name, address in FILE.addresses.items()}
    assert [(program, offset) for program, _, offset in kernel.attached] == [
        *((10, entry["SSL_read"] + 2), (11, entry["SSL_read"])),
        *((10, entry["SSL_write"] + 2), (12, entry["SSL_write"])),
        (13, entry["SSL_free"]),
    ]
    assert {magic for _, magic, _ in kernel.attached} == {b"\x7fELF"}
    assert kernel.open() == 5
    probes.close()
    assert kernel.open() == 0


def test_a_file_is_attached_to_once(process: Process, kernel: Kernel) -> None:
    libraries = libraries_of(probes_of(process))
    libraries.attach_all()
    number = len(kernel.attached)
    assert libraries.attach_to(PID) == []
    assert libraries.attach_all() == []
    assert len(kernel.attached) == number


def test_a_refused_file_is_reported_once_and_not_attached_to(
    process: Process, kernel: Kernel
) -> None:
    kernel.refused = {FILE.addresses["SSL_write"] - BASE}
    libraries = libraries_of(probes_of(process))
    problem = "/usr/lib/libssl.so.3: cannot be probed: Invalid argument"
    assert libraries.attach_all() == [problem]
    assert libraries.attach_to(PID) == []
    assert kernel.attached and kernel.open() == 0


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        # The service of the package has CAP_PERFMON only.
        (errno.EACCES, "Permission denied (CAP_SYS_ADMIN is needed)"),
        (errno.EOPNOTSUPP, "Operation not supported"),
    ],
)
def test_a_kernel_that_refuses_all_uprobes_is_one_problem(
    process: Process, kernel: Kernel, why: int, reason: str
) -> None:
    process.add("opt/libssl.so.3", CONTENT)
    process.map("/opt/libssl.so.3")
    process.files()
    kernel.refused, kernel.why = {FILE.addresses["SSL_write"] - BASE}, why
    libraries = libraries_of(probes_of(process))
    problem = f"TLS libraries cannot be probed: {reason}"
    assert libraries.attach_all() == [problem]
    assert libraries.handshake(handshake(PID)) == []
    assert libraries.uncaptured() == (Uncaptured(PID, "curl", problem),)


def test_a_file_that_pretends_many_returns_is_not_attached_to(
    process: Process, kernel: Kernel
) -> None:
    """More than a message to the helper has room for."""
    process.add("usr/lib/libssl.so.3", Elf(dict.fromkeys(NAMES, b"\xc3" * POINTS_MAX)).build())
    helper = Helper()
    probes = probes_of(process)
    probes.share(helper)
    helper.split()
    try:
        problem = "cannot be probed: its functions return in too many places"
        assert libraries_of(probes).attach_all() == [f"/usr/lib/libssl.so.3: {problem}"]
    finally:
        helper.close()
    points = [["SSL_read", 64, list(range(POINTS_MAX))]]
    status = (process.root / "usr/lib/libssl.so.3").stat()
    probes = probes_of(process)
    os.close(probes.open_mapping(PID, 0x7F00_0000_0000))
    with pytest.raises(OSError, match="too many"):
        probes.attach([status.st_dev, status.st_ino, status.st_ctime_ns], points)
    assert not kernel.attached


def test_only_a_file_that_was_opened_can_be_attached_to(process: Process, kernel: Kernel) -> None:
    probes = probes_of(process)
    status = (process.root / "usr/lib/libssl.so.3").stat()
    identity = [status.st_dev, status.st_ino, status.st_ctime_ns]
    functions: list[list[object]] = [["SSL_free", 64, []]]
    with pytest.raises(OSError, match="has not opened"):
        probes.attach(identity, functions)
    os.close(probes.open_mapping(PID, 0x7F00_0000_0000))
    assert probes.attach(identity, functions)
    probes.forget()
    with pytest.raises(OSError, match="has not opened"):
        probes.attach([*identity[:2], 0], functions)
    assert len(kernel.attached) == 1


def test_a_process_that_has_ended_is_no_problem(process: Process, kernel: Kernel) -> None:
    assert libraries_of(probes_of(process)).attach_to(PID + 1) == []
    assert not kernel.attached


def handshake(pid: int, is_datagram: bool = False) -> bytes:
    return HANDSHAKE_RECORD.pack(HANDSHAKE, is_datagram, pid, b"curl")


def test_a_library_that_is_found_by_its_first_handshake(process: Process, kernel: Kernel) -> None:
    CALLERS.add(PID)
    try:
        libraries = libraries_of(probes_of(process))
        assert libraries.handshake(handshake(PID)) == []
        assert kernel.attached
        assert libraries.uncaptured() == (Uncaptured(PID, "curl", LATE),)
    finally:
        CALLERS.remove(PID)
    # It never called the library, so no connection could be late.
    reason = "it did not call /usr/lib/libssl.so.3, which is probed"
    assert libraries.uncaptured() == (Uncaptured(PID, "curl", reason),)


def test_a_process_with_a_handshake_that_calls_a_library(process: Process, kernel: Kernel) -> None:
    libraries = libraries_of(probes_of(process))
    libraries.handshake(handshake(PID + 1))
    assert libraries.uncaptured() == ()


def test_a_process_that_uses_quic(process: Process, kernel: Kernel) -> None:
    libraries = libraries_of(probes_of(process))
    for _ in range(2):
        assert libraries.handshake(handshake(PID + 1, is_datagram=True)) == []
    assert libraries.uncaptured() == (Uncaptured(PID + 1, "curl", QUIC),)
    assert not kernel.attached


def test_the_program_that_will_be_started(process: Process, kernel: Kernel) -> None:
    """It contains its library itself, and no process runs it yet."""
    program = process.add("opt/app", Elf(dict.fromkeys(NAMES, b"\xc3")).build())
    libraries = libraries_of(
        Probes(HOOKS, PROGRAMS, CALLERS.__contains__, program, process.proc, process.root)
    )
    process.lines.clear()
    process.files()
    assert libraries.attach_all() == []
    assert len(kernel.attached) == 5
    gone = Probes(HOOKS, PROGRAMS, CALLERS.__contains__, program / "x", process.proc, process.root)
    assert libraries_of(gone).attach_all() == [f"{program}/x: cannot be opened: Not a directory"]
