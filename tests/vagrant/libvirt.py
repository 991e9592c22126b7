# SPDX-License-Identifier: Apache-2.0
"""A host of its own: libvirt, its network and its guests in namespaces that vanish with it.

What libvirt changes on a host (bridges, firewall rules, files below /var/lib)
happens in there. When the first process of the namespace is ended, the kernel ends
whatever libvirt and Vagrant started. That is a shell and not libvirtd, which would
wait in vain for the machines that it kills: nobody would reap them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from provisioning.host import REPOSITORY, find_tool, tail

# Directories that libvirtd keeps things in, from the package; and what we put there.
KEPT = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt")

INSIDE = """
set -e
scratch=$1; shift
for kept; do mount --bind "$scratch$kept" "$kept"; done
mount -t tmpfs tmpfs /run
# Of a network namespace that was just made; libvirt turns forwarding on.
mount -t sysfs sysfs /sys || true
ip link set lo up
libvirtd --config /etc/libvirt/libvirtd.conf >"$scratch/libvirtd.log" 2>&1 &
wait $!
"""

LIBVIRTD_CONF = """\
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
"""

# As the user that can read what the test made, and without what a container lacks.
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""

START_TIMEOUT = 60.0


class Host:
    """A place to run commands in, with libvirt in it."""

    def __init__(self, scratch: Path, pid: int, environment: Mapping[str, str]) -> None:
        self.scratch = scratch
        self.pid = pid
        self.environment = environment

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a command in there, in the repository; its two outputs are one."""
        nsenter = [find_tool("nsenter", "util-linux"), f"--target={self.pid}"]
        return subprocess.run(
            [*nsenter, "--mount", "--net", "--pid", "--wd=" + str(REPOSITORY), "--", *command],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def done(self, *command: str, timeout: float = 600) -> str:
        """Run a command that must succeed; return what it said."""
        result = self.run(*command, timeout=timeout)
        assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}"
        return result.stdout


@contextmanager
def host(scratch: Path, environment: Mapping[str, str]) -> Iterator[Host]:
    """Start libvirt in namespaces of its own; all that ran in there ends with the block."""
    for kept in KEPT:
        (scratch / kept[1:]).mkdir(parents=True)
    (scratch / "etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
    (scratch / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
    bound = [find_tool("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"]
    unshare = [*bound, find_tool("unshare", "util-linux"), "--mount", "--net", "--pid"]
    process = subprocess.Popen(
        [
            *(*unshare, "--fork", "--kill-child", "--mount-proc", "--"),
            *("/bin/sh", "-c", INSIDE, "inside", str(scratch), *KEPT),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield _ready(scratch, process, environment)
    finally:
        process.kill()
        process.wait()


def _ready(scratch: Path, process: subprocess.Popen[bytes], environment: Mapping[str, str]) -> Host:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        for pid in children.read_text().split():
            made = Host(scratch, int(pid), environment)
            if made.run("virsh", "--connect", "qemu:///system", "list").returncode == 0:
                return made
        time.sleep(0.5)
    raise AssertionError(f"libvirtd does not start: {tail(scratch / 'libvirtd.log')}")
