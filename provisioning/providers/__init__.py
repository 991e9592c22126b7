# SPDX-License-Identifier: Apache-2.0
"""The providers, which start and stop machines.

A :class:`~provisioning.guest.Guest` is the same with every provider. ``qemu`` makes
machines and throws them away. ``vagrant`` and ``lima``, modules that implement the
:class:`Tool` protocol, manage machines that belong to the user. Such a machine is
used as it is, and ended only if its provider is named.
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
    """What a module for a tool with the user's own machines implements."""

    def unavailable(self) -> str | None:
        """Return why the tool cannot be used here; ``None`` if it can."""

    def running(self) -> list[str]:
        """Return the guests of guests.toml that are up. Runs nothing if there can be none."""

    def attach(self, name: str) -> Guest:
        """Return a guest that is up, else raise a GuestError that explains how to bring it up."""

    def start(self, spec: GuestSpec) -> None:
        """Bring a guest up and provision it; the tool's output goes to standard error."""

    def stop(self, name: str) -> bool:
        """Stop a guest and remove its disk; return whether there was one."""


# The order in which they are searched for a machine that is up.
TOOLS: dict[str, Tool] = {"vagrant": vagrant, "lima": lima}


def named_provider(requested: str | None = None) -> str | None:
    """Return the provider chosen by argument or GUEST_PROVIDER, if any."""
    name = requested or os.environ.get("GUEST_PROVIDER") or None
    if name not in (None, DEFAULT, *TOOLS):
        raise ProviderUnavailable(
            f"unknown provider {name!r}: known are {', '.join((DEFAULT, *TOOLS))}"
        )
    return name


def choose_provider(requested: str | None = None, guest: str | None = None) -> str:
    """Return the provider to use for a guest, or for any if none is named.

    The chosen one; else the tool that has the guest up; else qemu.
    """
    name = named_provider(requested)
    if name is not None:
        return name
    for tool in TOOLS:
        up = running(tool)
        if guest in up or (guest is None and up):
            return tool
    return DEFAULT


def running(tool: str) -> list[str]:
    """Return the guests that a tool has up; none, with a printed reason, if the tool fails."""
    try:
        return TOOLS[tool].running()
    except CatalogError:
        # A mistake of the caller, not of the tool.
        raise
    except ProvisioningError as error:
        say(f"provider {tool} is ignored: {error}")
        return []


def guests_up(requested: str | None = None) -> list[str]:
    """Return the guests that are up with the tool to use; none if that is qemu.

    Raises GuestError if the chosen tool has none up.
    """
    name = named_provider(requested)
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
    """Return a tool that works here, else raise ProviderUnavailable."""
    trouble = TOOLS[name].unavailable()
    if trouble is not None:
        raise ProviderUnavailable(f"provider {name} cannot be used: {trouble}")
    return TOOLS[name]
