# SPDX-License-Identifier: Apache-2.0
"""Threads that really block, on this machine; only the probe's map is a stand-in."""

from __future__ import annotations

import os
import platform
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from profiler.ingest.probe.inflight import InflightCalls

BPF = Path(__file__).parents[2] / "bpf"
MACHINE = platform.machine()

BLOCKS = """
import ctypes, os, socket, sys
sock = socket.socket(fileno=int(sys.argv[2]))
buffer = ctypes.create_string_buffer(100)
print(ctypes.addressof(buffer), flush=True)
if sys.argv[1] == "recv":
    sock.recv_into(buffer, 100, socket.MSG_PEEK)
else:
    os.readv(sock.fileno(), [buffer]) if sys.argv[1] == "readv" else ctypes.CDLL(None).read(
        sock.fileno(), buffer, 100)
print("ended", flush=True)
sys.stdin.read()
"""


class StandInMap:
    """Stands in for a kernel's map: BPF is only for guests."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def write(self, key: bytes, value: bytes) -> None:
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        self.values.pop(key, None)


@contextmanager
def blocked(how: str, sock: socket.socket) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Block a process in read or recv on ``sock``; yield it and its buffer's address."""
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKS, how, str(sock.fileno())],
        pass_fds=[sock.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        pointer = int(process.stdout.readline())
        state = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 30
        while state.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline
        try:
            yield process, pointer
        finally:
            process.terminate()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


def key(process: subprocess.Popen[str]) -> bytes:
    return struct.pack("=Q", process.pid << 32 | process.pid)


@pytest.mark.parametrize(("how", "flags"), [("recv", socket.MSG_PEEK), ("read", 0)])
def test_a_call_in_flight_is_stored(
    pair: tuple[socket.socket, socket.socket], how: str, flags: int
) -> None:
    with blocked(how, pair[1]) as (process, pointer):
        entries = StandInMap()
        InflightCalls(MACHINE).write_to(entries)  # type: ignore[arg-type]
        descriptor = pair[1].fileno()
        assert struct.unpack("=QQQ", entries.values[key(process)]) == (descriptor, pointer, flags)


def test_a_call_that_ran_since_is_not_stored(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """The probe may have seen its current call begin."""
    with blocked("recv", pair[1]) as (process, _):
        calls = InflightCalls(MACHINE)
        pair[0].send(b"x")
        assert process.stdout and process.stdout.readline() == "ended\n"
        entries = StandInMap()
        calls.write_to(entries)  # type: ignore[arg-type]
        assert key(process) not in entries.values


def test_a_call_that_has_ended_is_dropped_and_the_hook_goes_with_the_last(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.ingest.probe.inflight.REFRESH_SECONDS", 0)
    hook, other = os.pipe()
    with blocked("recv", pair[1]) as (process, _):
        calls = InflightCalls(MACHINE)
        # This test excludes other processes of this machine.
        calls.calls = [call for call in calls.calls if call.process == process.pid]
        entries = StandInMap()
        calls.write_to(entries, hook)  # type: ignore[arg-type]
        calls.refresh()
        assert list(entries.values) == [key(process)]
        os.fstat(hook)
        pair[0].send(b"x")
        assert process.stdout and process.stdout.readline() == "ended\n"
        calls.refresh()
        assert entries.values == {}
        with pytest.raises(OSError):
            os.fstat(hook)
    calls.close()
    os.close(other)


@pytest.mark.parametrize(("how", "unix"), [("readv", False), ("recv", True)])
def test_calls_that_are_not_stored(
    pair: tuple[socket.socket, socket.socket], how: str, unix: bool
) -> None:
    left, right = socket.socketpair()
    with left, right, blocked(how, right if unix else pair[1]) as (process, _):
        assert process.pid not in {call.process for call in InflightCalls(MACHINE).calls}


def test_threads_that_run_or_end_meanwhile_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    (tmp_path / "8" / "task" / "8").mkdir(parents=True)
    (tmp_path / "8" / "task" / "8" / "syscall").write_text("running\n")
    assert len(InflightCalls(MACHINE, tmp_path)) == 0


def test_the_values_are_what_the_probe_reads() -> None:
    text = (BPF / "call.h").read_text()
    body = text[text.index("struct inflight {") :]
    members = re.findall(r"\b(u\d+) (\w+);", body[: body.index("};")])
    assert members == [("u64", "descriptor"), ("u64", "pointer"), ("u64", "msg_flags")]
