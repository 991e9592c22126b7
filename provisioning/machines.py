"""A machine from first to last: built, booted, used, gone.

Why it exists: it is the one place that knows the order of things; command
line, tests and demo all go through it. Its rules: ``up`` leaves a machine that
is up or nothing; :func:`machine` always takes it down again; when the machine
itself was lost, its console is shown, and only then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from provisioning.catalog import GuestSpec, default_guest, find_guest
from provisioning.errors import GuestError, ProviderUnavailable
from provisioning.guest import Guest
from provisioning.image import Image, ensure_image
from provisioning.instances import Instance, known_instances
from provisioning.progress import say
from provisioning.providers import choose_provider, qemu


def resolve(name: str | None) -> tuple[GuestSpec, Instance]:
    """Return guest and instance for a name; no name is the default guest, and it is said why."""
    if name is None:
        choice = default_guest()
        say(choice.reason)
        return choice.spec, Instance(choice.spec.name)
    return find_guest(name), Instance(name)


def build(name: str | None = None) -> Image:
    """Return the image of a guest, building what of it is missing."""
    spec, _ = resolve(name)
    return ensure_image(spec)


def up(
    name: str | None = None,
    *,
    provider: str | None = None,
    append: str = "",
    timeout: float = qemu.BOOT_TIMEOUT,
) -> tuple[Guest, bool]:
    """Bring a guest up; return it and whether it was not up before."""
    _check(provider)
    spec, instance = resolve(name)
    running = _running(instance)
    if running is not None:
        return running, False
    image = ensure_image(spec)
    with instance.lock():
        running = _running(instance)
        if running is not None:
            return running, False
        return qemu.start(spec, image, instance, append=append, timeout=timeout), True


def attach(name: str) -> Guest:
    """Return a guest that is up."""
    find_guest(name)
    running = _running(Instance(name))
    if running is None:
        raise GuestError(f"{name} is not up: run `python -m provisioning up {name}`")
    return running


def down(name: str) -> bool:
    """Take a guest down and forget it; return whether it ran."""
    find_guest(name)
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
) -> Iterator[Guest]:
    """Yield a guest of one's own: fresh, and gone when the block ends.

    ``instance`` names it (``debian-12@gw0``); without one it gets a name that
    no other process has. It dies with this process, even if that is killed. A
    guest that was brought up by hand is never touched. When the machine is lost,
    the :class:`~provisioning.errors.MachineLost` carries its console.
    """
    _check(provider)
    if instance is not None and name is None:
        name = instance.partition("@")[0]
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
        guest = qemu.start(spec, image, own, append=append, timeout=timeout, bound=True)
        try:
            yield guest
        finally:
            qemu.stop(own)


def _running(instance: Instance) -> Guest | None:
    access = instance.access()
    if access is None or not access.ready or instance.pid() is None:
        return None
    return qemu.guest_of(instance, access)


def _check(provider: str | None) -> None:
    choose_provider(provider)
    trouble = qemu.unavailable()
    if trouble is not None:
        raise ProviderUnavailable(f"provider qemu cannot be used: {trouble}")


def _sweep() -> None:
    """Remove what killed runs left: machines of a run that no longer run and that nobody holds."""
    for instance in known_instances():
        if "@" in instance.name and instance.pid() is None:
            with suppress(GuestError), instance.lock():
                qemu.stop(instance)
