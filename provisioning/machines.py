# SPDX-License-Identifier: Apache-2.0
"""The life of a machine: build, boot, use, take down.

This module alone knows the order; the command line, tests and demo all use it.
``up`` leaves a machine that is up, or nothing. :func:`machine` always takes down what
it started, and leaves alone what Vagrant or Lima brought up. The console is shown
only if the machine itself was lost.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from provisioning.catalog import GuestSpec, default_guest, find_guest
from provisioning.errors import GuestError, ProviderUnavailable
from provisioning.guest import Guest
from provisioning.image import Image, ensure_image
from provisioning.instances import Instance, known_instances
from provisioning.progress import say
from provisioning.providers import DEFAULT, choose_provider, named_provider, qemu, running, usable


def resolve(name: str | None) -> tuple[GuestSpec, Instance]:
    """Return the guest and instance of a name; without one choose the default and print why."""
    if name is None:
        choice = default_guest()
        say(choice.reason)
        return choice.spec, Instance(choice.spec.name)
    return find_guest(name), Instance(name)


def build(name: str | None = None) -> Image:
    """Return the image of a guest, building what is missing."""
    spec, _ = resolve(name)
    return ensure_image(spec)


def up(
    name: str | None = None,
    *,
    provider: str | None = None,
    append: str = "",
    timeout: float = qemu.BOOT_TIMEOUT,
    icount: bool = False,
) -> tuple[Guest, bool]:
    """Bring a guest up; return it, and whether this call started it. See :func:`machine`."""
    chosen = choose_provider(provider, name)
    if chosen != DEFAULT:
        _check_icount(chosen, icount)
        return _up_with(chosen, name, append)
    _check_qemu()
    spec, instance = resolve(name)
    found = _running(instance)
    if found is not None:
        return found, False
    image = ensure_image(spec)
    with instance.lock():
        found = _running(instance)
        if found is not None:
            return found, False
        guest = qemu.start(spec, image, instance, append=append, timeout=timeout, icount=icount)
        return guest, True


def attach(name: str, *, provider: str | None = None) -> Guest:
    """Return a guest that is up."""
    find_guest(name)
    chosen = choose_provider(provider, name)
    if chosen != DEFAULT:
        return usable(chosen).attach(name)
    found = _running(Instance(name))
    if found is None:
        raise GuestError(f"{name} is not up: run `python -m provisioning up {name}`")
    return found


def down(name: str, *, provider: str | None = None) -> bool:
    """Take a guest down and forget it; return whether it ran.

    A machine of Vagrant or Lima is ended only if that provider is named.
    """
    find_guest(name)
    named = named_provider(provider) or DEFAULT
    if named != DEFAULT:
        return usable(named).stop(name)
    instance = Instance(name)
    with instance.lock():
        return qemu.stop(instance)


@contextmanager
def machine(
    name: str | None = None,
    *,
    instance: str | None = None,
    provider: str | None = None,
    append: str = "",
    timeout: float = qemu.BOOT_TIMEOUT,
    icount: bool = False,
) -> Iterator[Guest]:
    """Yield a guest for the caller alone: fresh, and gone when the block ends.

    ``instance`` names it (``debian-12@gw0``); without one it gets a name that no other
    process has. It dies with this process, even if that is killed. A guest that the
    user brought up is never touched. When the machine is lost, the
    :class:`~provisioning.errors.MachineLost` carries its console.

    The providers vagrant and lima yield the machine that is up, whatever ``instance``
    is, to one process at a time, and leave it up.

    With ``icount``, which only the provider qemu supports, each instruction advances the
    guest's clock by a nanosecond.
    """
    if instance is not None and name is None:
        name = instance.partition("@")[0]
    chosen = choose_provider(provider, name)
    if chosen != DEFAULT:
        _check_icount(chosen, icount)
        with _borrowed(chosen, name, append) as guest:
            yield guest
        return
    _check_qemu()
    spec, _ = resolve(name)
    image = ensure_image(spec)
    _sweep()
    own = Instance(instance or f"{spec.name}@{os.getpid()}")
    if own.name.partition("@")[0] != spec.name:
        raise GuestError(
            f"instance {own.name} is not of guest {spec.name}: name it {spec.name}@..."
        )
    with own.lock():
        if own.pid() is not None:
            if "@" not in own.name:
                raise GuestError(
                    f"{own.name} is up already: take it down, or name another instance"
                )
            qemu.stop(own)
        guest = qemu.start(
            spec, image, own, append=append, timeout=timeout, bound=True, icount=icount
        )
        try:
            yield guest
        finally:
            qemu.stop(own)


def _check_icount(tool: str, icount: bool) -> None:
    if icount:
        raise GuestError(f"provider {tool} does not support icount: use {DEFAULT}")


def _running(instance: Instance) -> Guest | None:
    access = instance.access()
    if access is None or not access.ready or instance.pid() is None:
        return None
    return qemu.guest_of(instance, access)


def _up_with(tool: str, name: str | None, append: str) -> tuple[Guest, bool]:
    using = usable(tool)
    name = _name_with(tool, name, append)
    if name in using.running():
        return using.attach(name), False
    using.start(find_guest(name))
    return using.attach(name), True


@contextmanager
def _borrowed(tool: str, name: str | None, append: str) -> Iterator[Guest]:
    using = usable(tool)
    name = _name_with(tool, name, append)
    with Instance(f"{name}@{tool}").lock(), tempfile.TemporaryDirectory(dir="/tmp") as control:
        guest = using.attach(name)
        # Only here is there a caller that will close the shared connection.
        guest.address = replace(guest.address, control=Path(control) / "ssh")
        try:
            guest.connect()
            yield guest
        finally:
            guest.disconnect()


def _name_with(tool: str, name: str | None, append: str) -> str:
    if append:
        raise GuestError(f"provider {tool} does not support kernel arguments: use {DEFAULT}")
    if name is None:
        up_there = running(tool)
        name = up_there[0] if up_there else resolve(None)[0].name
    find_guest(name)
    if "@" in name:
        raise GuestError(f"provider {tool} has one machine of each guest, so it cannot have {name}")
    return name


def _check_qemu() -> None:
    trouble = qemu.unavailable()
    if trouble is not None:
        raise ProviderUnavailable(f"provider {DEFAULT} cannot be used: {trouble}")


def _sweep() -> None:
    """Remove what killed runs left: their machines that neither run nor are locked."""
    for instance in known_instances():
        if "@" in instance.name and instance.pid() is None:
            with suppress(GuestError), instance.lock():
                qemu.stop(instance)
