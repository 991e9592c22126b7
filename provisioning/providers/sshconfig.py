# SPDX-License-Identifier: Apache-2.0
"""Reads a machine's address from the ssh configuration that its tool writes.

Vagrant and Lima both describe how to reach a machine in ssh's configuration syntax.
ssh itself parses it (``ssh -G``), so this module does not.
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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"ssh cannot read the configuration of {host}: {done.stderr.strip()}")
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)
    keys = tuple(Path(key).expanduser() for key in said.get("identityfile", []))
    return Address(
        said["hostname"][0],
        int(said["port"][0]),
        said["user"][0],
        # If the file names no key, ssh lists the default ones, which need not exist.
        tuple(key for key in keys if key.exists()),
        UNSHARED,
    )
