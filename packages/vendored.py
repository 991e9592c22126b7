"""What the profiler needs from PyPI, for a Python that is not the one that runs here.

The rule: a wheel for each, as a distribution's Python of that version takes it; nothing
is compiled. pip judges markers by the Python that it runs on, so they are judged here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# The oldest glibc of a release that the package is for is 2.31, of Debian 11.
_GLIBC = range(17, 32)


def install(wheel: Path, requires: Sequence[str], python: str, machine: str, target: Path) -> None:
    """Put a wheel and all that it requires into the directory ``target``.

    ``requires`` is what the wheel says of that, ``python`` a version such as ``3.9``,
    ``machine`` such as ``x86_64``. Raises CalledProcessError if pip finds no wheel.
    """
    wanted = [str(wheel), *_applying(requires, python)]
    while wanted:
        _pip(wanted, python, machine, target)
        wanted = _missing(target, python)


def installed(target: Path) -> list[Distribution]:
    """Return what is in a directory, by name."""
    found = distributions(path=[str(target)])
    return sorted(found, key=lambda one: canonicalize_name(one.metadata["Name"]))


def _missing(target: Path, python: str) -> list[str]:
    there = installed(target)
    names = {canonicalize_name(one.metadata["Name"]) for one in there}
    required = (text for one in there for text in _applying(one.requires or (), python))
    return sorted(
        {text for text in required if canonicalize_name(Requirement(text).name) not in names}
    )


def _applying(requires: Sequence[str], python: str) -> list[str]:
    """Those whose markers hold for that Python, without them."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found = map(Requirement, requires)
    return [
        f"{one.name}{one.specifier}"
        for one in found
        if one.marker is None or one.marker.evaluate(environment)
    ]


def _pip(wanted: Sequence[str], python: str, machine: str, target: Path) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    platforms.append(f"--platform=manylinux2014_{machine}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-compile", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={python}", *platforms, f"--target={target}", *wanted]
    subprocess.run(command, check=True)
