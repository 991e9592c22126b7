# SPDX-License-Identifier: Apache-2.0
"""Lists what is installed in a guest's tree: its distribution's packages and those from PyPI.

A lock file and the manifest beside an image both record it. The tree is only read:
no program of it runs, so the tree can be of any release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from provisioning.errors import BuildFailed

DPKG_STATUS = "var/lib/dpkg/status"

# Where the roles create their virtual environments.
ENVIRONMENTS = "opt/*"


@dataclass(frozen=True)
class Installed:
    """Exact versions: the kernel's release, packages by name, and Python packages by environment.

    ``asked`` names the packages that were requested; the others are their dependencies.
    """

    kernel: str
    asked: tuple[str, ...]
    packages: Mapping[str, str]
    python: Mapping[str, Mapping[str, str]]

    def document(self) -> dict[str, Any]:
        """Return this as a JSON value."""
        return {**asdict(self), "asked": list(self.asked)}

    @staticmethod
    def of_document(document: Mapping[str, Any]) -> Installed:
        """Restore the value from what :meth:`document` returned."""
        return Installed(
            kernel=document["kernel"],
            asked=tuple(document["asked"]),
            packages=document["packages"],
            python=document["python"],
        )

    @property
    def versions(self) -> dict[str, str]:
        """All versions, with a Python package's name prefixed by its environment."""
        python = {
            f"{home}: {name}": version
            for home, found in self.python.items()
            for name, version in found.items()
        }
        return {**self.packages, **python}


def installed_in(tree: Path) -> Installed:
    """Read what is installed in ``tree``; BuildFailed unless it has exactly one kernel."""
    kernels = sorted(path.name.partition("-")[2] for path in (tree / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise BuildFailed(f"{tree}: expected one kernel in its /boot, found {len(kernels)}")
    automatic = {
        name
        for name, fields in _stanzas(tree / "var/lib/apt/extended_states")
        if fields.get("Auto-Installed") == "1"
    }
    packages = {
        name: fields["Version"]
        for name, fields in _stanzas(tree / DPKG_STATUS)
        if fields["Status"].endswith(" installed")
    }
    python = {
        f"/{home.relative_to(tree)}": found
        for home in sorted(tree.glob(ENVIRONMENTS))
        if (found := _python_packages(home))
    }
    asked = tuple(sorted(packages.keys() - automatic))
    return Installed(kernels[0], asked, dict(sorted(packages.items())), python)


def _python_packages(home: Path) -> dict[str, str]:
    places = [str(path) for path in home.glob("lib/python3*/site-packages")]
    found = {one.metadata["Name"].lower(): one.version for one in distributions(path=places)}
    return dict(sorted(found.items()))


def _stanzas(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the name and fields of each paragraph in a dpkg or apt file; none if it is missing."""
    if not path.exists():
        return []
    found = []
    for paragraph in path.read_text("utf-8").split("\n\n"):
        # A line that begins with a blank continues the field before it.
        lines = (line for line in paragraph.splitlines() if line and not line[0].isspace())
        fields = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if fields:
            found.append((fields["Package"], fields))
    return found
