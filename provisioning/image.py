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

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.cache import (
    cache_directory,
    digest,
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
from provisioning.progress import say, step
from provisioning.sources import (
    ANSIBLE,
    DEMO_REQUIREMENTS,
    build_wheel,
    copy_product,
    product_inputs,
    profiler_dependencies,
    system_inputs,
)

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
        image = _build(spec) if os.geteuid() == 0 else _build_as_root(spec)
    for used in (image.directory, system_tree(spec)):
        if used.exists() and os.access(used, os.W_OK):
            # prune() keeps what was used last.
            os.utime(used)
    return image


def _build_as_root(spec: GuestSpec) -> Image:
    sudo = find_tool("sudo", "sudo")
    # Here, for of what fails through sudo no more is known than its status.
    _check_archive(spec, system_tree(spec))
    say(f"{spec.name}: installing packages into a tree needs root: asking sudo for the build")
    cache = cache_directory()
    for name in ("systems", "images", "logs", "locks"):
        (cache / name).mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        [
            sudo,
            f"HTTP_PROFILER_CACHE={cache}",
            f"PYTHONPATH={REPOSITORY}",
            "PYTHONDONTWRITEBYTECODE=1",
            sys.executable,
            "-m",
            "provisioning",
            "build",
            spec.name,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    image = Image(Path(built.stdout.strip()))
    if built.returncode != 0 or not image.disk.exists():
        raise BuildFailed(
            f"{spec.name}: building its image as root failed with status {built.returncode}"
        )
    return image


def _build(spec: GuestSpec) -> Image:
    cache = cache_directory()
    log = cache / "logs" / f"{spec.name}.log"
    with ExitStack() as stack:
        lock = cache / "locks" / f"build-{spec.name}"
        try:
            stack.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            with step(f"{spec.name}: waiting for another process that builds it"):
                stack.enter_context(locked(lock))
        trees, images = cache / "systems", cache / "images"
        for kind in (trees, images):
            remove_leftovers(kind, spec.name)
        sources = copy_product(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        image = image_of(spec, sources)
        if image.exists:
            return image
        log.unlink(missing_ok=True)
        tree = system_tree(spec)
        try:
            if not tree.is_dir():
                _build_system(spec, tree, log)
            _build_image(spec, tree, sources, image, log)
        except OSError as error:
            raise BuildFailed(f"{spec.name}: building its image: {error}") from error
        for kind in (trees, images):
            prune(kind, spec.name, KEPT)
        return image


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
        with tempfile.TemporaryDirectory(dir=aside) as scratch:
            root = Path(scratch) / "tree"
            with step(f"{spec.name}: building the profiler's wheel"):
                wheel = build_wheel(sources, Path(scratch), log)
            with step(f"{spec.name}: copying the system"):
                run(
                    ["cp", "--archive", "--reflink=auto", str(tree), str(root)],
                    doing=f"{spec.name}: copying the system",
                    log=log,
                )
            with step(f"{spec.name}: profiler, demo and load test (Ansible)"):
                product = {"profiler_wheel": str(wheel), "demo_sources": str(sources)}
                play(spec, root, "product", product, log)
            with step(f"{spec.name}: writing the disk"):
                for kind, copy in (("vmlinuz", image.kernel), ("initrd.img", image.initrd)):
                    shutil.copyfile(_boot_file(spec, root, kind), aside / copy.name)
                disk = str(aside / image.disk.name)
                run(
                    [mke2fs, "-q", "-F", *FILE_SYSTEM, "-d", str(root), disk, DISK_SIZE],
                    doing=f"{spec.name}: writing the disk",
                    log=log,
                )
        _give_to_caller(aside)


def _boot_file(spec: GuestSpec, root: Path, kind: str) -> Path:
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


def play(spec: GuestSpec, tree: Path, tag: str, extra: Mapping[str, str], log: Path) -> None:
    """Run the playbook's part ``tag`` in a tree, through a chroot."""
    with tempfile.TemporaryDirectory() as home:
        variables = Path(home) / "variables.json"
        variables.write_text(json.dumps({**_variables(spec), **extra}), "utf-8")
        command = [
            find_ansible(),
            "--connection=community.general.chroot",
            f"--inventory={tree},",
            f"--tags={tag}",
            f"--extra-vars=@{variables}",
            str(ANSIBLE / "site.yml"),
        ]
        run(
            with_tree(tree, command),
            doing=f"{spec.name}: playbook, tag {tag}",
            log=log,
            env={
                "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
                "ANSIBLE_HOME": home,
                # Ansible refuses to start without a UTF-8 locale.
                "LC_ALL": "C.UTF-8",
            },
            cwd=ANSIBLE,
        )


def machine_variables(spec: GuestSpec) -> dict[str, Any]:
    """Return what the playbook is told about a machine of that guest, whoever started it."""
    return {
        # We are root there: becoming root once more for each task is only slow.
        "ansible_become": False,
        "guest_python": spec.python,
        "kernel_release_begins": spec.kernel,
        "profiler_dependencies": profiler_dependencies(),
        "demo_requirements": [str(REPOSITORY / name) for name in DEMO_REQUIREMENTS],
    }


def _variables(spec: GuestSpec) -> dict[str, Any]:
    return {
        **machine_variables(spec),
        "embedded_image": True,
        "embedded_hostname": spec.name.replace(".", "-"),
        "embedded_authorized_key": public_key(),
        "kernel_package": spec.kernel_package,
    }


def _give_to_caller(directory: Path) -> None:
    """Hand an image that was built through sudo to the user who asked for it."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if uid and gid:
            os.chown(path, int(uid), int(gid))
