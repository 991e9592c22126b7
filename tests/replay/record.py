# SPDX-License-Identifier: Apache-2.0
"""Records cases: ``python -m tests.replay.record GUEST [CASE ...]``.

It boots the guest and records while a scenario of ``tests/e2e/traffic.py`` runs (or
``demo``, which calls each endpoint of the Flask demo). It writes ``capture`` and its
current lines as ``expected.jsonl``. Review those before you commit them: from then on
they are the expected result.
"""

from __future__ import annotations

import sys
from pathlib import Path

from profiler.ingest.session import replay
from profiler.ingest.settings import Settings
from provisioning import Guest, machine
from provisioning.capture import Capture

CASES = Path(__file__).parent / "cases"
TRAFFIC = Path(__file__).parents[1] / "e2e" / "traffic.py"

DEMO = [
    "import json, urllib.request as u",
    "base = 'http://127.0.0.1:8080'",
    "for path in ('/', '/healthz', '/slow', '/missing'):",
    "    try: u.urlopen(base + path).read()",
    "    except u.HTTPError as error: error.read()",
    "headers = {'Content-Type': 'application/json'}",
    "body = json.dumps({'message': 'héllo'}).encode()",
    "u.urlopen(u.Request(base + '/echo', body, headers)).read()",
]


SCENARIOS = {
    "bytewise": ["bytewise", "token"],
    "cut-off": ["cut_off", "token"],
    "demo": ["demo"],
    "noise": ["noise", "token"],
    "syscalls": ["syscalls", "token"],
    "threads": ["threads", "token", "5"],
}


def main(name: str, *cases: str) -> None:
    """Record ``cases``, or all of them."""
    with machine(name) as guest:
        guest.push(TRAFFIC, "/tmp/traffic.py")
        guest.exec("sudo systemctl start http-profiler-demo")
        for case in cases or SCENARIOS:
            record(guest, CASES / case, *SCENARIOS[case])


def record(guest: Guest, directory: Path, scenario: str, *arguments: str) -> None:
    """Record one scenario into a folder."""
    directory.mkdir(parents=True, exist_ok=True)
    with Capture(guest, "--record", "/tmp/capture") as capture:
        if scenario == "demo":
            guest.exec(["python3", "-c", "\n".join(DEMO)])
        else:
            guest.exec(["python3", "/tmp/traffic.py", scenario, *arguments])
        capture.stop()
    guest.exec("sudo chmod a+r /tmp/capture")
    guest.pull("/tmp/capture", directory / "capture")
    (directory / "capture").chmod(0o644)
    expected = directory / "expected.jsonl"
    expected.unlink(missing_ok=True)
    replay(directory / "capture", Settings(output=expected))
    expected.chmod(0o644)


if __name__ == "__main__":
    main(*sys.argv[1:])
