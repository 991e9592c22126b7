"""Machines that Lima brings up from ``lima/``."""

from __future__ import annotations

from provisioning.catalog import GuestSpec
from provisioning.errors import ProviderUnavailable
from provisioning.guest import Guest


def unavailable() -> str | None:
    """Say why it cannot be used here; ``None`` when it can."""
    return "it is not supported yet"


def running() -> list[str]:
    """Return the guests that are up."""
    return []


def attach(name: str) -> Guest:
    """Return a guest that is up."""
    raise ProviderUnavailable("provider lima is not supported yet")


def start(spec: GuestSpec) -> None:
    """Bring a guest up."""
    raise ProviderUnavailable("provider lima is not supported yet")


def stop(name: str) -> bool:
    """End a guest."""
    raise ProviderUnavailable("provider lima is not supported yet")
