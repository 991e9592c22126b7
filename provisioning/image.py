# SPDX-License-Identifier: Apache-2.0
"""Builds the disk a guest boots from, in two layers, each cached by its inputs.

Anyone can build a guest from nothing, and changing one line of the product must not
cost a whole installation. The *system* is a directory tree: the distribution's
packages and the playbook's tag ``system``. The *image* is a copy of the system on
which the tag ``product`` ran, as a disk with its kernel and initial RAM disk. Both are
named by the hash of their inputs, so a name that exists needs no work. Installing
packages into a tree needs root; an ordinary user needs ``sudo``, for the build only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.cache import (
    cache_directory,
    digest,
    free_space,
    give_to_caller,
    locked,
    made_aside,
    prune,
    remove_leftovers,
)
from provisioning.catalog import GuestSpec, archive_trouble, recipe
from provisioning.chroot import isolated, with_tree
from provisioning.errors import ArchiveUnreachable, BuildFailed
from provisioning.host import REPOSITORY, find_ansible, find_tool, run
from provisioning.installed import installed_in
from provisioning.keys import public_key
from provisioning.locks import pins, read_lock
from provisioning.manifest import Manifest
from provisioning.playbook import SITE, command, product_variables, system_variables
from provisioning.progress import say, step
from provisioning.sources import ANSIBLE, copy_product, product_inputs, system_inputs

# What Ansible needs in the tree, and what makes it boot.
BASE_PACKAGES = (
    # Debian has it by default, Ubuntu does not.
    "apt",
    "systemd-sysv",
    "udev",
    "openssh-server",
    "sudo",
    "python3",
    "python3-apt",
    "ca-certificates",
    "iproute2",
)

# Nobody reads manuals in a guest, and a tree with fewer files is copied faster.
DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
)

DISK_SIZE = "6G"

# A throw-away disk needs no journal.
FILE_SYSTEM = ("-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "root", "-E", "root_owner=0:0")

# GiB: the system's tree, a copy of it, and the disk made from that copy.
SPACE_NEEDED = 5

KEPT = 2

# Below the cache: trees of the system layer, images, and boxes for Vagrant.
KINDS = ("systems", "images", "boxes")


@dataclass(frozen=True)
class Image:
    """A disk with the kernel that boots it. None of these files is ever rewritten.

    Only a snapshot of a guest that booted from it is added later.
    """

    directory: Path

    @property
    def disk(self) -> Path:
        """The root file system, raw."""
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        """The kernel, as the distribution ships it."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk."""
        return self.directory / "initrd"

    @property
    def exists(self) -> bool:
        """Whether it is built."""
        return self.directory.is_dir()

    def snapshot(self, name: str) -> Path:
        """Return the path of the snapshot with that name, which need not exist."""
        return self.directory / f"snapshot-{name}.qcow2"

    @property
    def snapshots(self) -> list[Path]:
        """The snapshots that exist."""
        return list(self.directory.glob("snapshot-*.qcow2"))


def system_inputs_of(spec: GuestSpec) -> dict[str, Any]:
    """Return all inputs of a guest's system layer."""
    return {
        "guest": recipe(spec),
        "mmdebstrap": _mmdebstrap(spec, Path("TREE")),
        "locked Python packages": pins(read_lock(spec.name)),
        "key of the harness": public_key(),
        **system_inputs(),
    }


def image_inputs_of(spec: GuestSpec, sources: Path = REPOSITORY) -> dict[str, Any]:
    """Return all inputs of a guest's image."""
    return {
        **system_inputs_of(spec),
        "product": product_inputs(sources),
        "disk": [DISK_SIZE, *FILE_SYSTEM],
    }


def system_tree(spec: GuestSpec) -> Path:
    """Return the path of a guest's system layer, which need not exist."""
    return cache_directory() / "systems" / f"{spec.name}-{digest(system_inputs_of(spec))}"


def image_of(spec: GuestSpec, sources: Path = REPOSITORY) -> Image:
    """Return the image of a guest for the current sources, built or not."""
    name = digest(image_inputs_of(spec, sources))
    return Image(cache_directory() / "images" / f"{spec.name}-{name}")


def ensure_image(spec: GuestSpec) -> Image:
    """Return the image of a guest, building what is missing."""
    image = image_of(spec)
    if not image.exists:
        image = build(spec) if os.geteuid() == 0 else Image(made_as_root(spec, "build"))
    for used in (image.directory, system_tree(spec)):
        if used.exists() and os.access(used, os.W_OK):
            # Mark it as used: prune() keeps the most recently used.
            os.utime(used)
    return image


def made_as_root(spec: GuestSpec, what: str) -> Path:
    """Run ``python -m provisioning WHAT GUEST`` through sudo; return the path that it prints."""
    # Checked here, because only the exit status comes back from sudo.
    if not system_tree(spec).is_dir():
        check_archive(spec)
    path = Path(as_root(spec, what))
    if not path.exists():
        raise BuildFailed(f"{spec.name}: {what} as root made nothing")
    return path


def as_root(spec: GuestSpec, command: str) -> str:
    """Run a command of this package on one guest through sudo; return what it printed."""
    sudo = find_tool("sudo", "sudo")
    say(f"{spec.name}: installing packages into a tree needs root: running {command} through sudo")
    cache = cache_directory()
    for name in (*KINDS, "wheels", "logs", "locks"):
        (cache / name).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [
            sudo,
            f"HTTP_PROFILER_CACHE={cache}",
            f"PYTHONPATH={REPOSITORY}",
            "PYTHONDONTWRITEBYTECODE=1",
            sys.executable,
            "-m",
            "provisioning",
            command,
            spec.name,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildFailed(f"{spec.name}: {command} as root failed with status {done.returncode}")
    return done.stdout.strip()


@contextmanager
def building(spec: GuestSpec) -> Iterator[Path]:
    """Hold the build lock of a guest, remove what a killed build left, and yield the log."""
    cache = cache_directory()
    log = cache / "logs" / f"{spec.name}.log"
    with ExitStack() as stack:
        lock = cache / "locks" / f"build-{spec.name}"
        try:
            stack.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            with step(f"{spec.name}: waiting for another process to build it"):
                stack.enter_context(locked(lock))
        for kind in KINDS:
            remove_leftovers(cache / kind, spec.name)
        _check_space(spec, cache)
        log.unlink(missing_ok=True)
        try:
            yield log
        except OSError as error:
            raise BuildFailed(f"{spec.name}: building its image: {error}") from error
        for kind in KINDS:
            prune(cache / kind, spec.name, KEPT)


def _check_space(spec: GuestSpec, cache: Path) -> None:
    # Checked first: a program that fills the disk reports a file of its own deep in a log.
    free = free_space(cache)
    if free < SPACE_NEEDED:
        raise BuildFailed(
            f"{spec.name}: {free:.1f} GiB are free in {cache}, but a build needs {SPACE_NEEDED}:"
            " free some, or set HTTP_PROFILER_CACHE to another place"
        )


def build(spec: GuestSpec) -> Image:
    """Build the image of a guest, as root."""
    with building(spec) as log, tempfile.TemporaryDirectory() as scratch:
        sources = copy_product(Path(scratch))
        image = image_of(spec, sources)
        # Another process may have built it while this one waited for the lock.
        if not image.exists:
            _build_image(spec, ensure_system(spec, log), sources, image, log)
        return image


def ensure_system(spec: GuestSpec, log: Path) -> Path:
    """Return the system layer of a guest, built if missing. Call this in :func:`building`."""
    tree = system_tree(spec)
    if not tree.is_dir():
        build_system(spec, tree, log, pins(read_lock(spec.name)))
    return tree


def check_archive(spec: GuestSpec) -> None:
    """Raise ArchiveUnreachable if the archive of a guest cannot be used from here."""
    trouble = archive_trouble(spec)
    if trouble is not None:
        raise ArchiveUnreachable(f"{spec.name} is unreachable: {trouble}")


def build_system(spec: GuestSpec, tree: Path, log: Path, pinned: Mapping[str, list[str]]) -> None:
    """Make the system layer of a guest, whole or not at all; pip installs what is ``pinned``."""
    check_archive(spec)
    # Fail now rather than after a minute.
    find_ansible()
    inputs = system_inputs_of(spec)
    with made_aside(tree) as aside:
        # Any user may run programs of the tree, so everybody can enter it.
        aside.chmod(0o755)
        with step(f"{spec.name}: installing the base system ({spec.distribution} {spec.suite})"):
            run(isolated(_mmdebstrap(spec, aside)), doing=f"{spec.name}: base system", log=log)
            # The mount point for the host's file, see chroot.py.
            resolv = aside / "etc" / "resolv.conf"
            resolv.unlink(missing_ok=True)
            resolv.touch()
        with step(f"{spec.name}: kernel, BCC, bpftrace and Python packages (Ansible)"):
            play(spec, aside, "system", {}, log, pinned)
        if system_inputs_of(spec) != inputs:
            raise BuildFailed(f"{spec.name}: the playbook changed while it ran: build again")


def _build_image(spec: GuestSpec, tree: Path, sources: Path, image: Image, log: Path) -> None:
    mke2fs = find_tool("mke2fs", "e2fsprogs")
    manifest = Manifest(image_inputs_of(spec, sources), installed_in(tree))
    trouble = manifest.lock_differences(read_lock(spec.name))
    if trouble is not None:
        say(f"{spec.name}: {trouble}")
    with made_aside(image.directory) as aside:
        with (
            whole_tree(spec, tree, sources, aside, log) as root,
            step(f"{spec.name}: writing the disk"),
        ):
            for kind, copy in (("vmlinuz", image.kernel), ("initrd.img", image.initrd)):
                shutil.copyfile(boot_file(spec, root, kind), aside / copy.name)
            disk = str(aside / image.disk.name)
            run(
                [mke2fs, "-q", "-F", *FILE_SYSTEM, "-d", str(root), disk, DISK_SIZE],
                doing=f"{spec.name}: writing the disk",
                log=log,
            )
        manifest.write(aside)
        give_to_caller(aside)


@contextmanager
def whole_tree(
    spec: GuestSpec, tree: Path, sources: Path, aside: Path, log: Path
) -> Iterator[Path]:
    """Yield a copy of the system with the product in it, below ``aside``, until the block ends."""
    with tempfile.TemporaryDirectory(dir=aside) as scratch:
        root = Path(scratch) / "tree"
        with step(f"{spec.name}: building the profiler's wheel"):
            product = product_variables(sources, log)
        with step(f"{spec.name}: copying the system"):
            run(
                ["cp", "--archive", "--reflink=auto", str(tree), str(root)],
                doing=f"{spec.name}: copying the system",
                log=log,
            )
        with step(f"{spec.name}: profiler, demo and load test (Ansible)"):
            play(spec, root, "product", product, log)
        yield root


def boot_file(spec: GuestSpec, root: Path, kind: str) -> Path:
    """Return the one kernel (``vmlinuz``) or RAM disk (``initrd.img``) of a tree."""
    found = sorted((root / "boot").glob(f"{kind}-*"))
    if len(found) != 1:
        raise BuildFailed(f"{spec.name}: expected one {kind}-* in its /boot, found {len(found)}")
    return found[0]


def _mmdebstrap(spec: GuestSpec, tree: Path) -> list[str]:
    return [
        find_tool("mmdebstrap", "mmdebstrap"),
        "--mode=root",
        "--variant=minbase",
        # Ansible then uses the package lists that were just fetched.
        "--skip=cleanup/apt/lists",
        f"--architectures={spec.architecture}",
        f"--components={','.join(spec.components)}",
        f"--include={','.join(BASE_PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        *spec.apt_options,
        *spec.hooks,
        spec.suite,
        str(tree),
    ]


def play(
    spec: GuestSpec,
    tree: Path,
    tag: str,
    extra: Mapping[str, Any],
    log: Path,
    pinned: Mapping[str, list[str]] | None = None,
) -> None:
    """Run the playbook's part ``tag`` in a tree, through a chroot.

    ``pinned`` lists the versions pip installs, for each virtual environment; by
    default those of the guest's lock.
    """
    variables = {**system_variables(spec, pinned), **_embedded_variables(spec), **extra}
    with command(variables) as (ansible, environment):
        arguments = [
            "--connection=community.general.chroot",
            f"--inventory={tree},",
            f"--tags={tag}",
            str(SITE),
        ]
        run(
            with_tree(tree, [*ansible, *arguments]),
            doing=f"{spec.name}: playbook, tag {tag}",
            log=log,
            env=environment,
            cwd=ANSIBLE,
        )


def _embedded_variables(spec: GuestSpec) -> dict[str, Any]:
    return {
        # We are already root in the tree: `become` for each task would only be slow.
        "ansible_become": False,
        "embedded_image": True,
        "embedded_hostname": spec.name.replace(".", "-"),
        "embedded_authorized_key": public_key(),
        "kernel_package": spec.kernel_package,
        "kernel_release_begins": spec.kernel,
    }
