# SPDX-License-Identifier: Apache-2.0
"""What differs between processor architectures; the host's is detected once.

No other module, role or table names an architecture. A guest has the host's
architecture, because building its image runs the guest's own programs in a chroot.
``proven`` marks the architecture this was really run on; the other one is written
from the documentation.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from provisioning.errors import ProvisioningError


@dataclass(frozen=True)
class Architecture:
    """One processor architecture, as Debian, QEMU and the kernel name it."""

    machine: str
    debian: str
    qemu: str
    qemu_machine: str
    qemu_package: str
    console: str
    kernel_arguments: tuple[str, ...]
    proven: bool


KNOWN = {
    "x86_64": Architecture(
        machine="x86_64",
        debian="amd64",
        qemu="qemu-system-x86_64",
        qemu_machine="q35",
        qemu_package="qemu-system-x86",
        console="ttyS0",
        # On a busy host the emulated timer can miss the moment at which the kernel
        # tests its interrupt, and the kernel then panics ("IO-APIC + timer doesn't work").
        kernel_arguments=("no_timer_check",),
        proven=True,
    ),
    "aarch64": Architecture(
        machine="aarch64",
        debian="arm64",
        qemu="qemu-system-aarch64",
        qemu_machine="virt",
        qemu_package="qemu-system-arm",
        console="ttyAMA0",
        kernel_arguments=(),
        proven=False,
    ),
}


def host_architecture(machine: str | None = None) -> Architecture:
    """Return the architecture of this host, which its guests share."""
    machine = machine or platform.machine()
    try:
        return KNOWN[machine]
    except KeyError:
        raise ProvisioningError(
            f"no guests for a {machine} host: only {' and '.join(KNOWN)} are described"
        ) from None
