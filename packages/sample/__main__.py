# SPDX-License-Identifier: Apache-2.0
"""Records the sample: ``python -m packages.sample [GUEST]`` runs the shop in a guest.

The guest has no network, so the wheels of grpclib come from here.
"""

from __future__ import annotations

import contextlib
import gzip
import platform
import sys
import tempfile
import time
from pathlib import Path

from packages import vendored
from packages.sample.shop import PORTS
from provisioning import Guest, machine
from provisioning.capture import Capture
from provisioning.catalog import find_guest
from provisioning.host import REPOSITORY

SAMPLE = REPOSITORY / "profiler" / "sample.jsonl.gz"

_HOME = "/tmp/shop"
_SERVERS = ("catalog", "payments", "cart", "frontend")


def record(guest: Guest) -> bytes:
    """Return the JSON lines of the shop's traffic, as the profiler in ``guest`` wrote them."""
    guest.exec(f"rm -rf {_HOME}; mkdir {_HOME}")
    guest.push(Path(__file__).with_name("shop.py"), f"{_HOME}/shop.py")
    with tempfile.TemporaryDirectory() as scratch:
        python = find_guest(guest.name.partition("@")[0]).python
        vendored.install([Path("grpclib")], (), python, platform.machine(), Path(scratch), {})
        guest.push(Path(scratch), f"{_HOME}/modules")
    roles = (*_SERVERS, "monitor", "customers")
    # A process is named by the file that it executes.
    guest.exec(" && ".join(f"ln -s $(command -v python3) {_HOME}/{role}" for role in roles))
    ports = [word for port in PORTS.values() for word in ("--port", str(port))]
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(Capture(guest, "--redact", *ports))
        for role in (*_SERVERS, "monitor"):
            stack.enter_context(guest.popen(_command(role)))
            if role in PORTS:
                _wait_for(guest, PORTS[role])
        guest.exec(_command("customers"), timeout=600)
        capture.stop()
        return guest.exec(f"sudo cat {capture.output}").stdout.encode()


def _command(role: str) -> list[str]:
    return ["env", f"PYTHONPATH={_HOME}/modules", f"{_HOME}/{role}", f"{_HOME}/shop.py", role]


def _wait_for(guest: Guest, port: int) -> None:
    deadline = time.monotonic() + 60
    while guest.exec(f"ss -Hltn 'sport = :{port}'").stdout == "":
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing listens on port {port}")
        time.sleep(0.5)


def main(name: str = "debian-13") -> None:
    """Record the sample and write it."""
    with machine(name) as guest:
        lines = record(guest)
    SAMPLE.write_bytes(gzip.compress(lines, 9, mtime=0))
    print(f"{SAMPLE.relative_to(REPOSITORY)}: {lines.count(bytes([10]))} lines")


if __name__ == "__main__":
    main(*sys.argv[1:])
