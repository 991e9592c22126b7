# SPDX-License-Identifier: Apache-2.0
"""Locks a guest: builds its system from the newest versions and writes these down.

Pinned versions change only on request. The lock describes what was really built, and
that build is kept, because a build with the new lock would give the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from provisioning.cache import cache_directory, give_to_caller, remove_tree
from provisioning.catalog import GuestSpec
from provisioning.image import (
    as_root,
    build_system,
    building,
    check_archive,
    play,
    system_tree,
)
from provisioning.installed import installed_in
from provisioning.locks import lock_file, pins, write_lock


def relock(spec: GuestSpec) -> Path:
    """Rebuild the system of a guest from the newest versions, lock these, and return the lock."""
    if os.geteuid() == 0:
        with building(spec) as log:
            build_and_lock(spec, log)
    else:
        check_archive(spec)
        as_root(spec, "lock")
    return lock_file(spec.name)


def build_and_lock(spec: GuestSpec, log: Path) -> None:
    """Build and lock as root; call this within :func:`building`."""
    # No digest has this name, so a partial tree is never reused if this process is killed.
    newest = cache_directory() / "systems" / f"{spec.name}-newest"
    remove_tree(newest)
    try:
        build_system(spec, newest, log, {})
        installed = installed_in(newest)
        # Store it as the pinned build would be: pip installed exactly these versions.
        play(spec, newest, "pins", {}, log, pins(installed))
        give_to_caller(write_lock(spec.name, installed))
        tree = system_tree(spec)
        remove_tree(tree)
        newest.rename(tree)
    finally:
        remove_tree(newest)
