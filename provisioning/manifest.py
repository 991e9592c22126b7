# SPDX-License-Identifier: Apache-2.0
"""The record beside an image's disk: its inputs, and the versions it got from them.

An image's name shows only that its inputs differ from the current ones; its manifest
shows which. It is written with the image and never rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.cache import made
from provisioning.installed import Installed
from provisioning.locks import differences, summary

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The inputs whose hash is the image's name, and what its system layer has installed."""

    inputs: Mapping[str, Any]
    installed: Installed

    def write(self, directory: Path) -> None:
        """Write this into the directory of an image."""
        document = {"inputs": self.inputs, "installed": self.installed.document()}
        (directory / NAME).write_text(json.dumps(document, indent=1), "utf-8")

    def lock_differences(self, lock: Installed | None) -> str | None:
        """Summarize the differences from the lock; ``None`` without any, or without a lock."""
        if lock is None:
            return None
        found = differences(lock.versions, self.installed.versions)
        return summary(found) if found else None


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of an image."""
    document = json.loads((directory / NAME).read_text("utf-8"))
    return Manifest(document["inputs"], Installed.of_document(document["installed"]))


def latest_manifest(wanted: Path, guest: str) -> Manifest | None:
    """Return the manifest of the image ``wanted`` if built, else of the guest's last used image."""
    directories = [wanted, *made(wanted.parent, guest)]
    # Images built before manifests were introduced have none.
    found = (one for one in directories if (one / NAME).exists())
    return next((read_manifest(one) for one in found), None)
