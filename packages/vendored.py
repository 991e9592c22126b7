# SPDX-License-Identifier: Apache-2.0
"""What the profiler needs from PyPI, for a Python that is not the one that runs here.

The rule: a wheel for each, as a distribution's Python of that version takes it; nothing
is compiled. pip judges markers by the Python that it runs on, so they are judged here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# The oldest glibc of a release that the package is for is 2.31, of Debian 11.
_GLIBC = range(17, 32)


def install(
    wheel: Path,
    requires: Sequence[str],
    python: str,
    machine: str,
    target: Path,
    locked: Mapping[str, str],
) -> None:
    """Put a wheel and all that it requires into the directory ``target``.

    ``requires`` is what the wheel says of that, ``python`` a version such as ``3.9``,
    ``machine`` such as ``x86_64``; of what is ``locked`` that version is taken, of the rest
    the newest. Raises CalledProcessError if pip finds no wheel.
    """
    wanted = applying(requires, python)
    _pip([str(wheel), *_exact(wanted, locked)], python, machine, target)
    while wanted := _missing(target, python):
        _pip(_exact(wanted, locked), python, machine, target)


def download(wanted: Sequence[str], python: str, machine: str, target: Path) -> None:
    """Put the wheels that are ``wanted`` into the directory ``target``, and no others."""
    _run(["download", f"--dest={target}", *wanted], python, machine)


def installed(target: Path) -> list[Distribution]:
    """Return what is in a directory, by name."""
    found = distributions(path=[str(target)])
    return sorted(found, key=lambda one: canonicalize_name(one.metadata["Name"]))


def places(one: Distribution) -> list[str]:
    """Return patterns of the files of a distribution, below the directory it is in."""
    files = (file for file in one.files or () if file.parts[0] != "..")
    return sorted({f"{file.parts[0]}/*" if file.parts[1:] else str(file) for file in files})


def applying(requires: Sequence[str], python: str) -> list[Requirement]:
    """Return the requirements whose markers hold for that Python."""
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
    """Run pip for that Python and machine; it takes wheels only, and none but those named."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    platforms.append(f"--platform=manylinux2014_{machine}")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    command += ["--no-deps", "--only-binary=:all:", "--implementation=cp"]
    subprocess.run([*command, f"--python-version={python}", *platforms], check=True)
