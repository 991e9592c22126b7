"""The playbook on the machine that runs this, as root: how a guest provisions itself.

Why it exists: a machine that nobody reaches while it is made, such as one that
Lima starts, has to do it alone; and so can any machine of a release that
guests.toml knows. Its rule: the same playbook, with both tags and the same
variables as an image of ours, less what belongs to an image.

    python -m provisioning.playbook ubuntu-24.04
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from provisioning.catalog import GuestSpec, find_guest
from provisioning.errors import GuestError, ProvisioningError
from provisioning.host import find_ansible, run
from provisioning.image import machine_variables
from provisioning.progress import say, step
from provisioning.sources import ANSIBLE, build_wheel, copy_product

LOG = Path("/var/log/http-profiler-playbook.log")


def main(argv: Sequence[str] | None = None) -> int:
    """Provision this machine as the guest that is named; return the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1:
        say("usage: python -m provisioning.playbook GUEST")
        return 2
    try:
        play_here(find_guest(arguments[0]), LOG)
    except ProvisioningError as error:
        if error.details:
            say(error.details)
        say(f"provisioning: {error}")
        return error.exit_code
    return 0


def play_here(spec: GuestSpec, log: Path) -> None:
    """Run the whole playbook on this machine, which is of that guest's release.

    Appends to ``log`` what is done. Raises GuestError for another user than root,
    BuildFailed when a step fails.
    """
    if os.geteuid() != 0:
        raise GuestError("the playbook installs packages on this machine: run it as root")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sources = copy_product(scratch / "sources")
        with step(f"{spec.name}: building the profiler's wheel"):
            wheel = build_wheel(sources, scratch, log)
        product = {"profiler_wheel": str(wheel), "demo_sources": str(sources)}
        variables = scratch / "variables.json"
        variables.write_text(json.dumps({**machine_variables(spec), **product}), "utf-8")
        with step(f"{spec.name}: packages, profiler, demo and load test (Ansible)"):
            run(
                [
                    find_ansible(),
                    "--connection=local",
                    "--inventory=localhost,",
                    f"--extra-vars=@{variables}",
                    str(ANSIBLE / "site.yml"),
                ],
                doing=f"{spec.name}: playbook",
                log=log,
                env={
                    "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
                    "ANSIBLE_HOME": str(scratch / "ansible"),
                    # Ansible refuses to start without a UTF-8 locale.
                    "LC_ALL": "C.UTF-8",
                },
                cwd=ANSIBLE,
            )


if __name__ == "__main__":
    sys.exit(main())
