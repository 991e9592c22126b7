# SPDX-License-Identifier: Apache-2.0
"""Lock files in the repository: the exact versions each guest was last built from.

The same sources build a different guest once the archive has moved on. PyPI keeps
every version, so a build installs the locked ones. A distribution's archive keeps
only the newest, so a build installs those and reports how many differ from the lock.
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
    """One package that differs from the lock; ``None`` is the version of a missing package."""

    name: str
    locked: str | None
    found: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.locked or 'not there'} -> {self.found or 'not there'}"


def lock_file(name: str) -> Path:
    """Return the path of the lock of the guest ``name``, which need not exist."""
    return LOCKS / f"{name}.json"


def read_lock(name: str) -> Installed | None:
    """Return the lock of a guest; ``None`` if it has none. CatalogError if it is invalid."""
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
    """Write ``installed`` as the lock of a guest; return its file."""
    write_whole(lock_file(name), json.dumps(installed.document(), indent=1) + "\n")
    return lock_file(name)


def pins(lock: Installed | None) -> dict[str, list[str]]:
    """Return the requirements that pin each virtual environment; none without a lock."""
    if lock is None:
        return {}
    return {
        home: [f"{name}=={version}" for name, version in found.items()]
        for home, found in lock.python.items()
    }


def differences(locked: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """Compare versions by name; return what differs, sorted by name."""
    return [
        Difference(name, locked.get(name), found.get(name))
        for name in sorted(locked.keys() | found.keys())
        if locked.get(name) != found.get(name)
    ]


def summary(found: list[Difference]) -> str:
    """Summarize in one line: how many, and the first of them."""
    first = ", ".join(str(one) for one in found[:SHOWN])
    more = ", ..." if len(found) > SHOWN else ""
    return f"versions that differ from the lock ({len(found)}): {first}{more}"
