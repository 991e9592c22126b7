# SPDX-License-Identifier: Apache-2.0
"""Tests whether KVM works here, with a boot.

``/dev/kvm`` can exist and hang. Only a kernel that ran to its end proves that it
works. The result is kept until the host is rebooted.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from provisioning.architecture import Architecture
from provisioning.cache import cache_directory, digest, write_whole
from provisioning.image import Image
from provisioning.progress import step
from provisioning.providers.qemu.command import KVM, escaped

DEVICE = Path("/dev/kvm")

TIMEOUT = 10.0

# The last message of a kernel without a disk. A kernel that only printed its first lines
# may hang a moment later: seen with a /dev/kvm that lacks a feature the kernel needs.
PROOF = b"Unable to mount root fs"


def trouble(qemu: str, hardware: Architecture, image: Image) -> str | None:
    """Return why KVM cannot be used; ``None`` if a boot has shown that it works.

    The result is kept per QEMU until the host is rebooted.
    """
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} cannot be used by this user"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    answer = cache_directory() / "kvm" / digest([boot, *build_of(qemu)])
    with suppress(FileNotFoundError):
        return answer.read_text("utf-8") or None
    with step("testing whether KVM works here"):
        found = _try(qemu, hardware, image)
    shutil.rmtree(answer.parent, ignore_errors=True)
    write_whole(answer, found or "")
    return found


def build_of(qemu: str) -> list[str | int]:
    """Return what identifies a build of QEMU, without running it."""
    binary = Path(qemu).resolve().stat()
    return [qemu, binary.st_size, binary.st_mtime_ns]


def _try(qemu: str, hardware: Architecture, image: Image) -> str | None:
    with tempfile.TemporaryDirectory() as scratch:
        console = Path(scratch) / "console"
        console.touch()
        process = subprocess.Popen(
            [
                qemu,
                *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
                *("-machine", hardware.qemu_machine, *KVM.arguments),
                *("-smp", "2", "-m", "256", "-kernel", str(image.kernel)),
                *("-append", f"console={hardware.console} panic=-1"),
                *("-chardev", f"file,id=console,path={escaped(console)}"),
                *("-serial", "chardev:console"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + TIMEOUT
            while time.monotonic() < deadline:
                ended = process.poll() is not None
                if PROOF in console.read_bytes():
                    return None
                if ended:
                    return f"QEMU with KVM ended with status {process.returncode}"
                time.sleep(0.1)
            return f"a guest on KVM did not boot within {TIMEOUT:.0f} s"
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                # It may be stuck in the kernel; do not wait for it.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5.0)
