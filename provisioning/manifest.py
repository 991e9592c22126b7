# SPDX-License-Identifier: Apache-2.0
"""What an image was made of and which versions came of that, written down beside its disk.

Why it exists: an image's name says that it is not the one wanted now; its manifest
says why not. Its rule: it is written with the image, and never again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.cache import made
from provisioning.installed import Installed
from provisioning.locks import differences, in_short

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The inputs whose hash is the image's name, and what its system layer has installed."""

    inputs: Mapping[str, Any]
    installed: Installed

    def write(self, directory: Path) -> None:
        """Write it into the directory of an image."""
        document = {"inputs": self.inputs, "installed": self.installed.document()}
        (directory / NAME).write_text(json.dumps(document, indent=1), "utf-8")

    def not_as_locked(self, lock: Installed | None) -> str | None:
        """Say in one line what is not as locked; ``None`` if all is, or there is no lock."""
        if lock is None:
            return None
        found = differences(lock.versions, self.installed.versions)
        return in_short(found) if found else None


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of an image."""
    document = json.loads((directory / NAME).read_text("utf-8"))
    return Manifest(document["inputs"], Installed.of_document(document["installed"]))


def latest_manifest(wanted: Path, guest: str) -> Manifest | None:
    """Return that of the image ``wanted``, if it is built, else of the guest's used last."""
    directories = [wanted, *made(wanted.parent, guest)]
    # Before there were manifests, images had none.
    found = (one for one in directories if (one / NAME).exists())
    return next((read_manifest(one) for one in found), None)
