# SPDX-License-Identifier: Apache-2.0
"""Load and floods together for an hour: lines equal to the logs, and memory that does not grow.

A round runs Locust, and one flood of tests/floods.py after the other until Locust ends. Then all
lines of its requests are compared with the logs of client and server.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from profiler.accounting import Account
from provisioning import Guest
from tests.e2e.test_floods import BASE, OUTPUT, SCRIPT, Attacked, port
from tests.e2e.test_load import check_lines, check_logs, load, numbered, server
from tests.floods import FLOODS

__all__ = ["port"]  # a fixture

pytestmark = pytest.mark.one_guest("debian-12")

ROUND_SECONDS = 60
SAMPLE_SECONDS = 10
BOUND = 64 << 20
# Room for all lines of a round, so that none that is to be compared is deleted. The rounds
# together write more.
FILE_MAX, FILES = 32 << 20, 15
# Room for the largest flood, both ends. Otherwise an emulated reader, which is slow, loses some of
# the lines that are to be compared. With 64 MiB, `bodies` lost calls.
RING = 128 << 20
STATS = "/tmp/soak.stats"
OPTIONS = (
    *("--route", "socket", "--max-memory", str(BOUND), "--stats", STATS),
    *("--ring-size", str(RING)),
    *("--output-max-size", str(FILE_MAX), "--output-files", str(FILES)),
)
PROCESSES = {"reader": "http-profiler", "helper": "http-prof-root"}
MIB = 1 << 20


@contextmanager
def sampled(guest: Guest) -> Iterator[IO[bytes]]:
    """Sample the resident memory of the processes; yield the file of samples, a line each.

    Without what is mapped: the buffer of the kernel would hide growth.
    """
    paths = " ".join(f"/proc/$(pgrep -x {name})/status" for name in PROCESSES.values())
    # Ends by itself if one of them ends.
    command = f"set {paths}; while grep -h RssAnon $@; do sleep {SAMPLE_SECONDS}; done"
    with tempfile.TemporaryFile() as file, guest.popen(command, stdout=file, stderr=None):
        yield file


def read_samples(file: IO[bytes]) -> dict[str, list[int]]:
    """Return the samples of each process, in bytes."""
    file.seek(0)
    sizes = [int(line.split()[1]) << 10 for line in file]
    return {name: sizes[at :: len(PROCESSES)] for at, name in enumerate(PROCESSES)}


def quarters(samples: Sequence[int]) -> list[float]:
    """Return the median of each quarter."""
    size = len(samples) // 4
    return [statistics.median(samples[at * size : (at + 1) * size]) for at in range(4)]


def check_flat(samples: Sequence[int]) -> None:
    """After the first quarter, in which caches fill, memory does not grow."""
    _, second, _, last = quarters(samples)
    assert last <= 1.1 * second + 8 * MIB


def slope(samples: Sequence[int]) -> float:
    """Return the growth in bytes an hour, by least squares over the last three quarters."""
    grown = samples[len(samples) // 4 :]
    times = [at * SAMPLE_SECONDS / 3600 for at in range(len(grown))]
    middle, mean = statistics.mean(times), statistics.mean(grown)
    covariance = sum((at - middle) * (size - mean) for at, size in zip(times, grown))
    return covariance / sum((at - middle) ** 2 for at in times)


def test_load_and_floods_for_an_hour(
    guest: Guest,
    port: int,
    token: str,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    seconds = 60 * request.config.getoption("--minutes")
    guest.push(Path(__file__).parents[1] / "floods.py", SCRIPT)
    guest.exec(f"sudo rm -f {OUTPUT}* {STATS}")
    names = itertools.cycle(FLOODS)
    requests = lines = floods = 0
    with Attacked(guest, *OPTIONS, output=OUTPUT) as capture, ThreadPoolExecutor(1) as pool:
        capture.exchange(port, f"{token}idle")
        capture.idle = capture.memory("VmRSS")
        begin = time.monotonic()
        with sampled(guest) as file:
            for number in itertools.count():
                word = f"{token}round{number}x"
                with server(guest, word) as server_log:
                    loading = pool.submit(load, guest, word, ROUND_SECONDS)
                    while not loading.done():
                        name = next(names)
                        connections = -(-FLOODS[name].connections // 4)
                        guest.exec(["python3", SCRIPT, name, str(connections)], timeout=600)
                        floods += 1
                        # The kernel's buffer is empty again before the next flood.
                        capture.exchange(port, f"{token}flood{floods}x")
                    client = numbered(guest, loading.result())
                    served = numbered(guest, server_log)
                # The kernel's buffer is in order: all lines before these are written.
                capture.exchange(port, f"{token}end{number}x")
                records = capture.lines(f"/{word}/")
                print(capture.account())  # pytest shows it if the test fails
                check_logs(client, served)
                check_lines(records, client, served, hidden=0)
                sizes = capture.sizes()
                assert max(sizes) <= FILE_MAX
                assert len(sizes) <= 1 + FILES
                requests += len(client)
                lines += len(records)
                duration = time.monotonic() - begin
                progress = (
                    f"{duration / 60:.1f} min: {requests} requests, {lines} lines, "
                    f"{floods} floods, {capture.memory('RssAnon') / MIB:.0f} MiB resident, "
                    f"{sum(sizes) / MIB:.0f} MiB of output"
                )
                with capfd.disabled():
                    print(progress)
                if duration >= seconds:
                    break
            samples = read_samples(file)
        peak = capture.memory("VmHWM")
        capture.stop()
    account = read_account(guest)
    with capfd.disabled():
        print_table(duration, requests, lines, floods, samples, peak, account)
    assert account.final
    assert account.kernel.balanced()
    assert not account.faults
    assert not account.undecided
    # The lines of the requests are complete, so it was the floods that lost these.
    assert set(lost_calls(account)) <= {"share"}
    assert peak - capture.idle <= 1.25 * BOUND + BASE
    for sizes in samples.values():
        check_flat(sizes)


def test_memory_that_grows_is_found() -> None:
    check_flat([100 * MIB] * 40)
    with pytest.raises(AssertionError):
        check_flat([size * MIB for size in range(100, 180, 2)])


def read_account(guest: Guest) -> Account:
    """Return the final account of the capture."""
    return Account.from_json(json.loads(guest.exec(f"sudo tail -n 1 {STATS}").stdout))


def lost_calls(account: Account) -> dict[str, int]:
    """Return how many calls were lost, by reason."""
    sides = account.kernel.send.lost, account.kernel.recv.lost
    calls = {reason: sum(side[reason].calls for side in sides) for reason in sides[0]}
    return {reason: number for reason, number in calls.items() if number}


def print_table(
    duration: float,
    requests: int,
    lines: int,
    floods: int,
    samples: dict[str, list[int]],
    peak: int,
    account: Account,
) -> None:
    """Print what the soak measured, as a table in Markdown."""
    rows = {
        "duration": f"{duration / 60:.1f} minutes",
        "requests of Locust": requests,
        "lines of these requests": lines,
        "floods": floods,
        "lines in all": account.messages,
    }
    for name, sizes in samples.items():
        medians = " / ".join(f"{size / MIB:.1f}" for size in quarters(sizes))
        rows[f"memory of the {name}: medians of the quarters"] = f"{medians} MiB"
        rows[f"slope of the {name} after the first quarter"] = (
            f"{slope(sizes) / MIB:+.1f} MiB an hour"
        )
    rows["peak of the reader, with the buffer"] = f"{peak / MIB:.1f} MiB"
    rows["connections dropped to stay within the bound"] = account.given_up
    rows["lost calls"] = ", ".join(f"{k} {n}" for k, n in lost_calls(account).items()) or 0
    rows["calls that the kernel hid"] = account.kernel.skipped
    print("\n| measured | |\n| --- | --- |")
    print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))
