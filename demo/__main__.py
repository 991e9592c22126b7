# SPDX-License-Identifier: Apache-2.0
"""``make demo``: the whole project at work, from start to end.

Boots a guest, starts the profiler in it, runs Locust against the Flask demo there, saves
the captured lines in ``output/``, and prints a summary.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from provisioning import Guest, ProvisioningError, default_guest, machine
from provisioning.capture import Capture, Record
from provisioning.progress import say, step

OUTPUT = Path(__file__).resolve().parent.parent / "output"
PORT = 8080
WAIT_FOR_PORT = f"""
import socket, time
while socket.socket().connect_ex(("127.0.0.1", {PORT})):
    time.sleep(0.1)
"""
LOCUST = "/opt/http-profiler-demo/bin/locust"
LOCUSTFILE = "/opt/http-profiler-demo/src/loadtest/locustfile.py"


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--guest", help="a guest of provisioning/guests.toml")
    parser.add_argument("--requests", type=int, default=50, help="number of requests to send")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        name = arguments.guest
        if name is None:
            choice = default_guest()
            say(choice.reason)
            name = choice.spec.name
        with machine(name) as guest:
            return run(guest, name, arguments.requests, started)
    except ProvisioningError as error:
        if error.details:
            say(error.details)
        say(f"demo: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("demo: interrupted")
        return 130


def run(guest: Guest, name: str, requests: int, started: float) -> int:
    """Capture ``requests`` requests in a guest that is up, and print a summary."""
    with step("starting the Flask demo"):
        guest.exec("sudo systemctl start http-profiler-demo")
        guest.exec(["python3", "-c", WAIT_FOR_PORT], timeout=60)
    capture = Capture(guest, "--port", str(PORT))
    with ExitStack() as stack:
        with step("starting the profiler"):
            stack.enter_context(capture)
        with step(f"Locust sends {requests} requests to the Flask demo"):
            locust = (
                f"TOTAL_REQUESTS={requests} REQUEST_DELAY_MS=100 HTTP_PORT={PORT} "
                f"{LOCUST} --locustfile {LOCUSTFILE} --headless --users 2 --only-summary 2>&1"
            )
            report = guest.exec(locust, check=False, timeout=300)
        with step("stopping the profiler"):
            said = capture.stop()
        records = capture.records()
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / f"{name}.jsonl"
    capture.fetch(path)

    if report.returncode != 0:
        say(report.stdout)
        say("demo: Locust failed, see above")
        return 1
    summarise(records, said, path, time.monotonic() - started)
    complete = (
        all(count_of(records, role, kind) == requests for role in ROLES for kind in KINDS)
        and "lost 0/0" in said
        and capture.exit_code == 0
    )
    if not complete:
        say(f"demo: some messages of {requests} requests were not captured at both ends, see above")
    return 0 if complete else 1


ROLES = ("client", "server")
KINDS = ("request", "response")


def count_of(records: list[Record], role: str, kind: str) -> int:
    """Return how many messages of a kind one side sent or received."""
    return sum(record["role"] == role and record["type"] == kind for record in records)


def summarise(records: list[Record], said: str, path: Path, seconds: float) -> None:
    """Print the exchanges, the cost, and the path of the lines."""
    print("\nEach exchange was captured twice, once in each process:\n")
    print(
        f"  {'process':10} {'role':7} {'exchange':16} {'seen':>5} {'status':>7} {'median ms':>10}"
    )
    responses = [r for r in records if r["type"] == "response" and "request" in r]
    rows = Counter(
        (r["comm"], r["role"], f"{r['request']['method']} {r['request']['url']}", r["status_code"])
        for r in responses
    )
    for (comm, role, what, status), count in sorted(rows.items(), key=lambda row: row[0][1:]):
        times = sorted(
            r["latency_ms"]
            for r in responses
            if (r["comm"], r["role"], r["status_code"]) == (comm, role, status)
            and what == f"{r['request']['method']} {r['request']['url']}"
        )
        median = times[len(times) // 2]
        print(f"  {comm:10.10} {role:7} {what:16} {count:5} {status:7} {median:10.1f}")
    echo = next((r for r in records if r.get("url") == "/echo"), None)
    if echo:
        print(f"\nAn example: {echo['comm']} sent {echo['body']!r} to {echo['url']}")
    print("\nThe profiler's own messages:\n")
    for line in said.splitlines():
        print(f"  {line}")
    start = re.search(r"after ([\d.]+) s", said)
    memory = re.search(r"peak resident memory (\d+) MiB", said)
    print("\nFigures:\n")
    print(f"  start to capturing     {start[1] if start else '?':>6} s    (at most 15)")
    print(f"  peak resident memory   {memory[1] if memory else '?':>6} MiB  (at most 250)")
    print(f"  the whole demo         {seconds:6.0f} s    (at most 480 the first time, then 90)")
    print(f"\n{len(records)} JSON lines are in {path}")


if __name__ == "__main__":
    sys.exit(main())
