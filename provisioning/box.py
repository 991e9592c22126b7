# SPDX-License-Identifier: Apache-2.0
"""Turns one of our images into a Vagrant box for libvirt, so that none is downloaded.

``vagrant up`` then works without a box registry, and the machine needs nothing from
outside. The box has the same two layers as the image, plus the role ``box``. Its disk
boots on its own: the user who unpacks a box may not be the user who runs QEMU, so QEMU
could not read a kernel stored beside the disk. The boot loader and the partition are
written into a file without a loop device. The first sector loads GRUB from the gap
before the partition.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from pathlib import Path

from provisioning import image
from provisioning.architecture import host_architecture
from provisioning.cache import cache_directory, digest, give_to_caller, made_aside
from provisioning.catalog import GuestSpec
from provisioning.errors import ProvisioningError, ToolMissing
from provisioning.host import SETUP_HOST, find_tool, run
from provisioning.progress import step
from provisioning.sources import box_inputs, copy_product

SECTOR = 512
# The conventional start of a first partition, which leaves room for the boot loader.
FIRST_SECTOR = 2048
DISK_GIB = 8

GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "boot")

# Code in the first sector ends here: the partition table follows.
BOOT_CODE = 440

# As with the embedded provider, see kernel_arguments() in providers/qemu/command.py.
KERNEL_ARGUMENTS = "rw panic=-1 no_timer_check mitigations=off net.ifnames=0"

# Vagrant's own public key, which every fresh box accepts until the first `vagrant up` replaces it.
INSECURE_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltG"
    "EFHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSI"
    "Fo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NO"
    "Td0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8t"
    "ehUc9c9WhQ== vagrant insecure public key"
)

METADATA = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_GIB}

# A box has no server for shared folders and needs none.
VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.synced_folder ".", "/vagrant", disabled: true
end
"""


def ensure_box(spec: GuestSpec) -> Path:
    """Return the box of a guest for the current sources, making it if missing."""
    _check_tools()
    if os.geteuid() != 0:
        return image.made_as_root(spec, "box")
    with image.building(spec) as log, tempfile.TemporaryDirectory() as scratch:
        sources = copy_product(Path(scratch))
        name = digest([image.image_of(spec, sources).directory.name, _recipe()])
        box = cache_directory() / "boxes" / f"{spec.name}-{name}" / f"{spec.name}.box"
        if not box.exists():
            _make(spec, image.ensure_system(spec, log), sources, box, log)
        return box


def _make(spec: GuestSpec, tree: Path, sources: Path, box: Path, log: Path) -> None:
    with made_aside(box.parent) as aside:
        with image.whole_tree(spec, tree, sources, aside, log) as root:
            with step(f"{spec.name}: network and user of a box (Ansible)"):
                image.play(spec, root, "box", {"embedded_authorized_key": INSECURE_KEY}, log)
            with step(f"{spec.name}: writing the disk"):
                disk = _disk(spec, root, root.parent, log)
            with step(f"{spec.name}: packing the box"):
                _pack(spec, disk, root.parent, aside / box.name, log)
        give_to_caller(aside)


def _recipe() -> list[object]:
    disk = [FIRST_SECTOR, DISK_GIB, GRUB_MODULES, KERNEL_ARGUMENTS]
    return [box_inputs(), INSECURE_KEY, disk, METADATA, VAGRANTFILE]


def _check_tools() -> None:
    if host_architecture().debian != "amd64":
        raise ProvisioningError("boxes are made on x86_64 only: their boot loader is a PC's")
    if not GRUB.is_dir():
        package = "grub-pc-bin"
        raise ToolMissing("GRUB for PCs", SETUP_HOST.format(package=package, part=" vagrant"))


def _disk(spec: GuestSpec, root: Path, scratch: Path, log: Path) -> Path:
    """Write a disk with one partition that holds ``root``, and a boot loader before it."""
    kernel = image.boot_file(spec, root, "vmlinuz").relative_to(root)
    initrd = image.boot_file(spec, root, "initrd.img").relative_to(root)
    disk, core, menu = scratch / "disk.raw", scratch / "core.img", scratch / "grub.cfg"
    menu.write_text(
        "set root=(hd0,msdos1)\n"
        f"linux /{kernel} root=/dev/vda1 {KERNEL_ARGUMENTS}\n"
        f"initrd /{initrd}\n"
        "boot\n"
    )
    mkimage = [find_tool("grub-mkimage", "grub-common"), "--format=i386-pc", "--prefix=/boot/grub"]
    output = [f"--config={menu}", f"--output={core}", *GRUB_MODULES]
    doing = f"{spec.name}: writing the disk"
    run([*mkimage, *output], doing=doing, log=log)
    with disk.open("wb") as file:
        file.truncate(DISK_GIB << 30)
    size = (DISK_GIB << 30) - FIRST_SECTOR * SECTOR
    mke2fs = [find_tool("mke2fs", "e2fsprogs"), "-q", "-F", *image.FILE_SYSTEM]
    at = ["-E", f"root_owner=0:0,offset={FIRST_SECTOR * SECTOR}"]
    run([*mke2fs, *at, "-d", str(root), str(disk), f"{size >> 10}k"], doing=doing, log=log)
    write_boot_sectors(disk, core.read_bytes(), size // SECTOR)
    return disk


def write_boot_sectors(disk: Path, core: bytes, sectors: int) -> None:
    """Write GRUB and a table of one partition before the first partition of a disk."""
    if len(core) > (FIRST_SECTOR - 1) * SECTOR:
        raise ProvisioningError("the boot loader does not fit before the first partition")
    first = (GRUB / "boot.img").read_bytes()[:BOOT_CODE].ljust(BOOT_CODE + 6, b"\0")
    # Active, Linux; the CHS fields hold their maximum, which means "use LBA".
    active, linux, unused = b"\x80", b"\x83", b"\xfe\xff\xff"
    place = FIRST_SECTOR.to_bytes(4, "little") + sectors.to_bytes(4, "little")
    partitions = (active + unused + linux + unused + place).ljust(64, b"\0")
    with disk.open("r+b") as file:
        # boot.img loads the next sector; core.img then loads the rest of itself.
        file.write(first + partitions + b"\x55\xaa" + core)


def _pack(spec: GuestSpec, disk: Path, scratch: Path, box: Path, log: Path) -> None:
    image_file = scratch / "box.img"
    # Fast to unpack; a box has no other compression around it.
    convert = ["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd"]
    command = [find_tool("qemu-img", "qemu-utils"), *convert, str(disk), str(image_file)]
    run(command, doing=f"{spec.name}: packing the box", log=log)
    (scratch / "metadata.json").write_text(json.dumps(METADATA))
    (scratch / "Vagrantfile").write_text(VAGRANTFILE)
    with tarfile.open(box, "w") as archive:
        for name in ("metadata.json", "Vagrantfile", "box.img"):
            archive.add(scratch / name, name)
