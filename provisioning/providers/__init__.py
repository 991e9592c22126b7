# SPDX-License-Identifier: Apache-2.0
"""Who starts and stops a machine.

Why it exists: a :class:`~provisioning.guest.Guest` is the same whoever started
it. Its rules: ``qemu`` makes machines of its own and throws them away;
``vagrant`` and ``lima`` bring up machines that are the user's, with modules that
keep the :class:`Tool` protocol. Such a machine is used as it is, and ended
only by who names its provider.
"""

from __future__ import annotations

import os
from typing import Protocol

from provisioning.catalog import GuestSpec
from provisioning.errors import (
    CatalogError,
    GuestError,
    ProviderUnavailable,
    ProvisioningError,
)
from provisioning.guest import Guest
from provisioning.progress import say
from provisioning.providers import lima, vagrant

DEFAULT = "qemu"


class Tool(Protocol):
    """What a module offers whose machines are the user's, for those of this repository."""

    def unavailable(self) -> str | None:
        """Say why it cannot be used here; ``None`` when it can."""

    def running(self) -> list[str]:
        """Return the guests of guests.toml that are up. Starts nothing if there can be none."""

    def attach(self, name: str) -> Guest:
        """Return a guest that is up; GuestError says how to bring it up."""

    def start(self, spec: GuestSpec) -> None:
        """Bring a guest up and provision it; the tool's own output goes to standard error."""

    def stop(self, name: str) -> bool:
        """End a guest and remove its disk; return whether there was one."""


# In the order in which they are asked for a machine that is up.
TOOLS: dict[str, Tool] = {"vagrant": vagrant, "lima": lima}


def named_provider(asked: str | None = None) -> str | None:
    """Return the provider chosen by argument or GUEST_PROVIDER, if any."""
    name = asked or os.environ.get("GUEST_PROVIDER") or None
    if name not in (None, DEFAULT, *TOOLS):
        raise ProviderUnavailable(
            f"unknown provider {name!r}: there are {', '.join((DEFAULT, *TOOLS))}"
        )
    return name


def choose_provider(asked: str | None = None, guest: str | None = None) -> str:
    """Return the provider to use for a guest, or for any if none is named.

    The chosen one; else the tool that has it up; else qemu.
    """
    name = named_provider(asked)
    if name is not None:
        return name
    for tool in TOOLS:
        up = running(tool)
        if guest in up or (guest is None and up):
            return tool
    return DEFAULT


def running(tool: str) -> list[str]:
    """Return the guests that a tool has up; none, and a line that says why, if it does not work."""
    try:
        return TOOLS[tool].running()
    except CatalogError:
        # A mistake of ours, not of the tool.
        raise
    except ProvisioningError as error:
        say(f"provider {tool} is left out: {error}")
        return []


def guests_up(asked: str | None = None) -> list[str]:
    """Return the guests that a tool has up, of the tool to use; none if that is qemu.

    Raises GuestError if the chosen tool has none up.
    """
    name = named_provider(asked)
    if name is None:
        return next((up for up in map(running, TOOLS) if up), [])
    if name == DEFAULT:
        return []
    names = usable(name).running()
    if not names:
        raise GuestError(
            f"no guest is up with provider {name}:"
            f" run `python -m provisioning --provider {name} up GUEST`"
        )
    return names


def usable(name: str) -> Tool:
    """Return a tool that works here, or say why it does not."""
    trouble = TOOLS[name].unavailable()
    if trouble is not None:
        raise ProviderUnavailable(f"provider {name} cannot be used: {trouble}")
    return TOOLS[name]
