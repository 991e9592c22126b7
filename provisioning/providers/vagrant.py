# SPDX-License-Identifier: Apache-2.0
"""Machines that ``vagrant up`` brings up with this repository's Vagrantfile.

A user of Vagrant keeps a machine up for days and runs the tests against it. This
module queries Vagrant rather than its files. Only where Vagrant has made no machine it
is not run at all, because that takes seconds. A machine belongs to the user and is
left as it is.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from provisioning.catalog import GuestSpec, load_catalog
from provisioning.errors import GuestError, ProviderUnavailable, ToolMissing
from provisioning.guest import Guest
from provisioning.host import REPOSITORY, find_tool
from provisioning.providers.sshconfig import address_of

ANSWER_TIMEOUT = 120.0
"""Seconds Vagrant has to answer; it is slow on a busy machine, and can hang on libvirt."""


def unavailable() -> str | None:
    """Return why Vagrant cannot be used here; ``None`` if it can."""
    # The first query shows whether it works: each one takes seconds.
    try:
        _find()
    except ToolMissing as error:
        return str(error)
    return None


def running() -> list[str]:
    """Return the guests that are up."""
    made = [name for name in load_catalog() if _is_made(name)]
    if not made:
        return []
    # The fields are: time, machine, kind, value.
    said = [line.split(",") for line in _ask("status", "--machine-readable", *made)]
    states = {fields[1]: fields[3] for fields in said if fields[2:3] == ["state"]}
    return [name for name in made if states.get(name) == "running"]


def attach(name: str) -> Guest:
    """Return a guest that is up."""
    not_up = f"{name} is not up with Vagrant: run `vagrant up {name}`"
    if not _is_made(name):
        raise GuestError(not_up)
    try:
        said = _ask("ssh-config", name)
    except ProviderUnavailable as error:
        raise GuestError(not_up, error.details) from None
    with tempfile.NamedTemporaryFile("w", prefix="http-profiler-", suffix=".ssh") as config:
        config.write("\n".join(said))
        config.flush()
        return Guest(name, address_of(Path(config.name), name))


def start(spec: GuestSpec) -> None:
    """Bring a guest up and provision it."""
    _run("up", spec.name)


def stop(name: str) -> bool:
    """Stop a guest and remove its disk; return whether there was one."""
    if not _is_made(name):
        return False
    _run("destroy", "--force", name)
    return True


def _is_made(name: str) -> bool:
    # The same file that Vagrant's library checks: it holds the id of a machine that exists.
    kept = REPOSITORY / os.environ.get("VAGRANT_DOTFILE_PATH", ".vagrant")
    return any(kept.glob(f"machines/{name}/*/id"))


def _find() -> str:
    return find_tool("vagrant", "vagrant", part="vagrant")


def _ask(*arguments: str) -> list[str]:
    try:
        said = subprocess.run(
            [_find(), *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProviderUnavailable(
            f"`vagrant {arguments[0]}` gave no answer within {ANSWER_TIMEOUT:.0f} s"
        ) from None
    if said.returncode != 0:
        raise ProviderUnavailable(
            f"`vagrant {arguments[0]}` ended with status {said.returncode}",
            (said.stderr + said.stdout).strip(),
        )
    return said.stdout.splitlines()


def _run(*arguments: str) -> None:
    # Its output is for a person; standard output is reserved for our own.
    done = subprocess.run([_find(), *arguments], cwd=REPOSITORY, stdout=2, check=False)
    if done.returncode != 0:
        raise GuestError(
            f"`vagrant {' '.join(arguments)}` ended with status {done.returncode}: see above"
        )
