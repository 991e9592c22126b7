# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line for a machine: what the guest sees, and what backs it on this host.

A snapshot only fits a machine that looks the same to its guest. So all that the guest
sees is one list, separate from paths and ports. A machine has no device that no test
uses. The image is only read; writes go to the overlay. The guest's network contains
only this host, which reaches its ssh server on a loopback port.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioning.architecture import Architecture
from provisioning.catalog import GuestSpec
from provisioning.image import Image
from provisioning.instances import Instance


@dataclass(frozen=True)
class Accelerator:
    """How the guest's instructions run."""

    name: str
    arguments: tuple[str, ...]


KVM = Accelerator("KVM", ("-accel", "kvm", "-cpu", "host"))

# Without la57: each TLB miss would walk one table more, and five levels are useless
# below 128 TiB. Without svm: the guest would load KVM.
PROCESSORS = {"x86_64": "max,la57=off,svm=off", "aarch64": "max"}

# Without the instructions for fast string copy and clear: the emulator runs them a byte
# at a time, where the kernel's own code moves eight.
FASTER = {"x86_64": ",erms=off,fsrm=off", "aarch64": ""}

TCG = {
    machine: Accelerator("TCG", ("-accel", "tcg,thread=multi", "-cpu", processor + FASTER[machine]))
    for machine, processor in PROCESSORS.items()
}

# The guest's clock counts instructions, one per nanosecond, however busy the host is. When
# the guest is idle its clock does not wait for the host's: it jumps to the next timer.
# (The processor is unchanged: figures from different processors do not compare.)
ICOUNT = {
    machine: Accelerator(
        "TCG, counting instructions",
        ("-icount", "shift=0,sleep=off", "-accel", "tcg,thread=single", "-cpu", processor),
    )
    for machine, processor in PROCESSORS.items()
}


def seen_by_guest(
    spec: GuestSpec,
    image: Image,
    hardware: Architecture,
    accelerator: Accelerator,
    append: str = "",
) -> list[str]:
    """Return the arguments that define what the guest sees."""
    return [
        "-nodefaults",
        "-no-user-config",
        "-nographic",
        "-no-reboot",
        "-machine",
        hardware.qemu_machine,
        *accelerator.arguments,
        "-smp",
        str(spec.cpus),
        "-m",
        str(spec.memory),
        "-kernel",
        str(image.kernel),
        "-initrd",
        str(image.initrd),
        "-append",
        kernel_arguments(hardware, append),
        "-serial",
        "chardev:console",
        "-device",
        "virtio-blk-pci,drive=disk",
        # No boot ROM: no guest boots from the network.
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
        "-device",
        "virtio-rng-pci",
    ]


def host_side(instance: Instance, port: int) -> list[str]:
    """Return the arguments that define what backs the machine's devices on this host."""
    return [
        "-name",
        f"http-profiler-{instance.name}",
        "-chardev",
        f"file,id=console,path={escaped(instance.console)}",
        # cache=unsafe: nobody reads the overlay after a crash.
        "-drive",
        f"if=none,id=disk,format=qcow2,cache=unsafe,file={escaped(instance.overlay)}",
        "-netdev",
        f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-pidfile",
        str(instance.pid_file),
    ]


def kernel_arguments(hardware: Architecture, append: str = "") -> str:
    """Return the kernel's command line; ``append`` comes last and so wins."""
    arguments = [
        "root=/dev/vda",
        "rw",
        f"console={hardware.console}",
        # With -no-reboot a panic ends QEMU, which is noticed at once.
        "panic=-1",
        *hardware.kernel_arguments,
        # No guest runs untrusted code.
        "mitigations=off",
        # The network is configured for eth0, whatever the name on its bus.
        "net.ifnames=0",
        # Without "bpf": systemd would load programs of its own, which takes two seconds
        # under emulation, and only the product's programs should be loaded.
        "lsm=lockdown,capability,landlock,yama,apparmor",
        # Failed units are enough to debug a boot; started ones need no line.
        "systemd.show_status=auto",
    ]
    return " ".join([*arguments, *append.split()])


def escaped(path: Path) -> str:
    """Return a path escaped for use in an option, where a comma separates values."""
    return str(path).replace(",", ",,")
