# SPDX-License-Identifier: Apache-2.0
"""Makes a guest's lock: its system built of the newest there is, and the versions written down.

Why it exists: what is pinned stays as it is until somebody says otherwise. Its
rule: the lock is of what was really built, and what was built for it is kept: with
the new lock a build would make the same.
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
    """Build the system of a guest anew, of the newest there is, and lock that; return the lock."""
    if os.geteuid() == 0:
        with building(spec) as log:
            build_and_lock(spec, log)
    else:
        check_archive(spec)
        as_root(spec, "lock")
    return lock_file(spec.name)


def build_and_lock(spec: GuestSpec, log: Path) -> None:
    """Do so as root, within :func:`building`."""
    # A name that no digest has: it is never reused, should this process be killed.
    newest = cache_directory() / "systems" / f"{spec.name}-newest"
    remove_tree(newest)
    try:
        build_system(spec, newest, log, {})
        installed = installed_in(newest)
        # As if they had been pinned: pip took just these.
        play(spec, newest, "pins", {}, log, pins(installed))
        give_to_caller(write_lock(spec.name, installed))
        tree = system_tree(spec)
        remove_tree(tree)
        newest.rename(tree)
    finally:
        remove_tree(newest)
