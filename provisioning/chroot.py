# SPDX-License-Identifier: Apache-2.0
"""Runs programs that work in a tree, in namespaces of their own.

Why it exists: packages that are installed into a tree want ``/proc`` there,
and may start programs that stay. Its rule: mounts and processes live in a
private mount and pid namespace, so they end with it on every path, SIGKILL
included; nobody has to remember to unmount.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provisioning.host import find_tool

# The name servers of the host are lent to the tree, not written into it.
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
