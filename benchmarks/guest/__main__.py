"""``tox -e bench``: boots a guest whose clock counts instructions, and measures in it.

What was measured is kept in ``output/bench``, by the version of the product, so parts of
the whole can be run one after the other: ``tox -e bench -- --workload small --capture
base,socket``. The tables are printed; when everything has been measured of one
version they go into ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.guest.page import page, replaced
from benchmarks.guest.plan import CAPTURES, WORKLOADS, Measurement, selected, together
from benchmarks.guest.results import Results
from provisioning import CommandFailed, Guest, ProvisioningError, attach, machine
from provisioning.architecture import host_architecture
from provisioning.cache import cache_directory
from provisioning.instances import Instance
from provisioning.progress import say, step
from provisioning.providers import DEFAULT, qemu
from provisioning.sources import copy_product, wheel_of

GUEST = "debian-13-bench"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGE = REPOSITORY / "docs" / "performance.md"
INSIDE = Path(__file__).with_name("inside")

# In the guest, which gets of this repository no more than the package `inside`.
THERE = "/tmp/bench"

# Of the guest's clock. Before, jobs of the boot spoil the figures.
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables; return the exit code."""
    options = _parser().parse_args(arguments)
    wanted = selected(options.workload, options.capture)
    try:
        results = Results.of_product()
        with _guest(options.attach) as guest:
            _prepare(guest, results)
            runs = together(wanted)
            for number, run in enumerate(runs, 1):
                names = ",".join(one.workload for one in run)
                with step(f"{number} of {len(runs)}: {run[0].asked} {run[0].capture} {names}"):
                    _measure(guest, run, results)
    except ProvisioningError as error:
        if error.details:
            say(error.details)
        say(f"bench: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("bench: interrupted; what was measured is kept")
        return 130
    print(page(results))
    if results.whole:
        PAGE.write_text(replaced(PAGE.read_text() if PAGE.exists() else "", page(results)))
        print(f"written: {PAGE.relative_to(REPOSITORY)}")
    print(f"kept: {results.path.relative_to(REPOSITORY)}")
    failed = [str(one) for one in wanted if "error" in results.runs[one]]
    if failed:
        say(f"bench: {len(failed)} of {len(wanted)} could not be measured: {', '.join(failed)}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guest", description=__doc__)
    for name, table in (("workload", WORKLOADS), ("capture", CAPTURES)):
        parser.add_argument(
            f"--{name}",
            type=_names(table),
            default=tuple(table),
            metavar="NAME,...",
            help=f"only these (default: all of {', '.join(table)})",
        )
    parser.add_argument(
        "--attach",
        action="store_true",
        help="take the guest that `python -m provisioning up --icount "
        f"{GUEST}` brought up, and install the product in it as it is now",
    )
    return parser


def _names(table: dict[str, object]) -> object:
    def parse(text: str) -> tuple[str, ...]:
        for name in text.split(","):
            if name not in table:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(table)}")
        return tuple(text.split(","))

    return parse


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
            f"{GUEST} is up and does not count instructions: take it down, and run"
            f" `python -m provisioning up --icount {GUEST}`"
        )
    with step("installing the product as it is now"), tempfile.TemporaryDirectory() as scratch:
        log = cache_directory() / "logs" / "wheel.log"
        wheel = wheel_of(copy_product(Path(scratch)), log)
        guest.push(wheel, "/tmp/product.whl")
        guest.exec(f"sudo sh -c {shlex.quote(INSTALL)}")
    yield guest


def _prepare(guest: Guest, results: Results) -> None:
    there = f"{THERE}/benchmarks/guest"
    guest.exec(f"rm -rf {THERE}; mkdir -p {there}")
    guest.push(INSIDE, f"{there}/inside")
    with step(f"waiting until it has been up for {SETTLED_SECONDS} s of its own"):
        guest.exec(
            "python3 -c 'import time; "
            f"time.sleep(max(0, {SETTLED_SECONDS} - time.clock_gettime(time.CLOCK_BOOTTIME)))'"
        )
    emulator = subprocess.run(
        [host_architecture().qemu, "--version"], capture_output=True, text=True, check=True
    )
    facts = {name: guest.exec(command).stdout.strip() for name, command in FACTS.items()}
    results.keep_facts({**facts, "QEMU": emulator.stdout.split()[3]})


def _measure(guest: Guest, run: Sequence[Measurement], results: Results) -> None:
    """Measure what one capture is started for, and keep it."""
    asked, _, capture = run[0]
    words = " ".join((asked, capture, *(one.workload for one in run)))
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
    sys.exit(main())
