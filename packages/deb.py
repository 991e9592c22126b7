# SPDX-License-Identifier: Apache-2.0
"""Builds the package for Debian and Ubuntu: ``python -m packages.deb`` writes it to ``dist/``.

One package works on all releases. It installs a virtual environment of the system's Python, with
one directory of packages for each version of Python (``lib/python3.9/`` and so on). BCC comes
from the distribution. The dependencies come from PyPI as wheels, so nothing is compiled.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from importlib.metadata import Distribution
from pathlib import Path

from packaging.utils import canonicalize_name

from packages import vendored
from packages.completion import completion
from packages.man import page
from profiler import __version__, cli
from profiler.commands.configuration.keys import keys_of
from profiler.commands.configuration.show import template
from provisioning.host import REPOSITORY
from provisioning.sources import copy_product, fastpath_of, installed_dependencies, wheel_of

NAME = "http-profiler"
FASTPATH = f"{NAME}-fastpath"
MAINTAINER = f"The {NAME} authors <{NAME}@users.noreply.github.com>"

LOCK = Path(__file__).with_name("lock.json")

# Debian 11 has the first, Ubuntu 26.04 the last.
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")

_TOO_NEW = f"3.{int(PYTHONS[-1].partition('.')[2]) + 1}"

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

HOME = Path("usr/lib", NAME)

_FILES = Path(__file__).with_name("files")

_CONFFILES = (f"/etc/{NAME}.toml", f"/etc/logrotate.d/{NAME}")

# The service runs for months, so its lines must not fill the disk: at most 2 GiB of them.
CHOSEN = {"output-max-size": 256 * 1024 * 1024, "output-files": 7}

_COMPLETIONS = {
    "bash": Path("usr/share/bash-completion/completions", NAME),
    "zsh": Path("usr/share/zsh/vendor-completions", f"_{NAME}"),
    "fish": Path("usr/share/fish/vendor_completions.d", f"{NAME}.fish"),
}

_CONTROL = f"""\
Package: {NAME}
Version: {{version}}
Architecture: {{architecture}}
Maintainer: {MAINTAINER}
Homepage: https://github.com/{NAME}/{NAME}
Section: net
Priority: optional
Installed-Size: {{kibibytes}}
Depends: python3 (>= {PYTHONS[0]}), python3 (<< {_TOO_NEW}~), python3-bpfcc, libc6 (>= 2.31)
Recommends: libseccomp2, logrotate
Suggests: bpftrace
Description: every HTTP message of this machine as JSON lines
 Shows every HTTP request and response that any process on this machine sends
 or receives, read at the kernel's socket functions with eBPF: no proxy, no
 code change, no restart. It includes a systemd unit, and neither enables nor
 starts it.
"""


def build(directory: Path, architecture: str | None = None, refresh: bool = False) -> Path:
    """Build the package in ``directory`` and return its path.

    The default architecture is that of this machine. :data:`LOCK` has the versions of the wheels
    from PyPI; ``refresh`` takes the newest ones and writes their versions there.
    """
    architecture = architecture or _output("dpkg", "--print-architecture")
    package = directory.resolve() / f"{NAME}_{__version__}_{architecture}.deb"
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        sources, log = copy_product(Path(scratch, "sources")), Path(scratch, "log")
        wheels = [wheel_of(sources, log)]
        # Another architecture would need its own standard library of Rust.
        if MACHINES[architecture] == platform.machine():
            wheels.append(fastpath_of(sources, log))
        _vendor(tree, wheels, MACHINES[architecture], {} if refresh else locked())
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
    """Return the locked versions by version of Python and name of the project."""
    versions: dict[str, dict[str, str]] = json.loads(LOCK.read_text())
    return versions


def _lock(tree: Path) -> None:
    versions = {
        python: {
            canonicalize_name(one.metadata["Name"]): one.version
            for one in vendored.installed(_site_packages(tree, python))
            if one.metadata["Name"] not in (NAME, FASTPATH)
        }
        for python in PYTHONS
    }
    LOCK.write_text(json.dumps(versions, indent=2) + "\n")


def _site_packages(tree: Path, python: str) -> Path:
    return tree / HOME / "lib" / f"python{python}" / "site-packages"


def _vendor(
    tree: Path, wheels: list[Path], machine: str, versions: dict[str, dict[str, str]]
) -> None:
    def install(python: str) -> None:
        target = _site_packages(tree, python)
        exact = versions.get(python, {})
        vendored.install(wheels, installed_dependencies(), python, machine, target, exact)
        # These scripts name the Python that runs pip here.
        shutil.rmtree(target / "bin", ignore_errors=True)

    # pip spends most of its time waiting for the index.
    with ThreadPoolExecutor(len(PYTHONS)) as pool:
        list(pool.map(install, PYTHONS))


def _environment(tree: Path) -> None:
    """Make the directory a virtual environment of whichever Python the machine has."""
    _write(tree / HOME / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = true\n")
    python = tree / HOME / "bin" / "python3"
    python.parent.mkdir()
    python.symlink_to("../../../bin/python3")


def _add_files(tree: Path) -> None:
    parser = cli.build_parser()
    for name, target, mode in (
        (NAME, f"usr/bin/{NAME}", 0o755),
        (f"{NAME}.service", f"usr/lib/systemd/system/{NAME}.service", 0o644),
        ("sysusers", f"usr/lib/sysusers.d/{NAME}.conf", 0o644),
        ("logrotate", _CONFFILES[1], 0o644),
        ("lintian-overrides", f"usr/share/lintian/overrides/{NAME}", 0o644),
        ("postinst", "DEBIAN/postinst", 0o755),
        ("prerm", "DEBIAN/prerm", 0o755),
        ("postrm", "DEBIAN/postrm", 0o755),
    ):
        _write(tree / target.lstrip("/"), (_FILES / name).read_text("utf-8"), mode)
    text = "\n".join(
        ["# Options of http-profiler; see http-profiler(1).", *template(keys_of(parser), CHOSEN)]
    )
    _write(tree / _CONFFILES[0].lstrip("/"), text + "\n")
    for shell, path in _COMPLETIONS.items():
        _write(tree / path, completion(cli.build_parser(), shell))
    _write(tree / f"usr/share/man/man1/{NAME}.1.gz", page(parser))
    documents = tree / "usr/share/doc" / NAME
    _write(documents / "copyright", "\n".join(_copyright(tree)) + "\n")
    _write(documents / "changelog.gz", _changelog())
    pages = REPOSITORY / "docs"
    files = {file.relative_to(pages): file for file in pages.rglob("*.md")}
    files[Path("CHANGELOG.md")] = REPOSITORY / "CHANGELOG.md"
    for place, file in files.items():
        _write(documents / f"{place}.gz", file.read_text("utf-8"))


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
    """Store a file once that is equal for several Pythons, by hard links."""
    known: dict[bytes, Path] = {}
    for file in sorted(one for one in tree.rglob("*") if one.is_file()):
        first = known.setdefault(hashlib.sha256(file.read_bytes()).digest(), file)
        if first is not file:
            file.unlink()
            os.link(first, file)  # Path.hardlink_to() needs Python 3.10


def _copyright(tree: Path) -> Iterator[str]:
    yield "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    yield f"\nFiles: *\nCopyright: 2026 The {NAME} authors\nLicense: Apache-2.0"
    yield " On Debian systems the text is in /usr/share/common-licenses/Apache-2.0."
    places: dict[tuple[str, str], set[str]] = {}
    for target in (tree / HOME / "lib").iterdir():
        for one in vendored.installed(target / "site-packages"):
            places.setdefault((one.metadata["Name"], _licence(one)), set()).update(
                vendored.places(one)
            )
    for (name, licence), patterns in sorted(places.items()):
        if name not in (NAME, FASTPATH):
            yield "\nFiles:"
            yield from (f" {HOME}/lib/*/site-packages/{pattern}" for pattern in sorted(patterns))
            yield f"Copyright: the authors of {name}\nLicense: {licence}"
            yield " The text is in the .dist-info directory."
    module = FASTPATH.replace("-", "_")
    yield f"\nFiles: {HOME}/lib/*/{module}*\nCopyright: 2026 The {NAME} authors, and others"
    yield "License: Apache-2.0"
    yield " The crates that it contains are listed with their licences in .dist-info/sboms."
    yield f"\nFiles: {HOME}/lib/*/profiler/bpf/*\nCopyright: 2026 The {NAME} authors"
    yield "License: GPL-2.0-only"
    yield " On Debian systems the text is in /usr/share/common-licenses/GPL-2."


def _licence(one: Distribution) -> str:
    """The licence of a distribution; the newest field of its metadata is the most precise."""
    about = one.metadata
    licence = about["License-Expression"] or about["License"]
    if licence:
        return str(licence).splitlines()[0]
    named = (each for each in about.get_all("Classifier", ()) if each.startswith("License ::"))
    return ", ".join(each.rpartition(" :: ")[2] for each in named)


def _changelog() -> str:
    return (
        f"{NAME} ({__version__}) unstable; urgency=low\n\n  * Release; see CHANGELOG.md.\n\n"
        f" -- {MAINTAINER}  {formatdate(_time())}\n"
    )


def _settle(tree: Path) -> None:
    """Give every file the same mode and time on every machine that builds the package."""
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
    """Write a file, compressed if its name ends in ``.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    path.chmod(mode)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m packages.deb", description=__doc__)
    parser.add_argument("--architecture", choices=MACHINES, help="default: this machine's")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", metavar="DIRECTORY")
    parser.add_argument(
        "--refresh", action="store_true", help=f"take the newest wheels and write {LOCK.name}"
    )
    options = parser.parse_args()
    print(build(options.output, options.architecture, options.refresh))
    return 0


if __name__ == "__main__":
    sys.exit(main())
