# SPDX-License-Identifier: Apache-2.0
"""Measures a workload under a capture, in nanoseconds, which are instructions (see ``..``).

Only time in which the processor was busy counts: an idle guest's clock jumps.

``added`` is what a capture costs others: it may only use the processor when nothing else
wants it, and the time it gets even so is subtracted. Its buffers are large enough for
everything it does not read meanwhile. ``own`` is what it costs itself, and what it loses
under normal conditions: with the usual priority and its default buffers.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Callable

from benchmarks.guest.inside import processes
from benchmarks.guest.inside.captures import Capture
from benchmarks.guest.inside.workloads import (
    ADDED,
    CONNECTIONS,
    MEMORY,
    NGINX_CONFIGURATION,
    NGINX_FILE,
    OWN,
    START,
    Workload,
)

FEW, MANY = 1, 3
"""The cost of a round comes from two runs, with these multiples of the workload's rounds."""

START_SECONDS = 600.0
STOP_SECONDS = 600.0
POLL_SECONDS = 0.01

# A capture that has caught up still checks its clock now and then, and tcpdump gets its
# packets after a second.
QUIET_SECONDS = 2.0
QUIET_SHARE = 0.01

CACHE = Path("/var/cache/http-profiler")

Result = dict[str, Any]


# Processes that survive an interrupted measurement would distort the next one.
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class BenchmarkError(Exception):
    """A measurement that would not mean what it claims."""


@dataclass(frozen=True)
class Spent:
    """Nanoseconds of the processor, and the part of them spent by the capturing processes."""

    busy: float
    own: float


class Client:
    """Runs a workload's client, and counts the rounds."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        self.workload = workload
        self.rounds = 0
        self._directory = directory

    def run(self, times: int) -> int:
        """Run it for that many times the workload's rounds; return the processor time used.

        Raises BenchmarkError if it did not do what was requested.
        """
        rounds = times * self.workload.rounds
        self.rounds += rounds
        command = _filled(self.workload.client, self._directory, rounds)
        said = self._directory / "client"
        with said.open("wb") as output:
            # Files and not pipes: its output must not wake any process.
            # Stopping it updates the kernel's count of its time: now, and not during the run.
            time.sleep(POLL_SECONDS)
            before = processes.busy_time()
            status = subprocess.Popen(command, stdout=output, stderr=output).wait()
            busy = processes.busy_time() - before
        text = said.read_text(errors="replace")
        if status != 0:
            raise BenchmarkError(f"{command[0]} ended with status {status}: {text[-500:]}")
        if command[0] == "ab":
            check_ab(text, rounds)
        return busy


def check_ab(said: str, rounds: int) -> None:
    """Raise BenchmarkError unless ``ab`` reports success, with all connections kept alive."""
    numbers = {name: int(value) for name, value in re.findall(r"^([\w -]+):\s+(\d+)$", said, re.M)}
    if (
        numbers.get("Complete requests") != rounds
        or numbers.get("Keep-Alive requests") != rounds
        or numbers.get("Failed requests") != 0
        or "Non-2xx responses" in numbers
    ):
        raise BenchmarkError(f"ab did not complete {rounds} requests: {said[-700:]}")


class Running:
    """A running capture."""

    def __init__(self, capture: Capture, command: list[str], directory: Path) -> None:
        self.capture = capture
        self._directory = directory
        began = time.monotonic()
        with (directory / "out").open("ab") as out, (directory / "err").open("ab") as err:
            self._process = subprocess.Popen(
                [*WITH_US, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **dict(capture.environment)},
            )
        self.pid = self._process.pid
        while not self._has_begun():
            if self._process.poll() is not None or time.monotonic() - began > START_SECONDS:
                self.stop()
                raise BenchmarkError(f"{capture.name} does not capture: {self._said()}")
            time.sleep(POLL_SECONDS)
        self.seconds = time.monotonic() - began

    def _has_begun(self) -> bool:
        return any(
            self.capture.ready in (self._directory / name).read_text(errors="replace")
            for name in ("err", "out")
        )

    def _said(self) -> str:
        return (self._directory / "err").read_text(errors="replace")[-700:]

    def own(self) -> int:
        """Return the nanoseconds of processor time it has used so far."""
        return processes.processor_time(self.pid)

    def catch_up(self) -> None:
        """Wait until it has nothing left to do."""
        while True:
            before, began = self.own(), time.monotonic()
            time.sleep(QUIET_SECONDS)
            if (self.own() - before) / 1e9 < QUIET_SHARE * (time.monotonic() - began):
                return

    def stop(self) -> None:
        """Stop it cleanly. Raises BenchmarkError if that takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BenchmarkError(f"{self.capture.name} does not stop: {self._said()}") from None


def measure(
    metric: str, workloads: Sequence[Workload], capture: Capture, directory: Path
) -> dict[str, Result]:
    """Return the metric of each workload under one capture, by name, as JSON values.

    Several workloads are only for a capture that stays. A workload that cannot be measured
    has an ``error``. Raises BenchmarkError if the capture does not work.
    """
    # A killed measurement leaves it behind.
    subprocess.run(["umount", "--quiet", "--lazy", directory], check=False)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    # In a file system of its own, in memory: the disk causes interrupts at any time.
    # Root's alone: captures refuse to write where others can.
    options = "size=80%,mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        _make_files(directory)
        return _MEASURES[metric](workloads, capture, directory)
    finally:
        subprocess.run(["umount", directory], check=True)


def _added(workloads: Sequence[Workload], capture: Capture, directory: Path) -> dict[str, Result]:
    roomy = replace(capture, command=(*capture.command, *capture.room))

    def add(client: Client, running: Running | None) -> Result:
        if running:
            processes.run_when_idle(running.pid)
        pairs = _pairs(client, running)
        if running:
            running.catch_up()
        spent = sorted(pairs, key=lambda pair: pair.busy - pair.own)[len(pairs) // 2]
        programs = _programs(client, running) if running else None
        return {"target": spent.busy - spent.own, "own": spent.own, "programs": programs}

    return _one_by_one(workloads, roomy, directory, add)


def _own(workloads: Sequence[Workload], capture: Capture, directory: Path) -> dict[str, Result]:
    bare = replace(capture, environment=())

    def own(client: Client, running: Running | None) -> Result:
        assert running is not None
        before = running.own()
        pairs = _pairs(client, running)
        running.catch_up()
        own = (running.own() - before) / client.rounds
        memory = processes.peak_memory(running.pid)
        # How the capture's work is split between runs is random, so no single run is typical.
        return {"busy": mean(pair.busy for pair in pairs), "own": own, "memory": memory}

    return _one_by_one(workloads, bare, directory, own)


def _one_by_one(
    workloads: Sequence[Workload],
    capture: Capture,
    directory: Path,
    ask: Callable[[Client, Running | None], Result],
) -> dict[str, Result]:
    """Start a capture, and measure each workload while it captures."""
    results: dict[str, Result] = {}
    clients = [Client(workload, directory) for workload in workloads]
    with _capturing(capture, directory) as running:
        for client in clients:
            name = client.workload.name
            try:
                with _serving(client.workload, directory):
                    results[name] = ask(client, running)
            except BenchmarkError as error:
                results[name] = {"error": str(error)}
            if capture.stays:
                results[name].update(_counted(capture, client, directory))
                # Both are opened for appending: writing resumes at the beginning.
                for output in ("out", "err"):
                    os.truncate(directory / output, 0)
    if not capture.stays:
        # Other captures report their counts when they end.
        (client,) = clients
        results[client.workload.name].update(_counted(capture, client, directory))
    return results


def _pairs(client: Client, running: Running | None) -> list[Spent]:
    """Run few rounds, then many; return the cost of a round from the difference.

    Repeated for each of the workload's pairs.
    """
    client.run(FEW)  # Warm up.
    more = (MANY - FEW) * client.workload.rounds
    pairs = []
    for _ in range(client.workload.pairs):
        few, many = (_run(client, running, times) for times in (FEW, MANY))
        pairs.append(Spent((many.busy - few.busy) / more, (many.own - few.own) / more))
    return pairs


def _programs(client: Client, running: Running) -> float | None:
    """Run the client again; return the nanoseconds that the capture's BPF programs run per round.

    Measured separately, because the kernel's clock reads would add to the target's cost.
    ``None`` if it has no programs.
    has no programs.
    """
    told = [processes.programs_time(running.pid)]
    if told[0] is None:
        return None
    processes.STATISTICS.write_text("1")
    try:
        for times in (FEW, MANY):
            client.run(times)
            told.append(processes.programs_time(running.pid))
    finally:
        processes.STATISTICS.write_text("0")
    running.catch_up()
    start, few, many = (float(each or 0) for each in told)
    return ((many - few) - (few - start)) / ((MANY - FEW) * client.workload.rounds)


def _run(client: Client, running: Running | None, times: int) -> Spent:
    """Run the client and let the capture catch up; return the nanoseconds of all rounds."""
    if running is None:
        return Spent(client.run(times), 0)
    running.catch_up()
    before = running.own()
    return Spent(client.run(times), running.own() - before)


def _started(workloads: Sequence[Workload], capture: Capture, directory: Path) -> dict[str, Result]:
    (workload,) = workloads
    seconds = []
    shutil.rmtree(CACHE, ignore_errors=True)
    for _ in range(2):
        with _capturing(capture, directory) as running:
            assert running is not None
            memory = processes.peak_memory(running.pid)
        seconds.append(running.seconds)
    return {workload.name: {"first": seconds[0], "second": seconds[1], "memory": memory}}


def _memory(workloads: Sequence[Workload], capture: Capture, directory: Path) -> dict[str, Result]:
    (workload,) = workloads
    client = Client(workload, directory)
    client.rounds = workload.rounds
    command = _filled(workload.client, directory, workload.rounds)
    with _serving(workload, directory), _capturing(capture, directory) as running:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
            assert clients.stdout is not None
            if clients.stdout.readline() != b"open\n":
                raise BenchmarkError(f"{CONNECTIONS} connections cannot be opened")
            running.catch_up()
            memory = processes.peak_memory(running.pid)
            clients.communicate()
        running.catch_up()
    return {workload.name: {"memory": memory, **_counted(capture, client, directory)}}


_MEASURES = {ADDED: _added, OWN: _own, START: _started, MEMORY: _memory}


def _counted(capture: Capture, client: Client, directory: Path) -> Result:
    is_readable = capture.has_tls or not client.workload.has_tls
    expected = client.rounds * client.workload.messages * capture.ends if is_readable else 0
    counts = capture.counted(directory)
    return {"rounds": client.rounds, "expected": expected, **counts}


@contextmanager
def _serving(workload: Workload, directory: Path) -> Iterator[None]:
    """Start a workload's server; end it with all its workers."""
    if not workload.server:
        yield
        return
    with (directory / "server").open("wb") as log:
        server = subprocess.Popen(
            [*WITH_US, *_filled(workload.server, directory, 0)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while socket.socket().connect_ex(("127.0.0.1", workload.port)):
            if server.poll() is not None:
                said = (directory / "server").read_text(errors="replace")
                raise BenchmarkError(f"{workload.server[0]} ended: {said[-500:]}")
            time.sleep(POLL_SECONDS)
        yield
    finally:
        # Wait for its workers too, until the last one is gone.
        with suppress(ProcessLookupError):
            while True:
                os.killpg(server.pid, signal.SIGKILL)
                server.poll()
                time.sleep(POLL_SECONDS)


def _capturing(capture: Capture, directory: Path) -> Any:
    return _started_capture(capture, directory) if capture.command else nullcontext()


@contextmanager
def _started_capture(capture: Capture, directory: Path) -> Iterator[Running]:
    for name in ("out", "err"):
        (directory / name).unlink(missing_ok=True)
    if "{directory}/probe.bt" in capture.command:
        with (directory / "probe.bt").open("wb") as program:
            subprocess.run(
                ["http-profiler", "probe", "--engine", "bpftrace"], stdout=program, check=True
            )
    running = Running(capture, _filled(capture.command, directory, 0), directory)
    try:
        yield running
    finally:
        running.stop()


def _make_files(directory: Path) -> None:
    www = directory / "www"
    (www / "upload").mkdir(parents=True)
    (directory / "body").mkdir()
    line = b"What a page says, in lines of fifty bytes, is text.\n"
    for name, size in (("20k", 20_000), ("1m", 1_000_000)):
        (www / name).write_bytes((line * (size // len(line) + 1))[:size])
    (directory / "upload").write_bytes((line * 2000)[:100_000])
    (directory / "zeros").write_bytes(bytes(500 * 20_000 * MANY))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=localhost", "-keyout", str(directory / "key.pem")),
            *("-out", str(directory / "certificate.pem")),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    # Not str.format: nginx's blocks have braces.
    text = NGINX_CONFIGURATION.replace("{directory}", str(directory))
    Path(NGINX_FILE.format(directory=directory)).write_text(text)


def _filled(command: tuple[str, ...], directory: Path, rounds: int) -> list[str]:
    return [
        word.replace("{directory}", str(directory)).replace("{rounds}", str(rounds))
        for word in command
    ]
