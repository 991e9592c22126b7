# SPDX-License-Identifier: Apache-2.0
"""Runs the playbook, with the same variables for an image and for a running machine.

Vagrant and Lima start from their own images, which the same playbook turns into the
equivalent of ours. All variables come from this module. The product is installed from
a copy of the sources, so it does not change while the playbook runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provisioning.cache import cache_directory
from provisioning.catalog import GuestSpec
from provisioning.host import REPOSITORY, find_ansible
from provisioning.locks import pins, read_lock
from provisioning.sources import (
    ANSIBLE,
    DEMO_REQUIREMENTS,
    copy_product,
    fastpath_of,
    installed_dependencies,
    wheel_of,
)

SITE = ANSIBLE / "site.yml"


def system_variables(
    spec: GuestSpec, pinned: Mapping[str, list[str]] | None = None
) -> dict[str, Any]:
    """Return the variables of the playbook's part ``system``, for any guest.

    ``pinned`` lists the versions pip installs, for each virtual environment; by
    default those of the guest's lock.
    """
    return {
        "guest_python": spec.python,
        "venv_python": spec.venv_python,
        "containers": spec.containers,
        "mesh": spec.mesh,
        "benchmarks": spec.benchmarks,
        "pip_constraints": pins(read_lock(spec.name)) if pinned is None else pinned,
        "profiler_dependencies": installed_dependencies(),
        "demo_requirements": [str(REPOSITORY / name) for name in DEMO_REQUIREMENTS],
    }


def product_variables(sources: Path, log: Path) -> dict[str, Any]:
    """Return the variables of its part ``product``: the files from a copy of the sources."""
    return {
        "profiler_wheel": str(wheel_of(sources, log)),
        "profiler_fastpath_wheel": str(fastpath_of(sources, log)),
        "demo_sources": str(sources),
    }


@contextmanager
def command(variables: Mapping[str, Any]) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield ansible-playbook with these variables, and the environment that it needs."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "variables.json"
        file.write_text(json.dumps(variables), "utf-8")
        environment = {
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "ANSIBLE_HOME": home,
            # Ansible refuses to start without a UTF-8 locale.
            "LC_ALL": "C.UTF-8",
        }
        yield [find_ansible(), f"--extra-vars=@{file}"], environment


def play_on_machine(spec: GuestSpec, arguments: Sequence[str]) -> int:
    """Run the playbook on a machine that is up, and return Ansible's status.

    ``arguments`` are ansible-playbook's own: how to reach the machine, and the playbook.
    """
    log = cache_directory() / "logs" / "wheel.log"
    with tempfile.TemporaryDirectory() as scratch:
        product = product_variables(copy_product(Path(scratch)), log)
        with command({**system_variables(spec), **product}) as (ansible, environment):
            return subprocess.run(
                [*ansible, *arguments], env={**os.environ, **environment}, check=False
            ).returncode
