"""The embedded provider: a QEMU process per machine, nothing installed, nothing configured.

Why it exists: it works wherever QEMU runs, without root, services or bridges.
Its rules: the image is only read, each machine writes to an overlay that is
thrown away; the guest sees nobody but this host, which reaches its ssh on a
loopback port; KVM is used only where a short boot has shown that it works,
since ``/dev/kvm`` can exist and hang.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from provisioning.architecture import Architecture, host_architecture
from provisioning.cache import cache_directory, digest, write_whole
from provisioning.catalog import GuestSpec
from provisioning.errors import BootFailed, GuestError, ProvisioningError
from provisioning.guest import Guest
from provisioning.host import find_tool, tail
from provisioning.image import Image
from provisioning.instances import Access, Instance
from provisioning.keys import private_key
from provisioning.progress import say, step

USER = "tester"

# Emulation on a busy machine of two cores, with a margin.
BOOT_TIMEOUT = 180.0

# One thread emulates all of it, and each instruction is counted.
ICOUNT_BOOT_TIMEOUT = 1800.0

BOOT_ATTEMPTS = 5

PORT_TAKEN = "Could not set up host forwarding"
PANIC = "Kernel panic - not syncing"

# The role `embedded` has the guest's console say this.
READY = b"http-profiler guest: ready"

KVM_DEVICE = Path("/dev/kvm")

KVM_TIMEOUT = 10.0

# The last thing a kernel without a disk does. One that only says hello may
# hang a moment later: seen with a /dev/kvm that lacks what the kernel asks for.
KVM_PROOF = b"Unable to mount root fs"


@dataclass(frozen=True)
class Accelerator:
    """How instructions of the guest are run."""

    name: str
    arguments: tuple[str, ...]


KVM = Accelerator("KVM", ("-accel", "kvm", "-cpu", "host"))

# Without la57: each memory access that misses would walk one table more, and
# five levels are of no use below 128 TiB. Without svm: the guest would load KVM.
PROCESSORS = {"x86_64": "max,la57=off,svm=off", "aarch64": "max"}

TCG = {
    machine: Accelerator("TCG", ("-accel", "tcg,thread=multi", "-cpu", processor))
    for machine, processor in PROCESSORS.items()
}

# The guest's clock counts instructions, one a nanosecond, however busy the host is. While
# the guest is idle its clock does not wait for the host's: it jumps to the next timer.
ICOUNT = {
    machine: Accelerator(
        "TCG, counting instructions",
        ("-icount", "shift=0,sleep=off", "-accel", "tcg,thread=single", "-cpu", processor),
    )
    for machine, processor in PROCESSORS.items()
}


def unavailable() -> str | None:
    """Say why no machine can be started here; ``None`` when one can."""
    try:
        hardware = host_architecture()
        find_tool(hardware.qemu, hardware.qemu_package)
        find_tool("qemu-img", "qemu-utils")
    except ProvisioningError as error:
        return str(error)
    return None


def command_line(
    spec: GuestSpec,
    image: Image,
    instance: Instance,
    port: int,
    *,
    qemu: str,
    hardware: Architecture,
    accelerator: Accelerator,
    append: str = "",
) -> list[str]:
    """Return the command that is the machine."""
    return [
        qemu,
        "-name",
        f"http-profiler-{instance.name}",
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
        *_console(instance),
        *_disk(instance),
        *_network(port),
        *_random_numbers(),
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


def _console(instance: Instance) -> list[str]:
    return [
        "-chardev",
        f"file,id=console,path={_escaped(instance.console)}",
        "-serial",
        "chardev:console",
    ]


def _disk(instance: Instance) -> list[str]:
    # cache=unsafe: nobody reads the overlay after a crash.
    drive = f"if=none,id=disk,format=qcow2,cache=unsafe,file={_escaped(instance.overlay)}"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=disk"]


def _network(port: int) -> list[str]:
    backend = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"
    # No boot ROM: the guest never boots from the network.
    return ["-netdev", backend, "-device", "virtio-net-pci,netdev=net,romfile="]


def _random_numbers() -> list[str]:
    return ["-device", "virtio-rng-pci"]


def _escaped(path: Path) -> str:
    # Within an option, QEMU reads a comma as the start of the next one.
    return str(path).replace(",", ",,")


def start(
    spec: GuestSpec,
    image: Image,
    instance: Instance,
    *,
    append: str = "",
    timeout: float = BOOT_TIMEOUT,
    bound: bool = False,
    icount: bool = False,
) -> Guest:
    """Boot a machine and wait until it takes commands; on any failure nothing is left of it.

    ``append`` is added to the kernel's command line. A machine that is ``bound``
    dies with the process that started it, even if that is killed. With ``icount``
    a nanosecond of its clock is one instruction.
    """
    hardware = host_architecture()
    qemu = find_tool(hardware.qemu, hardware.qemu_package)
    accelerator = _accelerator(spec, qemu, hardware, image, icount)
    instance.forget()
    instance.directory.mkdir(parents=True)
    try:
        # In /tmp, for a Unix socket's path has room for 108 bytes.
        control = Path(tempfile.mkdtemp(prefix="http-profiler-", dir="/tmp"))
        # Recorded before there is anything in it, so that it is never lost.
        access = Access("127.0.0.1", 0, USER, str(private_key()), str(control / "ssh"))
        instance.record(access)
        _make_overlay(image, instance)
        machine = _Machine(
            spec, image, instance, access, qemu, hardware, accelerator, append, bound
        )
        how = (
            accelerator.name
            if hardware.proven
            else f"{accelerator.name}, untried: {hardware.machine}"
        )
        with step(f"{instance.name}: booting Linux {spec.kernel}x ({how})"):
            return _boot(machine, time.monotonic() + timeout)
    except BaseException:
        stop(instance)
        raise


def _accelerator(
    spec: GuestSpec, qemu: str, hardware: Architecture, image: Image, icount: bool
) -> Accelerator:
    if icount:
        if spec.cpus != 1:
            # QEMU would start it, and it would never come up.
            raise GuestError(
                f"{spec.name}: instructions are counted on one processor only, and it has"
                f" {spec.cpus}: take a guest with cpus = 1 in guests.toml"
            )
        return ICOUNT[hardware.machine]
    return KVM if kvm_trouble(qemu, hardware, image) is None else TCG[hardware.machine]


@dataclass(frozen=True)
class _Machine:
    """All that is decided about a machine before its port is."""

    spec: GuestSpec
    image: Image
    instance: Instance
    access: Access
    qemu: str
    hardware: Architecture
    accelerator: Accelerator
    append: str
    bound: bool

    def command(self, port: int) -> list[str]:
        command = command_line(
            self.spec,
            self.image,
            self.instance,
            port,
            qemu=self.qemu,
            hardware=self.hardware,
            accelerator=self.accelerator,
            append=self.append,
        )
        if self.bound:
            return [find_tool("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *command]
        return command


def _boot(machine: _Machine, deadline: float) -> Guest:
    for attempt in range(BOOT_ATTEMPTS):
        try:
            return _boot_once(machine, _free_port(), deadline)
        except BootFailed as error:
            # Another process may have taken the port since it was found free. And a
            # processor of the emulator may still run an instruction that another one has
            # just replaced, as Linux does with its static keys while it boots: now and then
            # that ends in a panic ("int3").
            panicked = PANIC in error.details and machine.accelerator is not KVM
            if not (panicked or PORT_TAKEN in error.details) or attempt == BOOT_ATTEMPTS - 1:
                raise
            if panicked:
                say(f"{machine.instance.name}: its kernel panicked while it booted; again")
                _make_overlay(machine.image, machine.instance)
    raise AssertionError("unreachable")


def _boot_once(machine: _Machine, port: int, deadline: float) -> Guest:
    instance = machine.instance
    access = replace(machine.access, port=port)
    instance.record(access)
    with instance.log.open("wb") as log:
        process = subprocess.Popen(
            machine.command(port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(instance, process, deadline)
        guest = guest_of(instance, access)
        guest.wait(deadline, alive=lambda: _check_running(instance, process))
        instance.record(replace(access, ready=True))
    except BaseException:
        # Its pid file may not be written yet, and then stop() would not know it.
        if process.poll() is None:
            process.kill()
            process.wait()
        raise
    return guest


def _wait_until_ready(
    instance: Instance, process: subprocess.Popen[bytes], deadline: float
) -> None:
    while not (instance.console.exists() and READY in instance.console.read_bytes()):
        _check_running(instance, process)
        if time.monotonic() > deadline:
            raise BootFailed(f"{instance.name}: not up in time", last_words(instance))
        time.sleep(0.1)


def _check_running(instance: Instance, process: subprocess.Popen[bytes]) -> None:
    status = process.poll()
    if status is not None:
        raise BootFailed(
            f"{instance.name}: QEMU ended with status {status} before the guest was up",
            last_words(instance),
        )


def counts_instructions(instance: Instance) -> bool:
    """Whether the machine was started with ``icount``, and runs."""
    pid = instance.pid()
    if pid is None:
        return False
    return b"-icount" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def stop(instance: Instance) -> bool:
    """End a machine and forget it; return whether it ran."""
    access = instance.access()
    if access is not None and access.port:
        guest_of(instance, access).disconnect()
    ran = instance.end()
    instance.forget()
    return ran


def guest_of(instance: Instance, access: Access) -> Guest:
    """Return the guest that an instance is."""
    return Guest(instance.name, access.address(), console=lambda: last_words(instance))


def last_words(instance: Instance) -> str:
    """Return the end of what the machine's console and QEMU said."""
    return "\n".join(text for text in (tail(instance.console), tail(instance.log)) if text)


def _make_overlay(image: Image, instance: Instance) -> None:
    made = subprocess.run(
        [
            find_tool("qemu-img", "qemu-utils"),
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            str(image.disk),
            str(instance.overlay),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise ProvisioningError(f"{instance.name}: no overlay disk: {made.stderr.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kvm_trouble(qemu: str, hardware: Architecture, image: Image) -> str | None:
    """Say why KVM cannot be used; ``None`` when a boot has shown that it works.

    The answer holds for one QEMU until the host is booted again.
    """
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"{KVM_DEVICE} cannot be used by this user"
    binary = Path(qemu).resolve().stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    name = digest([boot, qemu, binary.st_size, binary.st_mtime_ns])
    answer = cache_directory() / "kvm" / name
    with suppress(FileNotFoundError):
        return answer.read_text("utf-8") or None
    with step("trying whether KVM works here"):
        trouble = _try_kvm(qemu, hardware, image)
    shutil.rmtree(answer.parent, ignore_errors=True)
    write_whole(answer, trouble or "")
    return trouble


def _try_kvm(qemu: str, hardware: Architecture, image: Image) -> str | None:
    with tempfile.TemporaryDirectory() as scratch:
        console = Path(scratch) / "console"
        console.touch()
        process = subprocess.Popen(
            [
                qemu,
                *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
                *("-machine", hardware.qemu_machine, *KVM.arguments),
                *("-smp", "2", "-m", "256", "-kernel", str(image.kernel)),
                *("-append", f"console={hardware.console} panic=-1"),
                *("-chardev", f"file,id=console,path={_escaped(console)}"),
                *("-serial", "chardev:console"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + KVM_TIMEOUT
            while time.monotonic() < deadline:
                ended = process.poll() is not None
                if KVM_PROOF in console.read_bytes():
                    return None
                if ended:
                    return f"QEMU with KVM ended with status {process.returncode}"
                time.sleep(0.1)
            return f"a guest on KVM did not boot within {KVM_TIMEOUT:.0f} s"
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                # Stuck in the kernel it may stay; waiting for it must not.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5.0)
