# SPDX-License-Identifier: Apache-2.0
"""Under load nothing is missing, duplicated or mixed up, or else the loss is reported.

Client and server each log every request; the captured lines are compared with both logs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.capture import Capture, skipped_calls
from tests.e2e.conftest import ROUTES, TRAFFIC, continued, stopped
from tests.e2e.test_ending import accounts

HERE = Path(__file__).parent
DEMO = "/opt/http-profiler-demo/bin"
PORT = 8123
USERS = 20
SECONDS = {"socket": 60, "syscall": 20}


@contextmanager
def server(guest: Guest, token: str, options: str = "") -> Iterator[str]:
    """Run pre-forked gunicorn workers; yield the path of their log."""
    log = f"/tmp/{token}.server"
    guest.push(HERE / "numbered.py", "/tmp/numbered.py")
    command = (
        f"cd /tmp && exec env LOG={log} {DEMO}/gunicorn --bind 127.0.0.1:{PORT} --workers 4 "
        f"--worker-class gthread --threads 4 --keep-alive 60 {options} numbered:application"
    )
    with guest.popen(["sh", "-c", command], stderr=None) as running:
        while guest.exec(f"ss -Hltn 'sport = :{PORT}'").stdout == "":
            assert running.poll() is None, "gunicorn has ended"
        yield log


def load(guest: Guest, token: str, seconds: int, environment: str = "") -> str:
    """Run Locust for a while; return the path of its log."""
    log = f"/tmp/{token}.client"
    guest.push(HERE / "numbered_locustfile.py", "/tmp/numbered_locustfile.py")
    guest.exec(
        f"env LOG={log} TOKEN={token} PORT={PORT} {environment} "
        f"{DEMO}/locust -f /tmp/numbered_locustfile.py --headless --users {USERS} "
        f"--spawn-rate {USERS} --run-time {seconds}s "
        "--stop-timeout 30 --only-summary",
        timeout=seconds + 120,
    )
    return log


def numbered(guest: Guest, log: str) -> dict[int, dict[str, Any]]:
    facts = [json.loads(line) for line in guest.exec(["cat", log]).stdout.splitlines()]
    assert len({fact["number"] for fact in facts}) == len(facts)
    return {fact["number"]: fact for fact in facts}


def number_of(record: Record) -> int:
    """The number in the message itself, which has it in a header."""
    return int(record["headers"]["x-number"])


def digest(record: Record) -> str:
    body = record["body"]
    encoded = "body_encoding" in record
    return hashlib.sha256(base64.b64decode(body) if encoded else body.encode()).hexdigest()


def check_message(
    record: Record, client: dict[int, dict[str, Any]], served: dict[int, dict[str, Any]]
) -> None:
    """A whole message matches what both logs have for its number."""
    number = number_of(record)
    what = "asked" if record["type"] == "request" else "answered"
    assert digest(record) == served[number][what]
    if number in client:
        assert digest(record) == client[number][what]
    if record["type"] == "request":
        assert record["url"].endswith(f"/{number}")
    elif "request" in record:
        assert record["request"]["url"].endswith(f"/{number}")
    if record["role"] == "server":
        assert record["pid"] == served[number]["pid"]


def check_logs(client: dict[int, dict[str, Any]], served: dict[int, dict[str, Any]]) -> None:
    """Client and server log the same requests and responses."""
    # An upper bound would depend on the host's load.
    assert len(client) >= USERS
    assert set(client) == set(served)
    for number, fact in client.items():
        assert fact["status"] == 200
        assert {k: fact[k] for k in ("asked", "answered")} == {
            k: served[number][k] for k in ("asked", "answered")
        }


def check_lines(
    records: list[Record],
    client: dict[int, dict[str, Any]],
    served: dict[int, dict[str, Any]],
    hidden: int,
) -> None:
    """No line of either end is missing, duplicated or mixed up, but for ``hidden`` calls."""
    by_number: dict[int, list[Record]] = defaultdict(list)
    whole = [record for record in records if "incomplete" not in record]
    for record in whole:
        check_message(record, client, served)
        by_number[number_of(record)].append(record)
    for lines in by_number.values():
        ends = [(r["type"], r["direction"]) for r in lines]
        assert len(set(ends)) == len(ends)  # none twice
        for role in ("client", "server"):
            paired = {r.get("exchange") for r in lines if r["role"] == role}
            assert len(paired - {None} if hidden else paired) <= 1
            assert hidden or None not in paired
    # A call that the kernel hid affects one message, and at most its response.
    incomplete = [record for record in records if "incomplete" in record]
    assert len(incomplete) <= 2 * hidden, Counter(str(r["incomplete"]) for r in incomplete)
    assert 4 * len(client) - len(whole) <= 2 * hidden
    assert set(by_number) <= set(client)


@pytest.mark.one_guest("debian-13")
@pytest.mark.parametrize("route", ROUTES)
def test_twenty_users_for_a_minute(guest: Guest, token: str, route: str) -> None:
    options = ("--route", route, "--port", str(PORT))
    with server(guest, token) as server_log, Capture(guest, *options) as capture:
        client_log = load(guest, token, SECONDS[route])
        client, served = numbered(guest, client_log), numbered(guest, server_log)
        # The profiler drains the ring buffer before it ends.
        said = capture.stop()
        records = capture.records()
    check_logs(client, served)
    # As tests/e2e/capture.py chooses.
    assert (", fast path," in said) == ("took the fast path" in said) == (route == "socket")

    for seen_calls, seen_bytes, *fates in accounts(said).values():
        assert seen_calls == fates[0] + fates[2] + fates[4]
        assert seen_bytes == fates[1] + fates[3] + fates[5]
    hidden = skipped_calls(said)
    if hidden and route == "syscall":
        # That route has no way to detect skipped calls, and reports this.
        assert "messages around that time may be wrong" in said
        return
    check_lines(records, client, served, hidden)
    assert len({r["pid"] for r in records if r["role"] == "server"}) > 1  # several workers

    for _, _, *fates in accounts(said).values():
        assert fates[4] <= hidden


# Microseconds of each second that real-time threads may run (sched(7)); -1: all.
RT_LIMIT = "/proc/sys/kernel/sched_rt_runtime_us"


@pytest.mark.one_guest("debian-12")
def test_reports_the_losses_of_a_small_ring(guest: Guest, token: str) -> None:
    options = ("--ring-size", "65536", "--lossless", "--port", str(PORT))
    with server(guest, token) as server_log, Capture(guest, *options) as capture:
        stopped(guest)
        # Long enough to fill the ring in a guest that shares its host.
        lost = numbered(guest, load(guest, f"{token}a", 30))
        continued(guest)
        client = numbered(guest, load(guest, f"{token}b", 10))
        served = {
            fact["number"]: fact
            for fact in map(
                json.loads,
                guest.exec(["tail", "-n", str(len(client)), server_log]).stdout.splitlines(),
            )
        }
        capture.wait_for(lambda r: f"/{token}b/{max(client)}" == r.get("url"), 1, timeout=120)
        said = capture.stop()
        records = capture.records()

    assert lost
    assert "ring_full" in said
    sent = accounts(said)
    for seen_calls, seen_bytes, *fates in sent.values():
        assert seen_calls == fates[0] + fates[2] + fates[4]
        assert seen_bytes == fates[1] + fates[3] + fates[5]
    assert any(fates[-2] > 0 for fates in sent.values())
    # Each whole message is right. Those of the second run can be compared with its logs.
    for record in records:
        url = record.get("url") or record.get("request", {}).get("url", "")
        if "incomplete" in record:
            assert set(record["incomplete"]) <= {"lost", "closed_early"}
        elif f"/{token}b/" in url:
            check_message(record, client, served)
        elif record["type"] == "response":
            number = number_of(record)
            assert record["body"] == f"answer {number} " * (1 + number % 400)
    # The profiler has caught up: every message of the second run is present, or reported as lost.
    seen = {number_of(r) for r in records if f"/{token}b/" in (r.get("url") or "")}
    assert len(seen) > len(client) // 2


@pytest.mark.one_guest("debian-12")
@pytest.mark.parametrize("lossless", [True, False])
def test_on_one_processor(guest: Guest, token: str, lossless: bool) -> None:
    # Sent much faster than it can be written down, and far more than the ring holds.
    exchanges, size = 600, 20_000
    options = ["--ring-size", str(1 << 22), "--path", f"/{token}/*"]
    if lossless:
        options.append("--lossless")
    with Capture(guest, *options) as capture:
        guest.exec(
            "for pid in $(pgrep -f 'http-profiler --outpu[t]'); do sudo taskset -acp 0 $pid; done"
        )
        # By default, the kernel keeps a twentieth of the time for others: enough for losses if the
        # host is busy.
        limit = guest.exec(["cat", RT_LIMIT]).stdout.strip()
        guest.exec(f"echo -1 | sudo tee {RT_LIMIT}")
        try:
            command = f"taskset -c 0 python3 {TRAFFIC} flood {token} {exchanges} {size}"
            guest.exec(command, timeout=600)
        finally:
            guest.exec(f"echo {limit} | sudo tee {RT_LIMIT}")
        said = capture.stop()
        records = capture.records()

    if lossless:
        assert len(records) == 4 * exchanges
        assert not [record for record in records if "incomplete" in record]
    for record in records:
        assert set(record.get("incomplete", ())) <= {"lost", "closed_early"}
    for seen_calls, seen_bytes, *fates in accounts(said).values():
        assert seen_calls == fates[0] + fates[2] + fates[4]
        assert seen_bytes == fates[1] + fates[3] + fates[5]
        assert (fates[4] == 0) == lossless
