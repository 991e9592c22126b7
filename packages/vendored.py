# SPDX-License-Identifier: Apache-2.0
"""Installs the profiler's dependencies from PyPI for another Python than the running one.

Each dependency is a wheel, as a distribution's Python of that version would install it;
nothing is compiled. pip evaluates markers for the Python it runs on, so this module
evaluates them for the other one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# 2.31, in Debian 11, is the oldest glibc of the releases that the package supports.
_GLIBC = range(17, 32)


def install(
    wheels: Sequence[Path],
    requires: Sequence[str],
    python: str,
    machine: str,
    target: Path,
    locked: Mapping[str, str],
) -> None:
    """Install wheels and all their requirements in the directory ``target``.

    ``requires`` are the wheels' own requirements, ``python`` is a version such as ``3.9``,
    ``machine`` such as ``x86_64``. ``locked`` packages get that version, others the newest.
    Raises CalledProcessError if pip finds no wheel.
    """
    wanted = applying(requires, python)
    _pip([*map(str, wheels), *_exact(wanted, locked)], python, machine, target)
    while wanted := _missing(target, python):
        _pip(_exact(wanted, locked), python, machine, target)


def download(wanted: Sequence[str], python: str, machine: str, target: Path) -> None:
    """Download the ``wanted`` wheels to the directory ``target``, without their requirements."""
    _run(["download", f"--dest={target}", *wanted], python, machine)


def installed(target: Path) -> list[Distribution]:
    """Return the distributions in a directory, by name."""
    found = distributions(path=[str(target)])
    return sorted(found, key=lambda one: canonicalize_name(one.metadata["Name"]))


def places(one: Distribution) -> list[str]:
    """Return patterns for a distribution's files, relative to its directory."""
    files = (file for file in one.files or () if file.parts[0] != "..")
    return sorted({f"{file.parts[0]}/*" if file.parts[1:] else str(file) for file in files})


def applying(requires: Sequence[str], python: str) -> list[Requirement]:
    """Return the requirements whose markers match that Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    return [
        one
        for one in map(Requirement, requires)
        if one.marker is None or one.marker.evaluate(environment)
    ]


def _exact(wanted: Sequence[Requirement], locked: Mapping[str, str]) -> list[str]:
    return [
        f"{one.name}=={version}" if (version := locked.get(name)) else f"{one.name}{one.specifier}"
        for one, name in ((one, canonicalize_name(one.name)) for one in wanted)
    ]


def _missing(target: Path, python: str) -> list[Requirement]:
    there = installed(target)
    names = {canonicalize_name(one.metadata["Name"]) for one in there}
    required = (need for one in there for need in applying(one.requires or (), python))
    missing = {
        canonicalize_name(one.name): one
        for one in required
        if canonicalize_name(one.name) not in names
    }
    return [missing[name] for name in sorted(missing)]


def _pip(wanted: Sequence[str], python: str, machine: str, target: Path) -> None:
    _run(["install", "--no-compile", f"--target={target}", *wanted], python, machine)


def _run(arguments: Sequence[str], python: str, machine: str) -> None:
    """Run pip for that Python and machine, with wheels only, and only those named."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    platforms.append(f"--platform=manylinux2014_{machine}")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    command += ["--no-deps", "--only-binary=:all:", "--implementation=cp"]
    subprocess.run([*command, f"--python-version={python}", *platforms], check=True)
