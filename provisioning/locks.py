# SPDX-License-Identifier: Apache-2.0
"""Lock files: the exact versions of all that a guest was last made of, in the repository.

Why it exists: the same sources give another guest when the archive has moved on.
Its rule: what can be had again is pinned, and what cannot is compared. PyPI keeps
every version, so a build takes the locked ones; a distribution's archive keeps
only the newest, so a build takes those, and says how many are not as locked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioning.cache import write_whole
from provisioning.errors import CatalogError
from provisioning.installed import Installed

LOCKS = Path(__file__).with_name("locks")

SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """One package that is not as locked; a version is ``None`` where it is not there at all."""

    name: str
    locked: str | None
    found: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.locked or 'not there'} -> {self.found or 'not there'}"


def lock_file(name: str) -> Path:
    """Return where the lock of the guest ``name`` is, or would be."""
    return LOCKS / f"{name}.json"


def read_lock(name: str) -> Installed | None:
    """Return the lock of a guest; ``None`` if it has none. CatalogError if it is no lock."""
    try:
        text = lock_file(name).read_text("utf-8")
    except FileNotFoundError:
        return None
    try:
        return Installed.of_document(json.loads(text))
    except (ValueError, KeyError, TypeError):
        raise CatalogError(
            f"{lock_file(name)} is not a lock file:"
            f" remove it and run `python -m provisioning lock {name}`"
        ) from None


def write_lock(name: str, installed: Installed) -> Path:
    """Make ``installed`` the lock of a guest; return its file."""
    write_whole(lock_file(name), json.dumps(installed.document(), indent=1) + "\n")
    return lock_file(name)


def pins(lock: Installed | None) -> dict[str, list[str]]:
    """Return for each virtual environment the requirements that pin it; none without a lock."""
    if lock is None:
        return {}
    return {
        home: [f"{name}=={version}" for name, version in found.items()]
        for home, found in lock.python.items()
    }


def differences(locked: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """Compare versions by name; return what is not the same, in the order of names."""
    return [
        Difference(name, locked.get(name), found.get(name))
        for name in sorted(locked.keys() | found.keys())
        if locked.get(name) != found.get(name)
    ]


def in_short(found: list[Difference]) -> str:
    """Say in one line how many there are, and which come first."""
    first = ", ".join(str(one) for one in found[:SHOWN])
    more = ", ..." if len(found) > SHOWN else ""
    return f"not as locked, {len(found)} of the versions: {first}{more}"
