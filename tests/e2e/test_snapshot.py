# SPDX-License-Identifier: Apache-2.0
"""Guests resumed from one snapshot: each is a separate machine, as if it had booted."""

from __future__ import annotations

import os
import time
from pathlib import Path

from provisioning import Guest, GuestSpec, machine
from provisioning.image import image_of
from provisioning.instances import Instance

# Random numbers that must differ between guests.
NUMBERS = "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1"

MARK = "/var/tmp/mark"


def arguments(name: str) -> list[bytes]:
    """Return the command line of a machine that is up."""
    return Path(f"/proc/{Instance(name).pid()}/cmdline").read_bytes().split(b"\0")


def look(guest: Guest) -> str:
    """Check that the snapshot leaves nothing behind; return the guest's random numbers."""
    numbers = guest.exec(NUMBERS).stdout
    before = time.time()
    told = float(guest.exec(["date", "+%s.%N"]).stdout)
    assert before - 1 < told < time.time() + 1
    # Only the connection of this check.
    assert len(guest.exec("ss -Htn").stdout.splitlines()) == 1
    assert guest.exec("sudo systemctl is-system-running").stdout == "running\n"
    # A file that one guest writes must not exist in the next.
    guest.exec(f"test ! -e {MARK} && echo mine > {MARK} && sync")
    return numbers


def test_guests_resumed_from_one_snapshot(system: GuestSpec) -> None:
    name = f"{system.name}@snapshot{os.getpid()}"
    with machine(system.name, instance=name) as guest:
        said = [look(guest)]
        kept = {path: path.stat() for path in image_of(system).snapshots}
    for _ in range(2):
        with machine(system.name, instance=name) as guest:
            # With KVM a guest boots, and must behave the same.
            assert b"-loadvm" in arguments(name) or b"kvm" in arguments(name)
            said.append(look(guest))
    assert len({line for one in said for line in one.splitlines()}) == 6
    for path, before in kept.items():
        after = path.stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
            *(before.st_ino, before.st_size, before.st_mtime_ns),
        )
