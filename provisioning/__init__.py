# SPDX-License-Identifier: Apache-2.0
"""provisioning: machines with real kernels, made from nothing and thrown away again.

Why it exists: a BPF program is only known to work on kernels it ran on. This
package builds a disk image for each guest of ``guests.toml`` (the
distribution's own packages, then the Ansible playbook through a chroot), boots
it and hands out a :class:`Guest`. Its rule: whatever way a run ends, it leaves
no process, no mount and no half-made file, and nothing half-made is ever
reused.

The API for tests and for the demo::

    from provisioning import machine

    with machine("debian-12") as guest:
        print(guest.exec(["uname", "-r"]).stdout)

Builds what is missing, boots, yields, and always takes the machine down. A
pytest-xdist worker owns its machine by giving it a name of its own, such as
``machine("debian-12", instance="debian-12@gw0")``.
"""

from __future__ import annotations

from provisioning.catalog import GuestSpec, default_guest, load_catalog
from provisioning.errors import (
    BootFailed,
    CommandTimeout,
    MachineLost,
    ProvisioningError,
    UnknownGuest,
)
from provisioning.guest import CommandFailed, Guest, Result, Running
from provisioning.machines import attach, build, down, machine, up

__all__ = [
    "BootFailed",
    "CommandFailed",
    "CommandTimeout",
    "Guest",
    "GuestSpec",
    "MachineLost",
    "ProvisioningError",
    "Result",
    "Running",
    "UnknownGuest",
    "attach",
    "build",
    "default_guest",
    "down",
    "load_catalog",
    "machine",
    "up",
]
