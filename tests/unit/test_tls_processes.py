# SPDX-License-Identifier: Apache-2.0
"""Files that processes have mapped: of this process, and of processes in a made-up /proc."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import ssl
import stat
import struct
from pathlib import Path

import pytest

from profiler.ingest.tls.processes import Discovery, Files, Finding
from profiler.privileges.helper import Descriptor, Helper
from tests.unit.elf_files import Elf
from tests.unit.test_privileges import needs_root, needs_seccomp, run

PID = 100
LIBRARY = Elf(dict.fromkeys(("SSL_read", "SSL_write"), b"\x31\xc0\xc3")).build()
START = 0x7F00_0000_0000


class Process:
    """A process in a made-up ``/proc``, with a root of its own."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.directory = self.proc / str(PID)
        self.root = self.directory / "root"
        self.root.mkdir(parents=True)
        self.mounts = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
        self.lines: list[str] = []

    def add(self, name: str, content: bytes) -> Path:
        """Add a file to the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def map(
        self,
        path: str,
        inode: int | None = None,
        permissions: str = "r-xp",
        device: str = "fe:01",
    ) -> None:
        """Map a file of the root; by default with its own inode."""
        if inode is None:
            inode = (self.root / path.lstrip("/")).lstat().st_ino
        start = START + len(self.lines) * 0x10000
        span = f"{start:x}-{start + 0x8000:x}"
        self.lines.append(f"{span} {permissions} 00000000 {device} {inode} {path:>30}")

    def files(self) -> Files:
        maps = "".join(f"{line}\n" for line in self.lines)
        (self.directory / "maps").write_bytes(os.fsencode(maps))
        (self.directory / "mountinfo").write_text(self.mounts)
        return Files(self.proc)

    def findings(self) -> list[Finding]:
        return Discovery(self.files()).process(PID)


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def test_the_libraries_of_this_process() -> None:
    assert ssl.OPENSSL_VERSION
    ctypes.CDLL("libgnutls.so.30")
    findings = Discovery(Files()).process(os.getpid())
    libraries = {library.kind: library for one in findings for library in one.libraries}
    assert {"openssl", "libcrypto", "gnutls"} <= libraries.keys()
    assert libraries["libcrypto"].version == ssl.OPENSSL_VERSION
    for finding in findings:
        status = Path(finding.path).stat()
        assert finding.identity == (status.st_dev, status.st_ino, status.st_ctime_ns)


def test_a_deleted_library_of_this_process(tmp_path: Path) -> None:
    """Only map_files leads there, which needs privileges."""
    path = tmp_path / "libssl.so"
    path.write_bytes(LIBRARY)
    with path.open("rb") as file:
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, protection)
    path.unlink()
    (finding,) = (one for one in Discovery(Files()).process(os.getpid()) if one.path == str(path))
    mapped.close()
    if finding.libraries:
        assert [one.kind for one in finding.libraries] == ["openssl"]
    else:
        assert finding.problem == f"{path}: cannot be opened: was deleted"


def test_files_are_opened_below_the_root_of_the_process(process: Process) -> None:
    process.add("opt/lib/renamed.so", LIBRARY)
    process.map("/opt/lib/renamed.so")
    (finding,) = process.findings()
    assert finding.path == "/opt/lib/renamed.so"
    assert [one.kind for one in finding.libraries] == ["openssl"]
    assert finding.problem == ""


def test_other_mappings_are_not_opened(process: Process) -> None:
    process.add("data", LIBRARY)
    process.map("/data", permissions="r--p")
    process.map("[vdso]", inode=0)
    process.map("", inode=0)
    process.add("script", b"#!/bin/sh\n")
    process.map("/script")
    assert process.findings() == []


def test_each_file_is_examined_once(process: Process) -> None:
    process.add("a.so", LIBRARY)
    process.map("/a.so")
    process.map("/a.so")
    files = process.files()
    opened: list[int] = []
    open_mapping = files.open_mapping

    def counted(pid: int, start: int) -> int:
        opened.append(start)
        return open_mapping(pid, start)  # type: ignore[no-any-return]

    files.open_mapping = counted
    discovery = Discovery(files)
    first = discovery.process(PID)
    assert discovery.process(PID) == first
    assert len(first) == 1
    assert opened == [START]


def test_names_of_every_kind(process: Process) -> None:
    names = ("with space", "line\nfeed", "carriage\rreturn", "x (deleted) not", "caf\udce9")
    for name in names:
        process.add(name, LIBRARY)
        process.map("/" + name.replace("\n", "\\012"), (process.root / name).stat().st_ino)
    findings = process.findings()
    assert [(one.path, one.problem) for one in findings] == [(f"/{name}", "") for name in names]


def test_what_cannot_be_opened_is_named(process: Process, tmp_path: Path) -> None:
    outside = tmp_path / "outside.so"
    outside.write_bytes(LIBRARY)
    process.add("replaced.so", LIBRARY)
    process.map("/replaced.so", inode=1)
    (process.root / "link.so").symlink_to(outside)
    process.map("/link.so", inode=outside.stat().st_ino)
    os.mkfifo(process.root / "fifo")
    process.map("/fifo")
    process.map("/gone.so", inode=1000)
    process.map("/gone.so (deleted)", inode=1001)
    process.add("remote.so", LIBRARY)
    process.map("/remote.so", device="00:2d")
    process.mounts += "30 22 0:45 / /mnt rw shared:1 - fuse.sshfs host: rw\n"
    process.add("wrong.so", LIBRARY[:40])
    process.map("/wrong.so")
    assert [one.problem for one in process.findings()] == [
        "/replaced.so: cannot be opened: was replaced",
        "/link.so: cannot be opened: was replaced",
        "/fifo: cannot be opened: is not a regular file",
        "/gone.so: cannot be opened: No such file or directory",
        "/gone.so: cannot be opened: was deleted",
        "/remote.so: cannot be opened: is on a FUSE file system",
        "/wrong.so: malformed: its header cannot be parsed (ELFParseError)",
    ]


def test_a_process_that_ends_meanwhile_is_no_problem(process: Process) -> None:
    """What could be opened before is known."""

    class Ending(Files):
        def _open_mapping(self, pid: int, start: int) -> Descriptor:
            opened = super()._open_mapping(pid, start)
            shutil.rmtree(process.directory)
            return opened

    for name in ("first.so", "second.so"):
        process.add(name, LIBRARY)
        process.map(f"/{name}")
    process.files()
    (finding,) = Discovery(Ending(process.proc)).process(PID)
    assert (finding.path, finding.problem) == ("/first.so", "")


def test_a_socket_is_not_opened(process: Process) -> None:
    # Not bind(): an address has at most 108 bytes (unix(7)), pytest's folder may have more.
    os.mknod(process.root / "socket", stat.S_IFSOCK | 0o600)
    process.map("/socket")
    (finding,) = process.findings()
    assert finding.problem == "/socket: cannot be opened: is not a regular file"


def test_a_process_that_has_ended(process: Process) -> None:
    with pytest.raises(FileNotFoundError):
        Discovery(process.files()).process(PID + 1)


def test_a_mapping_that_has_ended(process: Process) -> None:
    with pytest.raises(FileNotFoundError, match="no longer mapped"):
        process.files().open_mapping(PID, START)


def test_descriptors_are_closed(process: Process) -> None:
    process.add("a.so", LIBRARY)
    process.map("/a.so")
    process.map("/gone.so", inode=7)
    before = len(list(Path("/proc/self/fd").iterdir()))
    process.findings()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_helper_opens_the_files(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.add("a.so", LIBRARY)
    process.map("/a.so")
    process.map("/gone.so", inode=7)
    files = process.files()
    helper = Helper()
    files.share(helper)
    helper.split()
    try:
        # From here on, this process opens nothing by itself.
        monkeypatch.setattr(os, "open", None)
        found, gone = Discovery(files).process(PID)
    finally:
        helper.close()
    assert [one.kind for one in found.libraries] == ["openssl"]
    assert gone.problem == "/gone.so: cannot be opened: No such file or directory"


@needs_root
@needs_seccomp
def test_a_confined_process_parses_what_the_helper_opens() -> None:
    ctypes.CDLL("libgnutls.so.30")
    refused, kinds, cached = run(
        """
        from profiler.ingest.tls.processes import Discovery, Files
        pid = int(sys.argv[1])
        files = Files()
        files.share(helper)
        helper.split()
        confine(user_for("nobody"))
        discovery = Discovery(files)
        findings = discovery.process(pid)
        kinds = {library.kind for one in findings for library in one.libraries}
        refused = error_of(os.open, f"/proc/{pid}/map_files", os.O_RDONLY)
        cached = [one.problem for one in discovery.cached()]
        print(json.dumps([refused, sorted(kinds), cached]))
        """,
        os.getpid(),
    )
    assert refused in ("EACCES", "EPERM")
    assert {"gnutls", "libcrypto", "openssl"} <= {*kinds}
    assert not any(cached)


def cache(libraries: dict[str, str], old: bytes = b"") -> bytes:
    """Return a file as ldconfig writes it (dl-cache.h of glibc)."""
    head = 48 + 24 * len(libraries)
    texts = b""
    rows = b""
    for name, path in libraries.items():
        key = head + len(texts)
        texts += name.encode() + b"\0"
        rows += struct.pack("<iIIIQ", 0x303, key, head + len(texts), 0, 0)
        texts += path.encode() + b"\0"
    counts = struct.pack("<II20x", len(libraries), len(texts))
    return old + b"glibc-ld.so.cache1.1" + counts + rows + texts


CACHED = {
    "libssl.so.3": "/lib/libssl.so.3",
    "libz.so.1": "/lib/libz.so.1",
    "libgnutls.so.30": "/lib/libgnutls.so.30",
    "libssl.so": "/lib/libssl.so.3",
}


def rooted(tmp_path: Path, content: bytes) -> Files:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ld.so.cache").write_bytes(content)
    return Files(root=tmp_path)


@pytest.mark.parametrize("old", [b"", b"ld.so-1.7.0" + bytes(5 + 12 * 4)])
def test_libraries_of_the_cache(tmp_path: Path, old: bytes) -> None:
    files = rooted(tmp_path, cache(CACHED, old))
    assert files.cached() == ["/lib/libssl.so.3", "/lib/libgnutls.so.30"]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libssl.so.3").write_bytes(LIBRARY)
    library, missing = Discovery(files).cached()
    assert [one.kind for one in library.libraries] == ["openssl"]
    assert missing.problem == "/lib/libgnutls.so.30: cannot be opened: No such file or directory"
    with pytest.raises(FileNotFoundError, match=r"not in ld\.so\.cache"):
        files.open_cached("/lib/libz.so.1")


@pytest.mark.parametrize("size", [0, 10, 30, 60, 90, 130, 150])
def test_a_damaged_cache_is_read_as_far_as_it_goes(tmp_path: Path, size: int) -> None:
    content = cache(CACHED)[:size].replace(struct.pack("<I", len(CACHED)), b"\xff" * 4)
    assert set(rooted(tmp_path, content).cached()) <= set(CACHED.values())


def test_no_cache(tmp_path: Path) -> None:
    assert Files(root=tmp_path).cached() == []


def test_the_cache_of_this_machine() -> None:
    if not Path("/etc/ld.so.cache").exists() or shutil.which("ldconfig") is None:
        pytest.skip("this machine has no ld.so.cache")
    kinds = {library.kind for one in Discovery(Files()).cached() for library in one.libraries}
    assert "gnutls" in kinds


def program(constants: bytes) -> bytes:
    return Elf({"main": b"\xc3"}, constants=constants).build()


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("jvm/lib/server/libjvm.so", program(b""), "Java has a TLS of its own"),
        ("lib/libssl3.so", program(b""), "NSS is not supported"),
        ("bin/agent", program(b"/src/rustls-0.23.1/src/lib.rs"), "rustls is not supported"),
        ("bin/bun", program(b"BoringSSL and OpenSSL 1.1.1"), "its BoringSSL has no symbols"),
        ("bin/tool", program(b"OpenSSL 3.5.4 30 Sep 2025"), "its OpenSSL has no symbols"),
        ("bin/tool", program(b"nothing"), "it has no known TLS library with symbols"),
        ("bin/tool", b"#!/bin/sh", "it has no known TLS library with symbols"),
    ],
)
def test_why_a_process_is_not_captured(
    process: Process, path: str, content: bytes, reason: str
) -> None:
    process.add(path, content)
    process.map(f"/{path}")
    advice = "; see docs/explanation/tls.md for other ways"
    assert Discovery(process.files()).reason(PID, {}) == reason + advice


def test_why_a_process_that_has_ended_is_not_captured(process: Process) -> None:
    reason = Discovery(process.files()).reason(PID + 1, {})
    assert reason == "it ended before its files were examined"


def test_a_library_that_is_probed_but_not_called(process: Process) -> None:
    process.add("lib/libssl.so.3", LIBRARY)
    process.map("/lib/libssl.so.3")
    reason = Discovery(process.files()).reason(PID, {})
    assert reason == "it did not call /lib/libssl.so.3, which is probed"


def test_a_problem_is_why_a_process_is_not_captured(process: Process) -> None:
    process.map("/gone.so (deleted)", inode=1000)
    reason = Discovery(process.files()).reason(PID, {})
    assert reason == "/gone.so: cannot be opened: was deleted"


def test_which_library_is_not_supported(process: Process) -> None:
    process.add("bin/agent", program(b"/src/rustls-0.23.1/src/lib.rs"))
    process.map("/bin/agent")
    discovery = Discovery(process.files())
    assert discovery.unsupported(PID).startswith("rustls is not supported")
    assert discovery.unsupported(PID + 1) == ""
    # It has one that is probed, too.
    process.add("lib/libssl.so.3", LIBRARY)
    process.map("/lib/libssl.so.3")
    assert Discovery(process.files()).unsupported(PID) == ""


def test_a_program_without_tls_is_not_named(process: Process) -> None:
    process.add("bin/tool", program(b"nothing"))
    process.map("/bin/tool")
    assert Discovery(process.files()).unsupported(PID) == ""


@needs_root
@needs_seccomp
def test_the_survey_of_the_doctor(process: Process) -> None:
    process.add("jvm/libjvm.so", program(b""))
    process.map("/jvm/libjvm.so")
    process.files()
    (process.directory / "comm").write_text("java\n")
    named, user = run(
        """
        from dataclasses import asdict
        from profiler.commands.doctor.survey import survey
        named = [asdict(each) for each in survey(Path(sys.argv[1]))]
        print(json.dumps([named, os.getuid()]))
        """,
        process.proc,
    )
    reason = "Java has a TLS of its own; see docs/explanation/tls.md for other ways"
    assert named == [{"pid": PID, "comm": "java", "reason": reason}]
    assert user != 0
