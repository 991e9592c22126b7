"""Makes the disk a guest boots from, in two layers, each made once for its inputs.

Why it exists: a guest must be made from nothing by anyone, and a change of one
line of the product must not cost a whole installation. Its rules: the *system*
is a directory tree, the distribution's packages and the playbook's tag
``system``; the *image* is a copy of it on which the tag ``product`` ran, as a
disk with kernel and initial RAM disk beside it. Both are named by the hash of
what made them, so a name that exists needs no work. Installing packages into a
tree needs root; a user who is not is asked by ``sudo``, for the build only.
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
from provisioning.keys import public_key
from provisioning.playbook import SITE, command, product_variables, system_variables
from provisioning.progress import say, step
from provisioning.sources import ANSIBLE, copy_product, product_inputs, system_inputs

# What must be there before Ansible can work in the tree, and what makes it boot.
BASE_PACKAGES = (
    # Of itself in Debian, not in Ubuntu.
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

# Nobody reads manuals in a guest, and a tree of fewer files is copied sooner.
DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
)

DISK_SIZE = "6G"

# A disk that is thrown away needs no journal.
FILE_SYSTEM = ("-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "root", "-E", "root_owner=0:0")

KEPT = 2


@dataclass(frozen=True)
class Image:
    """A disk with the kernel that boots it. None of these files is ever written again."""

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


def system_tree(spec: GuestSpec) -> Path:
    """Return where the system layer of a guest is, or will be."""
    name = digest(
        {
            "guest": recipe(spec),
            "mmdebstrap": _mmdebstrap(spec, Path("TREE")),
            "inputs": system_inputs(),
            "key": public_key(),
        }
    )
    return cache_directory() / "systems" / f"{spec.name}-{name}"


def image_of(spec: GuestSpec, sources: Path = REPOSITORY) -> Image:
    """Return the image of a guest for the sources as they are now, built or not."""
    name = digest(
        {
            "system": system_tree(spec).name,
            "product": product_inputs(sources),
            "disk": [DISK_SIZE, *FILE_SYSTEM],
        }
    )
    return Image(cache_directory() / "images" / f"{spec.name}-{name}")


def ensure_image(spec: GuestSpec) -> Image:
    """Return the image of a guest, building what of it is missing."""
    image = image_of(spec)
    if not image.exists:
        image = _build(spec) if os.geteuid() == 0 else Image(made_as_root(spec, "build"))
    for used in (image.directory, system_tree(spec)):
        if used.exists() and os.access(used, os.W_OK):
            # prune() keeps what was used last.
            os.utime(used)
    return image


def made_as_root(spec: GuestSpec, what: str) -> Path:
    """Run ``python -m provisioning WHAT GUEST`` through sudo; return the path that it prints."""
    sudo = find_tool("sudo", "sudo")
    # Here, for of what fails through sudo no more is known than its status.
    _check_archive(spec, system_tree(spec))
    say(f"{spec.name}: installing packages into a tree needs root: asking sudo for the {what}")
    cache = cache_directory()
    for name in ("systems", "images", "boxes", "wheels", "logs", "locks"):
        (cache / name).mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        [
            sudo,
            f"HTTP_PROFILER_CACHE={cache}",
            f"PYTHONPATH={REPOSITORY}",
            "PYTHONDONTWRITEBYTECODE=1",
            sys.executable,
            "-m",
            "provisioning",
            what,
            spec.name,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    path = Path(made.stdout.strip())
    if made.returncode != 0 or not (made.stdout.strip() and path.exists()):
        raise BuildFailed(f"{spec.name}: its {what} as root failed with status {made.returncode}")
    return path


@contextmanager
def building(spec: GuestSpec) -> Iterator[Path]:
    """Be the only one that builds for a guest; yield a copy of the product's sources."""
    lock = cache_directory() / "locks" / f"build-{spec.name}"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            with step(f"{spec.name}: waiting for another process that builds it"):
                stack.enter_context(locked(lock))
        for kind in ("systems", "images", "boxes"):
            remove_leftovers(cache_directory() / kind, spec.name)
        try:
            yield copy_product(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        except OSError as error:
            raise BuildFailed(f"{spec.name}: building its image: {error}") from error


def _build(spec: GuestSpec) -> Image:
    with building(spec) as sources:
        image = image_of(spec, sources)
        if not image.exists:
            log = fresh_log(spec)
            _build_image(spec, ensure_system(spec, log), sources, image, log)
            prune(image.directory.parent, spec.name, KEPT)
        return image


def fresh_log(spec: GuestSpec) -> Path:
    """Return the log of what is built for a guest, empty."""
    log = cache_directory() / "logs" / f"{spec.name}.log"
    log.unlink(missing_ok=True)
    return log


def ensure_system(spec: GuestSpec, log: Path) -> Path:
    """Return the system layer of a guest, building it if it is missing. Be in :func:`building`."""
    tree = system_tree(spec)
    if not tree.is_dir():
        _build_system(spec, tree, log)
        prune(tree.parent, spec.name, KEPT)
    return tree


def _check_archive(spec: GuestSpec, tree: Path) -> None:
    if not tree.is_dir():
        trouble = archive_trouble(spec)
        if trouble is not None:
            raise ArchiveUnreachable(f"{spec.name} is unreachable: {trouble}")


def _build_system(spec: GuestSpec, tree: Path, log: Path) -> None:
    _check_archive(spec, tree)
    # Missed now rather than after a minute.
    find_ansible()
    with made_aside(tree) as aside:
        # Whoever runs programs of the tree enters it as somebody, root or not.
        aside.chmod(0o755)
        with step(f"{spec.name}: installing the base system ({spec.distribution} {spec.suite})"):
            run(isolated(_mmdebstrap(spec, aside)), doing=f"{spec.name}: base system", log=log)
            # A mount point for the host's own, see chroot.py.
            resolv = aside / "etc" / "resolv.conf"
            resolv.unlink(missing_ok=True)
            resolv.touch()
        with step(f"{spec.name}: kernel, BCC, bpftrace and Python packages (Ansible)"):
            play(spec, aside, "system", {}, log)
        if system_tree(spec) != tree:
            raise BuildFailed(f"{spec.name}: the playbook was changed while it ran: build again")


def _build_image(spec: GuestSpec, tree: Path, sources: Path, image: Image, log: Path) -> None:
    mke2fs = find_tool("mke2fs", "e2fsprogs")
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
        raise BuildFailed(f"{spec.name}: {len(found)} files {kind}-* in its /boot, not one")
    return found[0]


def _mmdebstrap(spec: GuestSpec, tree: Path) -> list[str]:
    return [
        find_tool("mmdebstrap", "mmdebstrap"),
        "--mode=root",
        "--variant=minbase",
        # Ansible goes on with the package lists that were just fetched.
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


def play(spec: GuestSpec, tree: Path, tag: str, extra: Mapping[str, Any], log: Path) -> None:
    """Run the playbook's part ``tag`` in a tree, through a chroot."""
    variables = {**system_variables(spec), **_embedded_variables(spec), **extra}
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
        # We are root in the tree: becoming root once more for each task is only slow.
        "ansible_become": False,
        "embedded_image": True,
        "embedded_hostname": spec.name.replace(".", "-"),
        "embedded_authorized_key": public_key(),
        "kernel_package": spec.kernel_package,
        "kernel_release_begins": spec.kernel,
    }
