# SPDX-License-Identifier: Apache-2.0
"""What differs between the processors a guest can have, computed once from the host's.

Why it exists: so that no other module, role or table spells an architecture.
Its rule: a guest has the host's architecture, because the image is made by
running the guest's own programs in a chroot. ``proven`` says on which of them
that was really done; the other is written from the documentation.
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
    """Return the architecture of this host, which is also that of its guests."""
    machine = machine or platform.machine()
    try:
        return KNOWN[machine]
    except KeyError:
        raise ProvisioningError(
            f"no guests for a {machine} host: only {' and '.join(KNOWN)} are described"
        ) from None
