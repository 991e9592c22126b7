# SPDX-License-Identifier: Apache-2.0
"""A package for Debian and Ubuntu: ``python -m packages.deb`` leaves it in ``dist/``.

Why one package does for all releases: the directory it installs is a virtual
environment of the system's Python whatever its version is, for it has the packages of
each (``lib/python3.9/`` and so on). BCC is the distribution's own. Nothing is compiled:
what is needed comes from PyPI as wheels.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

from packaging.utils import canonicalize_name

from packages import vendored
from packages.completion import completion
from packages.man import page
from profiler import __version__, cli
from profiler.commands.configuration.keys import keys_of
from profiler.commands.configuration.show import template
from provisioning.host import REPOSITORY
from provisioning.sources import copy_product, profiler_dependencies, wheel_of

NAME = "http-profiler"

LOCK = Path(__file__).with_name("lock.json")

# Debian 11 has the first, Ubuntu 26.04 the last.
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")

_TOO_NEW = f"3.{int(PYTHONS[-1].partition('.')[2]) + 1}"

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

HOME = Path("usr/lib", NAME)

_FILES = Path(__file__).with_name("files")

_CONFFILES = (f"/etc/{NAME}.toml", f"/etc/logrotate.d/{NAME}")

_COMPLETIONS = {
    "bash": Path("usr/share/bash-completion/completions", NAME),
    "zsh": Path("usr/share/zsh/vendor-completions", f"_{NAME}"),
    "fish": Path("usr/share/fish/vendor_completions.d", f"{NAME}.fish"),
}

_CONTROL = f"""\
Package: {NAME}
Version: {{version}}
Architecture: {{architecture}}
Maintainer: {NAME} <http-profiler@localhost>
Section: net
Priority: optional
Installed-Size: {{kibibytes}}
Depends: python3 (>= {PYTHONS[0]}), python3 (<< {_TOO_NEW}~), python3-bpfcc, libc6 (>= 2.31)
Recommends: logrotate
Suggests: bpftrace
Description: every HTTP message of this machine as JSON lines
 Shows every HTTP request and response that any process on this machine sends
 or receives, read at the socket syscalls with eBPF: no proxy, no code change,
 no restart. A systemd unit is included; it is neither enabled nor started.
"""


def build(directory: Path, architecture: str | None = None, refresh: bool = False) -> Path:
    """Make the package in ``directory`` and return its path; for this machine by default.

    What it needs from PyPI is of the versions in :data:`LOCK`; ``refresh`` takes the newest
    and writes them there.
    """
    architecture = architecture or _output("dpkg", "--print-architecture")
    package = directory.resolve() / f"{NAME}_{__version__}_{architecture}.deb"
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        wheel = wheel_of(copy_product(Path(scratch, "sources")), Path(scratch, "log"))
        _vendor(tree, wheel, MACHINES[architecture], {} if refresh else locked())
        if refresh:
            _lock(tree)
        _share(tree)
        _environment(tree)
        _add_files(tree)
        _describe(tree, architecture)
        _settle(tree)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, package],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return package


def locked() -> dict[str, dict[str, str]]:
    """Return the locked versions: for each version of Python, by the name of the project."""
    versions: dict[str, dict[str, str]] = json.loads(LOCK.read_text())
    return versions


def _lock(tree: Path) -> None:
    versions = {
        python: {
            canonicalize_name(one.metadata["Name"]): one.version
            for one in vendored.installed(_site_packages(tree, python))
            if one.metadata["Name"] != NAME
        }
        for python in PYTHONS
    }
    LOCK.write_text(json.dumps(versions, indent=2) + "\n")


def _site_packages(tree: Path, python: str) -> Path:
    return tree / HOME / "lib" / f"python{python}" / "site-packages"


def _vendor(tree: Path, wheel: Path, machine: str, versions: dict[str, dict[str, str]]) -> None:
    def install(python: str) -> None:
        target = _site_packages(tree, python)
        exact = versions.get(python, {})
        vendored.install(wheel, profiler_dependencies(), python, machine, target, exact)
        # Made for the Python that pip ran on.
        shutil.rmtree(target / "bin", ignore_errors=True)

    # Most of the time the index is waited for.
    with ThreadPoolExecutor(len(PYTHONS)) as pool:
        list(pool.map(install, PYTHONS))


def _environment(tree: Path) -> None:
    """Make a virtual environment of the directory, for the Python that the machine has."""
    _write(tree / HOME / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = true\n")
    python = tree / HOME / "bin" / "python3"
    python.parent.mkdir()
    python.symlink_to("../../../bin/python3")


def _add_files(tree: Path) -> None:
    parser = cli.build_parser()
    for name, target, mode in (
        (NAME, f"usr/bin/{NAME}", 0o755),
        (f"{NAME}.service", f"usr/lib/systemd/system/{NAME}.service", 0o644),
        ("logrotate", _CONFFILES[1], 0o644),
        ("lintian-overrides", f"usr/share/lintian/overrides/{NAME}", 0o644),
        ("postinst", "DEBIAN/postinst", 0o755),
        ("prerm", "DEBIAN/prerm", 0o755),
        ("postrm", "DEBIAN/postrm", 0o755),
    ):
        _write(tree / target.lstrip("/"), (_FILES / name).read_text("utf-8"), mode)
    text = "\n".join(
        ["# Options of http-profiler; see http-profiler(1).", *template(keys_of(parser))]
    )
    _write(tree / _CONFFILES[0].lstrip("/"), text + "\n")
    for shell, path in _COMPLETIONS.items():
        _write(tree / path, completion(cli.build_parser(), shell))
    _write_gzip(tree / f"usr/share/man/man1/{NAME}.1.gz", page(parser))
    documents = tree / "usr/share/doc" / NAME
    _write(documents / "copyright", "\n".join(_copyright(tree)) + "\n")
    _write_gzip(documents / "changelog.gz", _changelog())
    pages = REPOSITORY / "docs"
    for page_ in pages.rglob("*.md"):
        _write_gzip(documents / f"{page_.relative_to(pages)}.gz", page_.read_text("utf-8"))


def _describe(tree: Path, architecture: str) -> None:
    files = [one for one in sorted(tree.rglob("*")) if one.is_file() and not one.is_symlink()]
    sums = [
        f"{hashlib.md5(one.read_bytes()).hexdigest()}  {one.relative_to(tree)}"
        for one in files
        if one.parent.name != "DEBIAN"
    ]
    control = _CONTROL.format(
        version=__version__,
        architecture=architecture,
        kibibytes=sum({one.stat().st_ino: one.stat().st_size for one in files}.values()) // 1024,
    )
    _write(tree / "DEBIAN/control", control)
    _write(tree / "DEBIAN/md5sums", "\n".join(sums) + "\n")
    _write(tree / "DEBIAN/conffiles", "\n".join(_CONFFILES) + "\n")


def _share(tree: Path) -> None:
    """Keep what is the same for several Pythons once, by hard links."""
    known: dict[bytes, Path] = {}
    for file in sorted(one for one in tree.rglob("*") if one.is_file()):
        first = known.setdefault(hashlib.sha256(file.read_bytes()).digest(), file)
        if first is not file:
            file.unlink()
            file.hardlink_to(first)


def _copyright(tree: Path) -> Iterator[str]:
    yield "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    yield f"\nFiles: *\nCopyright: the authors of {NAME}\nLicense: Apache-2.0"
    yield " On Debian systems the text is in /usr/share/common-licenses/Apache-2.0."
    for target in sorted((tree / HOME / "lib").iterdir()):
        for one in vendored.installed(target / "site-packages"):
            about = one.metadata
            name = about["Name"]
            license = about["License-Expression"] or about["License"] or "see its files"
            if name != NAME:
                directory = HOME / "lib" / target.name / "site-packages"
                yield "\nFiles:"
                yield from (f" {directory / place}" for place in vendored.places(one))
                yield f"Copyright: the authors of {name} {one.version}"
                yield f"License: {license.splitlines()[0]}"
    yield f"\nFiles: {HOME}/lib/*/profiler/bpf/*\nCopyright: the authors of {NAME}"
    yield "License: GPL-2.0-only"
    yield " On Debian systems the text is in /usr/share/common-licenses/GPL-2."


def _changelog() -> str:
    return (
        f"{NAME} ({__version__}) unstable; urgency=low\n\n  * Made of the repository.\n\n"
        f" -- {NAME} <http-profiler@localhost>  {formatdate(_time())}\n"
    )


def _settle(tree: Path) -> None:
    """Give everything the modes and times that it has on every machine that builds this."""
    for one in [tree, *tree.rglob("*")]:
        if one.is_symlink():
            continue
        if one.is_dir():
            one.chmod(0o755)
        elif tree / HOME in one.parents:
            one.chmod(0o644)
        os.utime(one, (_time(), _time()))


def _time() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(mode)


def _write_gzip(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m packages.deb", description=__doc__)
    parser.add_argument("--architecture", choices=MACHINES, help="default: that of this machine")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", metavar="DIRECTORY")
    parser.add_argument(
        "--refresh", action="store_true", help=f"take the newest wheels, and write {LOCK.name}"
    )
    options = parser.parse_args()
    print(build(options.output, options.architecture, options.refresh))
    return 0


if __name__ == "__main__":
    sys.exit(main())
