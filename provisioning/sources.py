# SPDX-License-Identifier: Apache-2.0
"""The inputs of an image, and the copies of them that are installed in it.

An image is named by the hash of its inputs, so their list must be complete. A build
copies the product and names the image after that copy: a file edited meanwhile goes
into the next image. The wheel is built from the copy too, with fixed times, and cached
by the hash of its sources. The same sources give the same wheel, and the build leaves
the repository unchanged.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from provisioning.cache import (
    cache_directory,
    digest,
    digest_files,
    give_to_caller,
    locked,
    made_aside,
    prune,
    remove_leftovers,
    source_files,
)
from provisioning.errors import BuildFailed, ToolMissing
from provisioning.host import REPOSITORY, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ANSIBLE = Path(__file__).with_name("ansible")

BOX = "roles/box/"

# What installs the product on other machines.
FLEET = ("fleet.yml", "roles/service/")

PYPROJECT = REPOSITORY / "pyproject.toml"

WHEEL_SOURCES = (
    "pyproject.toml",
    "LICENSES",
    "docs/reference/record.schema.json",
    "profiler",
    "bpf",
)

DEMO_SOURCES = ("demo", "loadtest")

# The native fast path, a package of its own. Its folder may also have what cargo leaves there.
FASTPATH_SOURCES = ("fastpath/Cargo.toml", "fastpath/pyproject.toml", "fastpath/src")

PRODUCT_SOURCES = WHEEL_SOURCES + FASTPATH_SOURCES + DEMO_SOURCES

DEMO_REQUIREMENTS = tuple(f"{folder}/requirements.txt" for folder in DEMO_SOURCES)

HOST_CERTIFICATES = Path("/usr/local/share/ca-certificates")

# 1980-01-01, the earliest time that a zip file, and so a wheel, can hold.
SOURCE_DATE_EPOCH = "315532800"

KEPT_WHEELS = 4


def installed_dependencies() -> list[str]:
    """Return what a guest and the package get from PyPI: also what ``--tls`` needs."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    extra = project.get("optional-dependencies", {}).get("tls", [])
    return [*map(str, project.get("dependencies", [])), *map(str, extra)]


def system_inputs() -> dict[str, object]:
    """Return the inputs of a guest's system from the repository and the host."""
    playbook = digest_files(ANSIBLE, [ANSIBLE])
    return {
        # The role that makes boxes, and what is not for guests, do not affect an image.
        "ansible": {
            name: content
            for name, content in playbook.items()
            if not name.startswith((BOX, *FLEET))
        },
        "profiler dependencies": installed_dependencies(),
        "demo requirements": digest_files(
            REPOSITORY, [REPOSITORY / name for name in DEMO_REQUIREMENTS]
        ),
        "certificates": digest_files(HOST_CERTIFICATES, [HOST_CERTIFICATES]),
    }


def box_inputs() -> dict[str, str]:
    """Return the part of the playbook that turns an image into a box."""
    return digest_files(ANSIBLE, [ANSIBLE / BOX])


def product_inputs(root: Path = REPOSITORY) -> dict[str, str]:
    """Return the files below ``root`` of the product, its demo and its load test."""
    return digest_files(root, [root / name for name in PRODUCT_SOURCES])


def copy_product(target: Path) -> Path:
    """Copy the product's sources to ``target``; product_inputs() of the copy is the same."""
    for name in PRODUCT_SOURCES:
        for file in source_files(REPOSITORY / name):
            copy = target / file.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    return target


def wheel_of(sources: Path, log: Path) -> Path:
    """Return the wheel of the profiler for a copy of the sources, built if not cached."""
    inputs = digest_files(sources, [sources / name for name in WHEEL_SOURCES])
    return _kept(
        "profiler", digest(inputs), lambda scratch, aside: build_wheel(sources, scratch, aside, log)
    )


def fastpath_of(sources: Path, log: Path) -> Path:
    """Return the wheel of the fast path for this machine's architecture, built if not cached.

    Raises ToolMissing without a compiler.
    """
    inputs = digest_files(sources, [sources / name for name in FASTPATH_SOURCES])
    name = digest({**inputs, "machine": platform.machine()})
    return _kept(
        "fastpath", name, lambda scratch, aside: build_fastpath(sources, scratch, aside, log)
    )


def _kept(name: str, key: str, build: Callable[[Path, Path], None]) -> Path:
    wheels = cache_directory() / "wheels"
    kept = wheels / f"{name}-{key}"
    with locked(cache_directory() / "locks" / "wheel"):
        if not kept.is_dir():
            remove_leftovers(wheels, name)
            with tempfile.TemporaryDirectory() as scratch, made_aside(kept) as aside:
                build(Path(scratch), aside)
                give_to_caller(aside)
            prune(wheels, name, KEPT_WHEELS)
    return next(kept.glob("*.whl"))


def build_wheel(sources: Path, scratch: Path, wheels: Path, log: Path) -> None:
    """Build the wheel of a copy of the product into ``wheels``."""
    for name in WHEEL_SOURCES:
        if (sources / name).is_dir():
            shutil.copytree(sources / name, scratch / name)
        elif (sources / name).exists():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sources / name, scratch / name)
    # pyproject.toml names the README, but a build must not depend on its text.
    (scratch / "README.md").touch()
    run(
        [*_pip(), "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(scratch)],
        doing="building the wheel",
        log=log,
        env={"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    built = len(list(wheels.glob("*.whl")))
    if built != 1:
        raise BuildFailed(f"building the wheel: expected one wheel, found {built}")


def build_fastpath(sources: Path, scratch: Path, wheels: Path, log: Path) -> None:
    """Build the wheel of the fast path into ``wheels``.

    zig links it, for the oldest glibc that manylinux2014 allows. The host's own compiler would make
    a module that older guests cannot load.
    """
    tools = REPOSITORY / ".venv" / "bin"
    if not (tools / "maturin").exists() or shutil.which("cargo") is None:
        raise ToolMissing("maturin and cargo", "run `make setup`")
    copy = scratch / "fastpath"
    shutil.copytree(sources / "fastpath", copy)
    command = (str(tools / "maturin"), "build", "--release", "--zig")
    run(
        [*command, "--compatibility", "manylinux2014", "--out", str(wheels)],
        doing="building the fast path's wheel",
        log=log,
        cwd=copy,
        # maturin finds zig as a module of the first python3.
        env={
            "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
            "PATH": os.pathsep.join((str(tools), os.environ["PATH"])),
        },
    )


def _pip() -> list[str]:
    for python in (Path(sys.executable), REPOSITORY / ".venv" / "bin" / "python"):
        if os.access(python, os.X_OK):
            probe = subprocess.run([python, "-m", "pip", "--version"], capture_output=True)
            if probe.returncode == 0:
                return [str(python), "-m", "pip"]
    raise ToolMissing("pip", "run `make setup`")
