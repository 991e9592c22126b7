# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line for a machine: what the guest sees, and what backs it on this host.

Why it exists: a snapshot of a guest is good for a machine that looks the same to
it, so what it looks like is one list, apart from paths and ports. Its rules: no
device that no test uses; the image is only read, writes go to the overlay; the
guest sees nobody but this host, which reaches its ssh on a loopback port.
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
    """How instructions of the guest are run."""

    name: str
    arguments: tuple[str, ...]


KVM = Accelerator("KVM", ("-accel", "kvm", "-cpu", "host"))

# Without la57: each memory access that misses would walk one table more, and
# five levels are of no use below 128 TiB. Without svm: the guest would load KVM.
PROCESSORS = {"x86_64": "max,la57=off,svm=off", "aarch64": "max"}

# Without the instructions that copy and clear a string of bytes fast: the emulator does a byte
# at a time, where the kernel would move eight.
FASTER = {"x86_64": ",erms=off,fsrm=off", "aarch64": ""}

TCG = {
    machine: Accelerator("TCG", ("-accel", "tcg,thread=multi", "-cpu", processor + FASTER[machine]))
    for machine, processor in PROCESSORS.items()
}

# The guest's clock counts instructions, one a nanosecond, however busy the host is. While
# the guest is idle its clock does not wait for the host's: it jumps to the next timer.
# (The processor is as it was: figures of other processors would not compare.)
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
    """Return the arguments that say what the machine is to its guest."""
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
        # No boot ROM: the guest never boots from the network.
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
        "-device",
        "virtio-rng-pci",
    ]


def behind_it(instance: Instance, port: int) -> list[str]:
    """Return the arguments that say what of this host the machine's devices stand for."""
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
        # With -no-reboot a panic ends QEMU, and is noticed at once.
        "panic=-1",
        *hardware.kernel_arguments,
        # No guest of ours runs code of a stranger.
        "mitigations=off",
        # The network is configured for eth0, whatever the bus calls it.
        "net.ifnames=0",
        # Without "bpf", for which systemd loads programs of its own: two seconds
        # of emulation, and the product's are to be the only ones.
        "lsm=lockdown,capability,landlock,yama,apparmor",
        # A boot is told by units that fail, not by those that start.
        "systemd.show_status=auto",
    ]
    return " ".join([*arguments, *append.split()])


def escaped(path: Path) -> str:
    """Return a path as it stands within an option, where a comma would start the next one."""
    return str(path).replace(",", ",,")
