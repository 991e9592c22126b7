# SPDX-License-Identifier: Apache-2.0
"""Disposable machines with real kernels, for tests.

A BPF program is only known to work on the kernels it has run on. This package builds
a disk image for each guest of ``guests.toml`` (the distribution's own packages, then
the Ansible playbook through a chroot), boots it and returns a :class:`Guest`. However
a run ends, it leaves no process, no mount and no partial file; nothing partial is
ever reused.

The API for tests and for the demo::

    from provisioning import machine

    with machine("debian-12") as guest:
        print(guest.exec(["uname", "-r"]).stdout)

It builds what is missing, boots, yields, and always takes the machine down. Each
pytest-xdist worker gets its own machine by giving it a name, such as
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
