# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a booted guest, from which later guests resume.

An emulated boot takes half a minute, and a second run of the tests should be quick. A
snapshot is taken before anybody has used the guest. It is stored beside its image, at
most one per image, and is removed with it. Its name is the hash of QEMU and of all that
the guest sees of its machine. Machines load a copy, so a snapshot is never rewritten.
Without a snapshot, or with one that does not load, a guest boots.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from provisioning.cache import cache_directory, digest, free_space, locked
from provisioning.errors import GuestError, ProvisioningError
from provisioning.guest import Guest
from provisioning.host import find_tool
from provisioning.image import Image
from provisioning.instances import Instance
from provisioning.providers.qemu.kvm import build_of
from provisioning.providers.qemu.monitor import monitor_at

# The name of the saved state within the disk.
TAG = "settled"

SETTLED = b"http-profiler guest: settled"

# Run as root in the guest, detached from the connection that started it, because nothing
# of that connection may remain. Some units of the boot still start when ssh already works.
SETTLE = f"""
exec < /dev/null > /dev/null 2>&1
systemctl is-system-running --wait
while [ -n "$(ss -Htn 'sport = :22')" ]; do sleep 0.1; done
echo '{SETTLED.decode()}' > /dev/console
"""

SETTLE_TIMEOUT = 120.0


def path_of(image: Image, qemu: str, seen_by_guest: list[str]) -> Path | None:
    """Return the path of such a machine's snapshot; ``None`` if it cannot have one."""
    if not os.access(image.directory, os.W_OK):
        return None
    return image.snapshot(digest([build_of(qemu), seen_by_guest, SETTLE]))


def take(snapshot: Path, guest: Guest, instance: Instance, monitor: Path, memory: int) -> None:
    """Take a snapshot of a guest with ``memory`` MiB that has just booted.

    This disconnects the guest, which then continues to run, even if no snapshot could
    be taken: ProvisioningError gives the reason. Nothing happens if another process is
    already taking one.
    """
    try:
        with locked(cache_directory() / "locks" / snapshot.name, wait=False):
            if not snapshot.exists():
                _check_space(memory, snapshot.parent, instance.directory)
                settle(guest, instance)
                _take(snapshot, instance.overlay, monitor)
    except BlockingIOError:
        return
    except OSError as error:
        raise ProvisioningError(str(error)) from error


def copy(snapshot: Path, overlay: Path) -> None:
    """Copy a snapshot to the disk of a machine; raises ProvisioningError."""
    _run(["cp", "--reflink=auto", str(snapshot), str(overlay)])


def _check_space(memory: int, *places: Path) -> None:
    # The state is written to the machine's disk, and the disk is copied.
    needed = memory / 2**10
    for place in places:
        free = free_space(place)
        if free < needed:
            raise ProvisioningError(
                f"{free:.1f} GiB are free in {place}, and it may take {needed:.1f}"
            )


def settle(guest: Guest, instance: Instance) -> None:
    """Wait until the units of the boot are done and no connection is left in the guest."""
    guest.exec(["sudo", "setsid", "--fork", "sh", "-c", SETTLE], timeout=SETTLE_TIMEOUT)
    guest.disconnect()
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while SETTLED not in instance.console.read_bytes():
        if instance.pid() is None or time.monotonic() > deadline:
            raise GuestError(f"it did not settle within {SETTLE_TIMEOUT:.0f} s")
        time.sleep(0.1)


def _take(snapshot: Path, overlay: Path, monitor: Path) -> None:
    directory = snapshot.parent
    for left in directory.glob(".snapshot-*.tmp"):
        left.unlink()
    aside = directory / f".{snapshot.name}.{os.getpid()}.tmp"
    try:
        with monitor_at(monitor) as machine:
            # It stays paused until the copy is made, too.
            machine.execute("stop")
            try:
                machine.execute_line(f"savevm {TAG}")
                # The flush writes everything to the file, except reference counts that QEMU
                # still holds.
                machine.execute_line("qemu-io disk flush")
                copy(overlay, aside)
            finally:
                machine.execute("cont")
        _run([find_tool("qemu-img", "qemu-utils"), "check", "-q", str(aside)])
        older = Image(directory).snapshots
        aside.rename(snapshot)
        for each in older:
            each.unlink(missing_ok=True)
    finally:
        aside.unlink(missing_ok=True)


def _run(command: list[str]) -> None:
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        said = (made.stderr + made.stdout).strip().splitlines()
        raise ProvisioningError(said[-1] if said else f"{command[0]} ended with {made.returncode}")
