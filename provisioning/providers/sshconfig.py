# SPDX-License-Identifier: Apache-2.0
"""The address of a machine, from the configuration that its tool writes for ssh.

Why it exists: Vagrant and Lima both say how a machine is reached in the
language of ssh's own configuration. Its rule: ssh reads that language
(``ssh -G``), so nothing of it is parsed here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from provisioning.errors import GuestError
from provisioning.guest import UNSHARED, Address
from provisioning.host import find_tool


def address_of(config: Path, host: str) -> Address:
    """Return the address of ``host`` in an ssh configuration file; GuestError if ssh refuses it."""
    command = [find_tool("ssh", "openssh-client"), "-G", "-F", str(config), host]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise GuestError(f"ssh cannot read the configuration of {host}: {asked.stderr.strip()}")
    said: dict[str, list[str]] = {}
    for line in asked.stdout.splitlines():
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)
    keys = tuple(Path(key).expanduser() for key in said.get("identityfile", []))
    return Address(
        said["hostname"][0],
        int(said["port"][0]),
        said["user"][0],
        # Where the file names none, ssh lists the usual ones, which need not exist.
        tuple(key for key in keys if key.exists()),
        UNSHARED,
    )
