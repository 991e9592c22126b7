# SPDX-License-Identifier: Apache-2.0
"""What is installed in a guest's tree: packages of its distribution, and those from PyPI.

Why it exists: a lock file and the record beside an image both say it. Its rule:
the tree is read, nothing in it is run, so it can be a tree of any release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from provisioning.errors import BuildFailed

DPKG_STATUS = "var/lib/dpkg/status"

# Where the roles make their virtual environments.
ENVIRONMENTS = "opt/*"


@dataclass(frozen=True)
class Installed:
    """Exact versions: of the kernel's release, of packages by name, and of those by environment.

    ``asked`` names the packages that somebody asked for: the others came with them.
    """

    kernel: str
    asked: tuple[str, ...]
    packages: Mapping[str, str]
    python: Mapping[str, Mapping[str, str]]

    def document(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {**asdict(self), "asked": list(self.asked)}

    @staticmethod
    def of_document(document: Mapping[str, Any]) -> Installed:
        """Turn what :meth:`document` returned into the value again."""
        return Installed(
            kernel=document["kernel"],
            asked=tuple(document["asked"]),
            packages=document["packages"],
            python=document["python"],
        )

    @property
    def versions(self) -> dict[str, str]:
        """All versions, by names that say which environment a Python package is in."""
        python = {
            f"{home}: {name}": version
            for home, found in self.python.items()
            for name, version in found.items()
        }
        return {**self.packages, **python}


def installed_in(tree: Path) -> Installed:
    """Read what is installed in ``tree``; BuildFailed if it has not exactly one kernel."""
    kernels = sorted(path.name.partition("-")[2] for path in (tree / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise BuildFailed(f"{tree}: {len(kernels)} kernels in its /boot, not one")
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
    """Return name and fields of each paragraph of a file of dpkg's or apt's; none if missing."""
    if not path.exists():
        return []
    found = []
    for paragraph in path.read_text("utf-8").split("\n\n"):
        # A line that begins with a blank goes on with the field before it.
        lines = (line for line in paragraph.splitlines() if line and not line[0].isspace())
        fields = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if fields:
            found.append((fields["Package"], fields))
    return found
