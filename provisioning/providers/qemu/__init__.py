# SPDX-License-Identifier: Apache-2.0
"""The embedded provider: one QEMU process per machine; nothing to install or configure.

It works wherever QEMU runs, without root, services or bridges. Each machine writes to
a disk that is thrown away. KVM is used only where a short boot has shown that it
works. An emulated guest boots once for its image; later guests resume from a snapshot
of that boot.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from provisioning.architecture import Architecture, host_architecture
from provisioning.cache import free_space
from provisioning.catalog import GuestSpec
from provisioning.errors import BootFailed, GuestError, MachineLost, ProvisioningError
from provisioning.guest import Guest
from provisioning.host import find_tool, tail
from provisioning.image import Image
from provisioning.instances import Access, Instance
from provisioning.keys import private_key
from provisioning.progress import say, step
from provisioning.providers.qemu import kvm, snapshot
from provisioning.providers.qemu.command import (
    ICOUNT,
    KVM,
    TCG,
    Accelerator,
    host_side,
    seen_by_guest,
)
from provisioning.providers.qemu.resume import complete_resume

USER = "tester"

# Emulation on a busy machine with two cores, with a margin.
BOOT_TIMEOUT = 180.0

# Seconds to resume on an idle host; half a minute was seen on a very busy one.
LOAD_TIMEOUT = 120.0

# One thread emulates the whole machine and counts each instruction.
ICOUNT_BOOT_TIMEOUT = 1800.0

ATTEMPTS = 5

# GiB that a guest may write. QEMU pauses a guest silently when the disk is full.
SPACE_NEEDED = 1

PORT_TAKEN = "Could not set up host forwarding"
PANIC = "Kernel panic - not syncing"

# The role `embedded` prints this on the guest's console.
READY = b"http-profiler guest: ready"


def unavailable() -> str | None:
    """Return why no machine can be started here; ``None`` if one can."""
    try:
        hardware = host_architecture()
        find_tool(hardware.qemu, hardware.qemu_package)
        find_tool("qemu-img", "qemu-utils")
    except ProvisioningError as error:
        return str(error)
    return None


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
    """Start a machine and wait until it accepts commands; a failure leaves nothing of it.

    ``append`` is added to the kernel's command line. A ``bound`` machine dies with the
    process that started it, even if that is killed. With ``icount`` each instruction
    advances the guest's clock by a nanosecond. ``timeout`` limits the boot, in seconds.
    """
    hardware = host_architecture()
    qemu = find_tool(hardware.qemu, hardware.qemu_package)
    accelerator = _accelerator(spec, qemu, hardware, image, icount)
    # A process that was killed while it started this machine may have left files.
    stop(instance)
    instance.directory.mkdir(parents=True)
    try:
        _check_space(instance)
        # In /tmp, because the path of a Unix socket has at most 108 bytes.
        control = Path(tempfile.mkdtemp(prefix="http-profiler-", dir="/tmp"))
        # Recorded while it is still empty, so that it is never lost.
        access = Access("127.0.0.1", 0, USER, str(private_key()), str(control / "ssh"))
        instance.record(access)
        machine = Machine(spec, image, instance, access, qemu, hardware, accelerator, append, bound)
        guest = load(machine) or boot(machine, timeout)
        access = replace(access, port=guest.address.port, ready=True)
        instance.record(access)
        return guest
    except BaseException:
        stop(instance)
        raise


def _accelerator(
    spec: GuestSpec, qemu: str, hardware: Architecture, image: Image, icount: bool
) -> Accelerator:
    if icount:
        if spec.cpus != 1:
            # QEMU would accept it, but the guest would never come up.
            raise GuestError(
                f"{spec.name}: icount works with one processor only, and it has"
                f" {spec.cpus}: use a guest with cpus = 1 in guests.toml"
            )
        return ICOUNT[hardware.machine]
    return KVM if kvm.trouble(qemu, hardware, image) is None else TCG[hardware.machine]


def _check_space(instance: Instance) -> None:
    free = free_space(instance.directory)
    if free < SPACE_NEEDED:
        raise GuestError(
            f"{instance.name}: {free:.1f} GiB are free in {instance.directory.parent},"
            f" but a machine needs {SPACE_NEEDED}: free some"
        )


@dataclass(frozen=True)
class Machine:
    """All decisions about a machine, except its port."""

    spec: GuestSpec
    image: Image
    instance: Instance
    access: Access
    qemu: str
    hardware: Architecture
    accelerator: Accelerator
    append: str
    bound: bool
    loads: bool = False
    """Whether it resumes from its snapshot instead of booting."""

    @property
    def snapshot(self) -> Path | None:
        """The path of its snapshot, if it is to have one.

        It has none with KVM, where a boot takes seconds; with icount, where counting
        begins at the boot; and with kernel arguments, whose effect the user wants to see.
        """
        if self.accelerator is not TCG[self.hardware.machine] or self.append:
            return None
        return snapshot.path_of(self.image, self.qemu, self._seen_by_guest)

    @property
    def monitor(self) -> Path:
        """The socket of QEMU's monitor, if the machine is to have a snapshot."""
        return Path(self.access.control).with_name("monitor")

    @property
    def how(self) -> str:
        """What runs it, for messages."""
        name = self.accelerator.name
        return name if self.hardware.proven else f"{name}, untried: {self.hardware.machine}"

    def command(self, port: int) -> list[str]:
        """Return the QEMU command of the machine."""
        command = [self.qemu, *self._seen_by_guest, *host_side(self.instance, port)]
        if self.loads:
            command += ["-loadvm", snapshot.TAG]
        elif self.snapshot is not None:
            command += ["-qmp", f"unix:{self.monitor},server=on,wait=off"]
        if self.bound:
            return [find_tool("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *command]
        return command

    @property
    def _seen_by_guest(self) -> list[str]:
        return seen_by_guest(self.spec, self.image, self.hardware, self.accelerator, self.append)


def load(machine: Machine) -> Guest | None:
    """Return a guest resumed from its snapshot; ``None`` if there is none that works."""
    kept, name = machine.snapshot, machine.instance.name
    if kept is None or not kept.exists():
        return None
    try:
        snapshot.copy(kept, machine.instance.overlay)
    except ProvisioningError as error:
        say(f"{name}: booting, because its snapshot cannot be copied: {error}")
        return None
    try:
        with step(f"{name}: loading a snapshot of Linux {machine.spec.kernel}x ({machine.how})"):
            guest = _run(replace(machine, loads=True), time.monotonic() + LOAD_TIMEOUT)
            complete_resume(guest)
            return guest
    except (GuestError, MachineLost) as error:
        kept.unlink(missing_ok=True)
        reason = str(error).removeprefix(f"{name}: ")
        say(f"{name}: booting, and removing its snapshot: {reason}")
        _end(machine.instance)
        return None


def boot(machine: Machine, timeout: float) -> Guest:
    """Return a guest that has booted; the first one of an image leaves a snapshot."""
    kept, name = machine.snapshot, machine.instance.name
    deadline = time.monotonic() + timeout
    with step(f"{name}: booting Linux {machine.spec.kernel}x ({machine.how})"):
        guest = try_boot(machine, deadline)
    if kept is not None:
        try:
            with step(f"{name}: taking a snapshot"):
                snapshot.take(kept, guest, machine.instance, machine.monitor, machine.spec.memory)
                wait_again(guest, machine.instance)
                # Its clock stood still meanwhile. And a snapshot that cannot be completed
                # here is not kept.
                complete_resume(guest)
        except ProvisioningError as error:
            kept.unlink(missing_ok=True)
            reason = str(error).removeprefix(f"{name}: ")
            say(f"{name}: no snapshot was taken: {reason}")
            wait_again(guest, machine.instance)
    return guest


def try_boot(machine: Machine, deadline: float) -> Guest:
    """Boot, and retry after a panic that the emulator caused. Raises BootFailed."""
    for attempt in range(ATTEMPTS):
        make_overlay(machine.image, machine.instance)
        try:
            return _run(machine, deadline)
        except BootFailed as error:
            # An emulated processor may still run an instruction that another processor has
            # just replaced, as Linux does with its static keys during the boot. Now and then
            # that ends in a panic ("int3").
            panicked = PANIC in error.details and machine.accelerator is not KVM
            if not panicked or attempt == ATTEMPTS - 1:
                raise
            say(f"{machine.instance.name}: its kernel panicked during the boot; retrying")
    raise AssertionError("unreachable")


def _run(machine: Machine, deadline: float) -> Guest:
    for attempt in range(ATTEMPTS):
        try:
            return run_once(machine, _free_port(), deadline)
        except BootFailed as error:
            # Another process may have taken the port since it was free.
            if PORT_TAKEN not in error.details or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def run_once(machine: Machine, port: int, deadline: float) -> Guest:
    """Run QEMU and wait until the guest accepts commands. Raises BootFailed."""
    instance = machine.instance
    access = replace(machine.access, port=port)
    instance.record(access)
    instance.console.unlink(missing_ok=True)
    with instance.log.open("wb") as log:
        process = subprocess.Popen(
            machine.command(port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if not machine.loads:
            _wait_until_ready(instance, process, deadline)
        guest = guest_of(instance, access)
        guest.wait(deadline, alive=lambda: _check_running(instance, process))
    except BaseException:
        # Its pid file may not be written yet, and then stop() would not find it.
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
            raise BootFailed(f"{instance.name}: not up in time", console_and_log(instance))
        time.sleep(0.1)


def wait_again(guest: Guest, instance: Instance) -> None:
    """Wait until a paused guest accepts commands again. Raises MachineLost."""

    def alive() -> None:
        if instance.pid() is None:
            raise MachineLost(f"{guest.name}: QEMU has ended", console_and_log(instance))

    guest.wait(time.monotonic() + LOAD_TIMEOUT, alive)


def _check_running(instance: Instance, process: subprocess.Popen[bytes]) -> None:
    status = process.poll()
    if status is not None:
        raise BootFailed(
            f"{instance.name}: QEMU ended with status {status} before the guest was up",
            console_and_log(instance),
        )


def counts_instructions(instance: Instance) -> bool:
    """Whether the machine runs and was started with ``icount``."""
    pid = instance.pid()
    if pid is None:
        return False
    return b"-icount" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def stop(instance: Instance) -> bool:
    """Stop a machine and remove its files; return whether it ran."""
    ran = _end(instance)
    instance.forget()
    return ran


def _end(instance: Instance) -> bool:
    access = instance.access()
    if access is not None and access.port:
        guest_of(instance, access).disconnect()
    return instance.end()


def guest_of(instance: Instance, access: Access) -> Guest:
    """Return the guest of an instance."""
    return Guest(instance.name, access.address(), console=lambda: console_and_log(instance))


def console_and_log(instance: Instance) -> str:
    """Return the end of the machine's console and of QEMU's output."""
    return "\n".join(text for text in (tail(instance.console), tail(instance.log)) if text)


def make_overlay(image: Image, instance: Instance) -> None:
    """Make the overlay disk, which receives the guest's writes to its image."""
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
