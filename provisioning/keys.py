# SPDX-License-Identifier: Apache-2.0
"""The ssh key that opens every guest of this user, made once.

Why it exists: an image carries the public half from the day it is built, so
the key must outlive images. Its rule: it is used for nothing but guests, which
listen on loopback only.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from provisioning.cache import cache_directory, locked
from provisioning.errors import ProvisioningError
from provisioning.host import find_tool

# No passphrase: tests use it, with nobody to ask.
OPTIONS = ("-q", "-t", "ed25519", "-N", "", "-C", "http-profiler guests")


def private_key() -> Path:
    """Return the private key's file, which is made if there is none."""
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
        # The private half last: it is what says that the pair is there.
        aside.with_name(aside.name + ".pub").rename(key.with_name(key.name + ".pub"))
        aside.rename(key)
    return key


def public_key() -> str:
    """Return the public half, one line of authorized_keys."""
    return private_key().with_suffix(".pub").read_text("utf-8").strip()
