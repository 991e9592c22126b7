# SPDX-License-Identifier: Apache-2.0
"""Problems on a user's machine: one clear line, the right exit code, no traceback."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from provisioning import Guest, Result
from tests.e2e.capture import Capture
from tests.e2e.conftest import background, traffic

pytestmark = pytest.mark.one_guest("debian-12")

# And what an earlier start cached from them.
HEADERS = ("/lib/modules", "/usr/src", "/var/cache")


def hidden(*directories: str) -> str:
    """Return a shell command that hides directories under tmpfs, for a separate mount namespace."""
    return "; ".join(f"mount -t tmpfs none {directory}" for directory in directories)


def is_startup_message(line: str) -> bool:
    """Is this a message that precedes any error: how secrets are shown, or the step that began?"""
    return "secrets are" in line or "loading the probe" in line


def fails(guest: Guest, command: str) -> str:
    """Run a command that must fail with 1 and one line; return the line."""
    result: Result = guest.exec(command, check=False, timeout=120)
    lines = [line for line in result.stderr.splitlines() if not is_startup_message(line)]
    assert result.returncode == 1, result
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("http-profiler: ")
    return lines[0]


def test_not_root(guest: Guest) -> None:
    assert "sudo http-profiler" in fails(guest, "http-profiler")


def test_no_permission_for_bpf(guest: Guest) -> None:
    # Like a container without privileges: root, but without the capabilities.
    line = fails(guest, "sudo setpriv --bounding-set=-all --inh-caps=-all http-profiler")
    assert "does not permit BPF" in line


def test_no_bcc(guest: Guest) -> None:
    guest.exec("mkdir -p /tmp/no-bcc/bcc; echo 'raise ImportError' > /tmp/no-bcc/bcc/__init__.py")
    line = fails(guest, "sudo env PYTHONPATH=/tmp/no-bcc http-profiler")
    assert "python3-bpfcc" in line


def test_no_types_and_no_headers(guest: Guest) -> None:
    hide = hidden("/sys/kernel/btf", *HEADERS)
    line = fails(guest, f"sudo unshare -m sh -c '{hide}; http-profiler'")
    assert "linux-headers" in line


def test_no_headers_when_they_are_required(guest: Guest) -> None:
    command = f"sudo unshare -m sh -c '{hidden(*HEADERS)}; http-profiler --types headers'"
    assert "linux-headers" in fails(guest, command)


def test_no_headers_are_needed(guest: Guest, token: str) -> None:
    output = f"/tmp/{token}.jsonl"
    profiler = f"exec http-profiler --output {output}"
    command = f"sudo unshare -m sh -c '{hidden(*HEADERS)}; {profiler}'"
    with guest.popen(command) as running:
        lines = (line.decode() for line in running.stderr)
        said = next(line for line in lines if not is_startup_message(line))
        guest.exec("sudo pkill -INT -f 'http-profiler --outpu[t]'")
        running.wait(60)
    assert "capturing (socket route" in said


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/no/such/directory/x", "No such file"), ("/proc/x", "cannot write /proc/x")],
)
def test_output_that_cannot_be_written(guest: Guest, path: str, reason: str) -> None:
    assert reason in fails(guest, f"sudo http-profiler --output {path}")


def test_capture_files(guest: Guest, token: str) -> None:
    guest.exec(f"echo hello > /tmp/{token}")
    assert "is not a recording" in fails(guest, f"http-profiler replay /tmp/{token}")
    assert "No such file" in fails(guest, "http-profiler replay /no/such/file")


@contextmanager
def small_disk(guest: Guest) -> Iterator[str]:
    guest.exec("sudo mkdir -p /tmp/small && sudo mount -t tmpfs -o size=64k none /tmp/small")
    try:
        yield "/tmp/small"
    finally:
        guest.exec("sudo umount /tmp/small")


def test_a_full_disk(guest: Guest, token: str) -> None:
    with (
        small_disk(guest) as directory,
        background(guest, "serve") as (_, server),
        Capture(guest, output=f"{directory}/out.jsonl") as capture,
    ):
        where = ("127.0.0.1", server["port"])
        traffic(guest, "requests", *where, f"GET:/{token}/first")
        capture.wait_for(lambda r: r.get("request", {}).get("url") == f"/{token}/first", 2)
        traffic(guest, "requests", *where, f"POST:/{token}/big:60000")
        assert capture.wait() == 1
        assert "No space left" in capture.said
        assert "seen" in capture.said
        assert "Traceback" not in capture.said
        # The output so far stays, and consists of whole lines.
        text = guest.exec(f"sudo cat {directory}/out.jsonl").stdout
        assert text.endswith("}\n")
        assert f"/{token}/first" in text


def test_a_full_disk_for_the_recording_costs_no_line(guest: Guest, token: str) -> None:
    with (
        small_disk(guest) as directory,
        background(guest, "serve") as (_, server),
        Capture(guest, "--record", f"{directory}/{token}.capture") as capture,
    ):
        where = ("127.0.0.1", server["port"])
        traffic(guest, "requests", *where, f"POST:/{token}/big:60000", f"GET:/{token}/later")
        capture.wait_for(lambda r: r.get("request", {}).get("url") == f"/{token}/later", 2)
        said = capture.stop()
        assert capture.exit_code == 1
        assert "the capture continues: cannot write the recording" in said
        assert "No space left" in said.splitlines()[-1]


def test_a_full_disk_for_the_lines_costs_no_recording(guest: Guest, token: str) -> None:
    recording, replayed = f"/tmp/{token}.capture", f"/tmp/{token}.jsonl"
    with (
        small_disk(guest) as directory,
        background(guest, "serve") as (_, server),
        Capture(guest, "--record", recording, output=f"{directory}/out.jsonl") as capture,
    ):
        where = ("127.0.0.1", server["port"])
        traffic(guest, "requests", *where, f"POST:/{token}/big:60000", f"GET:/{token}/later")
        deadline = time.monotonic() + 60
        while "the capture continues" not in capture.said:
            assert time.monotonic() < deadline, capture.said
            time.sleep(0.1)
        capture.stop()
        assert capture.exit_code == 1
        assert "No space left" in capture.said.splitlines()[-1]
    guest.exec(f"sudo http-profiler replay {recording} --output {replayed}")
    text = guest.exec(f"sudo cat {replayed}").stdout
    assert text.count(f'"url":"/{token}/big"') == 4  # two ends, in requests and responses
    assert text.count(f'"url":"/{token}/later"') == 4


def test_rotation(guest: Guest, token: str) -> None:
    output = f"/tmp/{token}.jsonl"
    options = ("--output-max-size", "20000", "--output-files", "2")
    with (
        background(guest, "serve") as (_, server),
        Capture(guest, *options, output=output) as capture,
    ):
        # About 1,000 bytes a line, four lines each.
        paths = [f"GET:/{token}/{n}" for n in range(50)]
        traffic(guest, "requests", "127.0.0.1", server["port"], *paths)
        capture.stop()
        assert capture.exit_code == 0
    listing = guest.exec(f"sudo stat --format '%n %s %a' {output} {output}.1 {output}.2").stdout
    for line in listing.splitlines():
        _, size, mode = line.split()
        assert int(size) <= 20000
        assert mode == "600"
    guest.exec(f"sudo test ! -e {output}.3")
    newest = guest.exec(f"sudo cat {output}.2 {output}.1 {output}").stdout.splitlines()
    assert f"/{token}/49" in newest[-1]
    assert all(isinstance(json.loads(line), dict) for line in newest)


def test_a_reader_that_exits(guest: Guest, token: str) -> None:
    with background(guest, "serve") as (_, server):
        command = "sudo http-profiler 2> /tmp/said | head -n 1"
        with guest.popen(command, stderr=None) as running:
            while "capturing" not in guest.exec("cat /tmp/said", check=False).stdout:
                assert running.poll() is None
            for _ in range(3):
                traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
            assert running.wait(60) == 0
    assert "Traceback" not in guest.exec("cat /tmp/said").stdout
