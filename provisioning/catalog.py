# SPDX-License-Identifier: Apache-2.0
"""Reads guests.toml into frozen values, and chooses the guest to use when none is named.

People edit the table, and a typo in it must not become a strange guest: every key
must be known, present and of its type, or the error names the key and the guest. The
default guest is ``ubuntu-24.04`` if its archive answers, else ``debian-12``; the
choice comes with its reason.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.architecture import Architecture, host_architecture
from provisioning.errors import CatalogError, UnknownGuest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CATALOG = Path(__file__).with_name("guests.toml")

PREFERRED, FALLBACK = "ubuntu-24.04", "debian-12"

ARCHIVE_TIMEOUTS = (8.0, 20.0)
"""Seconds an archive has to answer, and, since a busy host is slow too, has at a second try.

A person is waiting for the answer.
"""

# Kept in the tree, where Ansible makes apt read the lists again.
EXPIRED_ARCHIVE = '--aptopt=Acquire::Check-Valid-Until "false"'

# mmdebstrap writes the lines for all archives of a suite before this hook runs, and
# reads the archives after it.
WITHOUT_SECURITY = '--setup-hook=sed -i /-security/d "$1/etc/apt/sources.list"'


@dataclass(frozen=True)
class GuestSpec:
    """One guest, as guests.toml describes it for this host's architecture."""

    name: str
    architecture: str
    distribution: str
    suite: str
    components: tuple[str, ...]
    kernel: str
    kernel_package: str
    python: str
    memory: int
    cpus: int
    product_python: str = ""
    containers: bool = False
    mesh: bool = False
    benchmarks: bool = False
    without_security: bool = False
    archive_expired: bool = False
    box: str = ""

    @property
    def venv_python(self) -> str:
        """The program that makes virtual environments; its package has the same name."""
        return f"python{self.product_python}" if self.product_python else "python3"

    @property
    def apt_options(self) -> tuple[str, ...]:
        """The options that make apt accept the lists of this archive."""
        return (EXPIRED_ARCHIVE,) if self.archive_expired else ()

    @property
    def hooks(self) -> tuple[str, ...]:
        """How mmdebstrap must change the list of archives; no effect in a simulation."""
        return (WITHOUT_SECURITY,) if self.without_security else ()


KEYS: Mapping[str, type] = {
    "distribution": str,
    "suite": str,
    "components": list,
    "kernel": str,
    "kernel_package": str,
    "python": str,
    "memory": int,
    "cpus": int,
}

OPTIONAL_KEYS: Mapping[str, type] = {
    "product_python": str,
    "containers": bool,
    "mesh": bool,
    "benchmarks": bool,
    "without_security": bool,
    "archive_expired": bool,
    "box": str,
}

# The smallest component of each distribution: enough to test whether the whole archive
# answers.
DISTRIBUTIONS = {"debian": "contrib", "ubuntu": "multiverse"}


def parse_catalog(text: str, architecture: Architecture) -> dict[str, GuestSpec]:
    """Parse guests.toml; the guests keep the order of the file."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"guests.toml is not TOML: {error}") from None
    return {name: _parse_guest(name, row, architecture) for name, row in table.items()}


def _parse_guest(name: str, row: Any, architecture: Architecture) -> GuestSpec:
    if not isinstance(row, dict):
        raise CatalogError(f"guests.toml: {name} is outside any guest: write it under [GUEST]")
    known = {**KEYS, **OPTIONAL_KEYS}
    for key, value in row.items():
        if key not in known:
            raise CatalogError(
                f"guests.toml: unknown key {key!r} of guest {name}: known are {', '.join(known)}"
            )
        # The exact type, because a bool is also an int in Python.
        if type(value) is not known[key]:
            raise CatalogError(
                f"guests.toml: {key} of guest {name} is {value!r}, not a {known[key].__name__}"
            )
    missing = [key for key in KEYS if key not in row]
    if missing:
        raise CatalogError(f"guests.toml: guest {name} has no {', '.join(missing)}")
    if row["distribution"] not in DISTRIBUTIONS:
        raise CatalogError(
            f"guests.toml: distribution of guest {name} is {row['distribution']!r},"
            f" not one of {', '.join(DISTRIBUTIONS)}"
        )
    for key in ("memory", "cpus"):
        if row[key] < 1:
            raise CatalogError(f"guests.toml: {key} of guest {name} is {row[key]}, below 1")
    values = dict(row)
    values["components"] = tuple(row["components"])
    values["kernel_package"] = row["kernel_package"].replace("{arch}", architecture.debian)
    return GuestSpec(name=name, architecture=architecture.debian, **values)


@functools.cache
def load_catalog() -> dict[str, GuestSpec]:
    """Read the guests of this repository."""
    return parse_catalog(CATALOG.read_text("utf-8"), host_architecture())


def find_guest(name: str) -> GuestSpec:
    """Return the guest of that name; ``debian-12@gw0`` is an instance of debian-12."""
    catalog = load_catalog()
    try:
        return catalog[name.partition("@")[0]]
    except KeyError:
        raise UnknownGuest(name.partition("@")[0], list(catalog)) from None


@dataclass(frozen=True)
class Choice:
    """A guest, and the sentence that explains why it was chosen."""

    spec: GuestSpec
    reason: str


def default_guest() -> Choice:
    """Choose the guest to use when none is named, with the reason."""
    preferred = find_guest(PREFERRED)
    trouble = archive_trouble(preferred)
    if trouble is None:
        return Choice(preferred, f"using {PREFERRED}: the default guest, its archive answers")
    reason = f"using {FALLBACK}: {PREFERRED} is unreachable ({trouble})"
    return Choice(find_guest(FALLBACK), reason)


@functools.cache
def archive_trouble(spec: GuestSpec) -> str | None:
    """Return why the archive of a guest cannot be used from here; ``None`` if it can.

    This runs mmdebstrap itself, with the mirror and keys that a build would use. If it
    does not answer, it is run once more.
    """
    mmdebstrap = shutil.which("mmdebstrap")
    if mmdebstrap is None:
        return "mmdebstrap is not installed"
    command = [
        mmdebstrap,
        "--simulate",
        "--variant=custom",
        f"--components={DISTRIBUTIONS[spec.distribution]}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "0"',
        '--aptopt=Acquire::http::Timeout "4"',
        '--aptopt=Acquire::https::Timeout "4"',
        *spec.apt_options,
        spec.suite,
        "/dev/null",
    ]
    for timeout in ARCHIVE_TIMEOUTS:
        answer = _answer(command, timeout)
        if answer is not None:
            break
    else:
        return f"no answer within {timeout:.0f} s"
    status, output = answer
    if status == 0:
        return None
    if "NO_PUBKEY" in output or "is not signed" in output:
        return f"this host lacks the key of the {spec.distribution} archive"
    lines = [line for line in output.splitlines() if line.startswith(("E:", "Err:", "W:"))]
    return lines[0].split(":", 1)[1].strip() if lines else "mmdebstrap cannot read its archive"


def _answer(command: list[str], timeout: float) -> tuple[int, str] | None:
    """Return the status and the output of a program; ``None`` after a timeout."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, output.decode("utf-8", "replace")


def recipe(spec: GuestSpec) -> dict[str, Any]:
    """Return the part of a guest that shapes its image.

    This excludes memory, processors, and what only shapes the command that installs the
    base system.
    """
    values = dataclasses.asdict(spec)
    for key in ("memory", "cpus", "without_security", "archive_expired", "box"):
        del values[key]
    return values
