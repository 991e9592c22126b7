# SPDX-License-Identifier: Apache-2.0
"""Runs programs inside a guest's tree, in namespaces of their own.

Packages that are installed into a tree need ``/proc`` there, and may start programs
that keep running. Mounts and processes live in a private mount and pid namespace and
end with it on every path, SIGKILL included. No code has to unmount anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provisioning.host import find_tool

# The host's resolv.conf is mounted into the tree, not copied.
IN_TREE = """
set -e
tree=$1; shift
mount -t proc proc "$tree/proc"
mount -t tmpfs tmpfs "$tree/tmp"
mount --bind "$(readlink -f /etc/resolv.conf)" "$tree/etc/resolv.conf"
exec "$@"
"""


def isolated(command: Sequence[str]) -> list[str]:
    """Return ``command`` wrapped so that its mounts and processes end with it."""
    unshare = find_tool("unshare", "util-linux")
    return [unshare, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", *command]


def with_tree(tree: Path, command: Sequence[str]) -> list[str]:
    """Return ``command`` wrapped so that ``tree`` is ready to run programs in."""
    return isolated(["/bin/sh", "-c", IN_TREE, "in-tree", str(tree), *command])
