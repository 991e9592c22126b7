"""Who starts and stops a machine.

Why it exists: a :class:`~provisioning.guest.Guest` is the same whoever started
it. Its rule: a provider says whether it can work here (``unavailable``),
starts and stops; everything else is the guest's. A name in ``PLANNED`` is
refused with its own error, so that a wish is not taken for a typing mistake.
"""

from __future__ import annotations

import os

from provisioning.errors import ProviderUnavailable

DEFAULT = "qemu"

PLANNED = ("vagrant", "lima")


def choose_provider(asked: str | None = None) -> str:
    """Return the provider to use: what was asked for, else GUEST_PROVIDER, else qemu."""
    name = asked or os.environ.get("GUEST_PROVIDER") or DEFAULT
    if name in PLANNED:
        raise ProviderUnavailable(f"provider {name} is not supported yet: use {DEFAULT}")
    if name != DEFAULT:
        raise ProviderUnavailable(f"unknown provider {name!r}: there is {DEFAULT}")
    return name
