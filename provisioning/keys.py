# SPDX-License-Identifier: Apache-2.0
"""The ssh key for every guest of this user, made once.

An image contains the public half, so the key must outlive images. It is used only for
guests, which listen on loopback only.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from provisioning.cache import cache_directory, locked
from provisioning.errors import ProvisioningError
from provisioning.host import find_tool

# No passphrase: tests use it unattended.
OPTIONS = ("-q", "-t", "ed25519", "-N", "", "-C", "http-profiler guests")


def private_key() -> Path:
    """Return the private key's file, making the key if there is none."""
    key = cache_directory() / "ssh" / "id_ed25519"
    if key.exists():
        return key
    keygen = find_tool("ssh-keygen", "openssh-client")
    with locked(key.with_name("id_ed25519.lock")):
        if key.exists():
            return key
        key.parent.chmod(0o700)
        aside = key.with_name("id_ed25519.new")
        for half in (aside, aside.with_name(aside.name + ".pub")):
            half.unlink(missing_ok=True)
        made = subprocess.run(
            [keygen, *OPTIONS, "-f", str(aside)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise ProvisioningError(f"ssh-keygen cannot make {key}: {made.stderr.strip()}")
        # The private half last: its presence means that the pair is complete.
        aside.with_name(aside.name + ".pub").rename(key.with_name(key.name + ".pub"))
        aside.rename(key)
    return key


def public_key() -> str:
    """Return the public half, one line of authorized_keys."""
    return private_key().with_suffix(".pub").read_text("utf-8").strip()
