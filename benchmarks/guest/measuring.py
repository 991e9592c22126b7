# SPDX-License-Identifier: Apache-2.0
"""Measures in one guest: boots or attaches to it, prepares it, and runs each measurement."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.guest.plan import Measurement, selected, together
from benchmarks.guest.results import Results
from provisioning import CommandFailed, Guest, ProvisioningError, attach, machine
from provisioning.architecture import host_architecture
from provisioning.cache import cache_directory
from provisioning.instances import Instance
from provisioning.progress import say, step
from provisioning.providers import DEFAULT, qemu
from provisioning.sources import copy_product, wheel_of

GUEST = "debian-13-bench"
INSIDE = Path(__file__).with_name("inside")

# In the guest, which gets only the package `inside` of this repository.
THERE = "/tmp/bench"

# On the guest's clock. Before that, jobs of the boot distort the figures.
SETTLED_SECONDS = 60

SITE_PACKAGES = "/opt/http-profiler/lib/python3.*/site-packages"
INSTALL = f"""
set -e
cd {SITE_PACKAGES}
rm -rf profiler
python3 -m zipfile -e /tmp/product.whl .
/opt/http-profiler/bin/python -m compileall -q profiler
"""

FACTS = {
    "kernel": "uname -r",
    "BCC": "dpkg-query -W -f '${Version}' python3-bpfcc",
    "bpftrace": "dpkg-query -W -f '${Version}' bpftrace",
    "tcpdump": "dpkg-query -W -f '${Version}' tcpdump",
    "tshark": "dpkg-query -W -f '${Version}' tshark",
    "nginx": "dpkg-query -W -f '${Version}' nginx",
    "ab": "dpkg-query -W -f '${Version}' apache2-utils",
    "Redis": "dpkg-query -W -f '${Version}' redis-server",
    "Python": "python3 -c 'import platform; print(platform.python_version())'",
}


def measure(workloads: Collection[str], captures: Collection[str], *, attached: bool) -> int:
    """Measure in one guest, and store the results; return the exit code.

    ``attached``: use the guest that is already up.
    """
    results = Results.of_product()
    try:
        with _guest(attached) as guest:
            _prepare(guest, results)
            runs = together(selected(workloads, captures))
            for number, run in enumerate(runs, 1):
                names = ",".join(one.workload for one in run)
                with step(f"{number} of {len(runs)}: {run[0].metric} {run[0].capture} {names}"):
                    _measure_run(guest, run, results)
    except ProvisioningError as error:
        if error.details:
            say(error.details)
        say(f"bench: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("bench: interrupted; what was measured is kept")
        return 130
    return 0


@contextmanager
def _guest(attached: bool) -> Iterator[Guest]:
    if not attached:
        timeout = qemu.ICOUNT_BOOT_TIMEOUT
        with machine(GUEST, provider=DEFAULT, icount=True, timeout=timeout) as guest:
            yield guest
        return
    guest = attach(GUEST, provider=DEFAULT)
    if not qemu.counts_instructions(Instance(GUEST)):
        raise ProvisioningError(
            f"{GUEST} is up without --icount: take it down, and run"
            f" `python -m provisioning up --icount {GUEST}`"
        )
    with step("installing the current product"), tempfile.TemporaryDirectory() as scratch:
        log = cache_directory() / "logs" / "wheel.log"
        wheel = wheel_of(copy_product(Path(scratch)), log)
        guest.push(wheel, "/tmp/product.whl")
        guest.exec(f"sudo sh -c {shlex.quote(INSTALL)}")
    yield guest


def _prepare(guest: Guest, results: Results) -> None:
    there = f"{THERE}/benchmarks/guest"
    guest.exec(f"rm -rf {THERE}; mkdir -p {there}")
    guest.push(INSIDE, f"{there}/inside")
    with step(f"waiting until it has been up for {SETTLED_SECONDS} s by its clock"):
        guest.exec(
            "python3 -c 'import time; "
            f"time.sleep(max(0, {SETTLED_SECONDS} - time.clock_gettime(time.CLOCK_BOOTTIME)))'"
        )
    emulator = subprocess.run(
        [host_architecture().qemu, "--version"], capture_output=True, text=True, check=True
    )
    facts = {name: guest.exec(command).stdout.strip() for name, command in FACTS.items()}
    results.keep_facts({**facts, "QEMU": emulator.stdout.split()[3]})


def _measure_run(guest: Guest, run: Sequence[Measurement], results: Results) -> None:
    """Measure everything that one start of a capture covers, and store it."""
    metric, _, capture = run[0]
    words = " ".join((metric, capture, *(one.workload for one in run)))
    command = f"cd {THERE} && sudo python3 -B -m benchmarks.guest.inside {words}"
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    try:
        found = json.loads(guest.exec(command).stdout)
    except CommandFailed as error:
        found = {one.workload: {"error": error.details} for one in run}
    for one in run:
        results.keep(one, {"date": date, **found[one.workload]})
        if "error" in found[one.workload]:
            say(f"{one} failed: {found[one.workload]['error']}")


if __name__ == "__main__":
    sys.exit(measure(sys.argv[1].split(","), sys.argv[2].split(","), attached=False))
