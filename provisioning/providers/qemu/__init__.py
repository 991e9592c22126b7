# SPDX-License-Identifier: Apache-2.0
"""The embedded provider: a QEMU process per machine, nothing installed, nothing configured.

Why it exists: it works wherever QEMU runs, without root, services or bridges.
Its rules: each machine writes to a disk that is thrown away; KVM is used only
where a short boot has shown that it works; an emulated guest boots once for its
image, and later ones go on from a snapshot of that.
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
    behind_it,
    seen_by_guest,
)
from provisioning.providers.qemu.resume import complete_resume

USER = "tester"

# Emulation on a busy machine of two cores, with a margin.
BOOT_TIMEOUT = 180.0

# Seconds on an idle host; half a minute was seen on a very busy one.
LOAD_TIMEOUT = 120.0

# One thread emulates all of it, and each instruction is counted.
ICOUNT_BOOT_TIMEOUT = 1800.0

ATTEMPTS = 5

# GiB: what a guest writes. QEMU would stop one that finds no space, and say nothing.
SPACE_NEEDED = 1

PORT_TAKEN = "Could not set up host forwarding"
PANIC = "Kernel panic - not syncing"

# The role `embedded` has the guest's console say this.
READY = b"http-profiler guest: ready"


def unavailable() -> str | None:
    """Say why no machine can be started here; ``None`` when one can."""
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
    """Start a machine and wait until it takes commands; on any failure nothing is left of it.

    ``append`` is added to the kernel's command line. A machine that is ``bound``
    dies with the process that started it, even if that is killed. With ``icount``
    a nanosecond of its clock is one instruction. ``timeout`` is how many seconds it
    may take to boot.
    """
    hardware = host_architecture()
    qemu = find_tool(hardware.qemu, hardware.qemu_package)
    accelerator = _accelerator(spec, qemu, hardware, image, icount)
    # One that was killed while it started a machine may have left that.
    stop(instance)
    instance.directory.mkdir(parents=True)
    try:
        _check_space(instance)
        # In /tmp, for a Unix socket's path has room for 108 bytes.
        control = Path(tempfile.mkdtemp(prefix="http-profiler-", dir="/tmp"))
        # Recorded before there is anything in it, so that it is never lost.
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
            # QEMU would start it, and it would never come up.
            raise GuestError(
                f"{spec.name}: instructions are counted on one processor only, and it has"
                f" {spec.cpus}: take a guest with cpus = 1 in guests.toml"
            )
        return ICOUNT[hardware.machine]
    return KVM if kvm.trouble(qemu, hardware, image) is None else TCG[hardware.machine]


def _check_space(instance: Instance) -> None:
    free = free_space(instance.directory)
    if free < SPACE_NEEDED:
        raise GuestError(
            f"{instance.name}: {free:.1f} GiB are free in {instance.directory.parent},"
            f" and a machine takes {SPACE_NEEDED}: free some"
        )


@dataclass(frozen=True)
class Machine:
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
    loads: bool = False
    """Whether it goes on from its snapshot instead of booting."""

    @property
    def snapshot(self) -> Path | None:
        """Where its snapshot is, or will be, if it is to have one.

        Not on KVM, where a boot takes seconds; not where instructions are counted, which
        begins with the boot; and who gives the kernel arguments wants to see what they do.
        """
        if self.accelerator is not TCG[self.hardware.machine] or self.append:
            return None
        return snapshot.path_of(self.image, self.qemu, self._seen_by_guest)

    @property
    def monitor(self) -> Path:
        """Where it listens for commands of QEMU's, if it is to have a snapshot."""
        return Path(self.access.control).with_name("monitor")

    @property
    def how(self) -> str:
        """What runs it, for a person."""
        name = self.accelerator.name
        return name if self.hardware.proven else f"{name}, untried: {self.hardware.machine}"

    def command(self, port: int) -> list[str]:
        """Return the command that is the machine."""
        command = [self.qemu, *self._seen_by_guest, *behind_it(self.instance, port)]
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
    """Return a guest that goes on from its snapshot; ``None`` if there is none that does."""
    kept, name = machine.snapshot, machine.instance.name
    if kept is None or not kept.exists():
        return None
    try:
        snapshot.copy(kept, machine.instance.overlay)
    except ProvisioningError as error:
        say(f"{name}: its snapshot cannot be copied, so it boots: {error}")
        return None
    try:
        with step(f"{name}: loading a snapshot of Linux {machine.spec.kernel}x ({machine.how})"):
            guest = _run(replace(machine, loads=True), time.monotonic() + LOAD_TIMEOUT)
            complete_resume(guest)
            return guest
    except (GuestError, MachineLost) as error:
        kept.unlink(missing_ok=True)
        reason = str(error).removeprefix(f"{name}: ")
        say(f"{name}: its snapshot is removed, and it boots: {reason}")
        _end(machine.instance)
        return None


def boot(machine: Machine, timeout: float) -> Guest:
    """Return a guest that has booted; the first of its kind leaves a snapshot."""
    kept, name = machine.snapshot, machine.instance.name
    deadline = time.monotonic() + timeout
    with step(f"{name}: booting Linux {machine.spec.kernel}x ({machine.how})"):
        guest = try_boot(machine, deadline)
    if kept is not None:
        try:
            with step(f"{name}: keeping a snapshot of it"):
                snapshot.take(kept, guest, machine.instance, machine.monitor, machine.spec.memory)
                wait_again(guest, machine.instance)
                # Its clock stood still meanwhile. And what cannot be done here is not kept.
                complete_resume(guest)
        except ProvisioningError as error:
            kept.unlink(missing_ok=True)
            reason = str(error).removeprefix(f"{name}: ")
            say(f"{name}: no snapshot is kept: {reason}")
            wait_again(guest, machine.instance)
    return guest


def try_boot(machine: Machine, deadline: float) -> Guest:
    """Boot, and boot again after a panic that is the emulator's fault. Raises BootFailed."""
    for attempt in range(ATTEMPTS):
        make_overlay(machine.image, machine.instance)
        try:
            return _run(machine, deadline)
        except BootFailed as error:
            # A processor of the emulator may still run an instruction that another one has
            # just replaced, as Linux does with its static keys while it boots: now and then
            # that ends in a panic ("int3").
            panicked = PANIC in error.details and machine.accelerator is not KVM
            if not panicked or attempt == ATTEMPTS - 1:
                raise
            say(f"{machine.instance.name}: its kernel panicked while it booted; again")
    raise AssertionError("unreachable")


def _run(machine: Machine, deadline: float) -> Guest:
    for attempt in range(ATTEMPTS):
        try:
            return run_once(machine, _free_port(), deadline)
        except BootFailed as error:
            # Another process may have taken the port since it was found free.
            if PORT_TAKEN not in error.details or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def run_once(machine: Machine, port: int, deadline: float) -> Guest:
    """Run QEMU and wait until the guest takes commands. Raises BootFailed."""
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


def wait_again(guest: Guest, instance: Instance) -> None:
    """Wait until a guest that was paused takes commands again. Raises MachineLost."""

    def alive() -> None:
        if instance.pid() is None:
            raise MachineLost(f"{guest.name}: QEMU has ended", last_words(instance))

    guest.wait(time.monotonic() + LOAD_TIMEOUT, alive)


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
    ran = _end(instance)
    instance.forget()
    return ran


def _end(instance: Instance) -> bool:
    access = instance.access()
    if access is not None and access.port:
        guest_of(instance, access).disconnect()
    return instance.end()


def guest_of(instance: Instance, access: Access) -> Guest:
    """Return the guest that an instance is."""
    return Guest(instance.name, access.address(), console=lambda: last_words(instance))


def last_words(instance: Instance) -> str:
    """Return the end of the machine's console and of QEMU's output."""
    return "\n".join(text for text in (tail(instance.console), tail(instance.log)) if text)


def make_overlay(image: Image, instance: Instance) -> None:
    """Make the disk that takes what a guest writes to its image."""
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
