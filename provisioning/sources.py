"""What an image is made of, and the copies of it that go into one.

Why it exists: an image is named by the hash of its inputs, so the list of
inputs must be the truth. Its rule: a build takes the product from a copy and names
its image after that copy, so a file that is edited meanwhile is in the next
image. The wheel is built there too, with fixed times: the same sources give
the same wheel, and the repository is left as it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from provisioning.cache import digest_files, source_files
from provisioning.errors import BuildFailed, ToolMissing
from provisioning.host import REPOSITORY, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ANSIBLE = Path(__file__).with_name("ansible")

PYPROJECT = REPOSITORY / "pyproject.toml"

WHEEL_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "profiler", "bpf")

DEMO_SOURCES = ("demo", "loadtest")

PRODUCT_SOURCES = WHEEL_SOURCES + DEMO_SOURCES

DEMO_REQUIREMENTS = tuple(f"{folder}/requirements.txt" for folder in DEMO_SOURCES)

HOST_CERTIFICATES = Path("/usr/local/share/ca-certificates")

# 1980-01-01, the earliest time a zip file, and so a wheel, can hold.
SOURCE_DATE_EPOCH = "315532800"


def profiler_dependencies() -> list[str]:
    """Return what the profiler needs from PyPI, as pyproject.toml says."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    return [str(requirement) for requirement in project.get("dependencies", [])]


def system_inputs() -> dict[str, object]:
    """Return what of the repository and the host shapes a guest's system."""
    return {
        "ansible": digest_files(ANSIBLE, [ANSIBLE]),
        "profiler dependencies": profiler_dependencies(),
        "demo requirements": digest_files(
            REPOSITORY, [REPOSITORY / name for name in DEMO_REQUIREMENTS]
        ),
        "certificates": digest_files(HOST_CERTIFICATES, [HOST_CERTIFICATES]),
    }


def product_inputs(root: Path = REPOSITORY) -> dict[str, str]:
    """Return what below ``root`` is the product, its demo and its load test."""
    return digest_files(root, [root / name for name in PRODUCT_SOURCES])


def copy_product(target: Path) -> Path:
    """Copy the product's sources to ``target``, for which product_inputs() says the same."""
    for name in PRODUCT_SOURCES:
        for file in source_files(REPOSITORY / name):
            copy = target / file.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    return target


def build_wheel(sources: Path, scratch: Path, log: Path) -> Path:
    """Build the wheel of the profiler from a copy of the sources."""
    wheel_sources = scratch / "wheel-sources"
    wheel_sources.mkdir()
    for name in WHEEL_SOURCES:
        if (sources / name).is_dir():
            shutil.copytree(sources / name, wheel_sources / name)
        elif (sources / name).exists():
            shutil.copy(sources / name, wheel_sources / name)
    # The project names its README, and a build must not need the text of it.
    (wheel_sources / "README.md").touch()
    wheels = scratch / "wheels"
    run(
        [*_pip(), "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(wheel_sources)],
        doing="building the wheel",
        log=log,
        env={"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    built = list(wheels.glob("*.whl"))
    if len(built) != 1:
        raise BuildFailed(f"building the wheel: {len(built)} wheels in {wheels}, not one")
    return built[0]


def _pip() -> list[str]:
    for python in (Path(sys.executable), REPOSITORY / ".venv" / "bin" / "python"):
        if os.access(python, os.X_OK):
            probe = subprocess.run([python, "-m", "pip", "--version"], capture_output=True)
            if probe.returncode == 0:
                return [str(python), "-m", "pip"]
    raise ToolMissing("pip", "run `make setup`")
