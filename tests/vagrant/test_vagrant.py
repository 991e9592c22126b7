# SPDX-License-Identifier: Apache-2.0
"""Vagrant for real: a box of ours under libvirt, with QEMU's emulation, and the same tests in it.

The tests stand in the order of a machine's life and share one machine. Nothing
outside is reached: the box has all that the playbook wants.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.box import ensure_box
from provisioning.catalog import find_guest
from tests.vagrant.libvirt import Host, host

NAME = "debian-12"
BOX = f"http-profiler/{NAME}"

# Some of one route, which share one start of the profiler; `vagrant up && tox -e e2e` runs all.
SELECTED = (
    *("tests/e2e/test_capture.py", "-k"),
    "socket and (both_sides or two_requests or 100_kib or hooked or from_before or cut_off)",
)

RECAP = re.compile(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and boxes need root")


@pytest.fixture(scope="module")
def own() -> Iterator[Host]:
    """A host with libvirt, where Vagrant has the box and knows of nothing else."""
    box = ensure_box(find_guest(NAME))
    with (
        tempfile.TemporaryDirectory(prefix="http-profiler-vagrant-") as scratch,
        host(Path(scratch), settings(Path(scratch))) as made,
    ):
        made.done("vagrant", "box", "add", "--name", BOX, str(box))
        yield made


def settings(scratch: Path) -> dict[str, str]:
    return {
        "VAGRANT_HOME": str(scratch / "home"),
        "VAGRANT_DOTFILE_PATH": str(scratch / "dot"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "GUEST_BOX": BOX,
        "GUEST_DRIVER": "qemu",
        "GUEST_PROVIDER": "",
    }


def provisioning(own: Host, *arguments: str) -> str:
    return own.done(sys.executable, "-m", "provisioning", *arguments)


def recap(said: str) -> tuple[int, ...]:
    (found,) = RECAP.findall(said)
    return tuple(map(int, found))


def test_up_provisions_and_a_playbook_that_ran_changes_nothing(own: Host) -> None:
    ok, *others = recap(own.done("vagrant", "up", NAME, timeout=1800))
    assert ok > 20
    # Changed, unreachable, failed: the box was made by the same playbook, so this is a second run.
    assert others == [0, 0, 0]
    assert f"{NAME} is up, provider vagrant" in provisioning(own, "list")


def test_a_second_up_says_so(own: Host) -> None:
    assert f"{NAME} is up already" in provisioning(own, "up", NAME)


def test_the_end_to_end_tests_run_in_it(own: Host) -> None:
    said = own.done(sys.executable, "-m", "pytest", "-v", *SELECTED, timeout=900)
    print(said)
    assert " passed" in said
    assert " skipped" not in said
    # Without Vagrant's machine there would be one of each of the default guests.
    assert f"[socket-{NAME}]" in said
    assert "debian-13" not in said


def test_a_machine_without_python_is_one_line(own: Host) -> None:
    inventory = Path(own.environment["VAGRANT_DOTFILE_PATH"]) / "provisioners/ansible/inventory"
    # Its Python is hidden by another name for it.
    arguments = ("--user=vagrant", "--extra-vars=ansible_python_interpreter=/no/python")
    playbook = "provisioning/ansible/site.yml"
    ansible = (f"--inventory={inventory}", *arguments, playbook)
    result = own.run(sys.executable, "-m", "provisioning", "play", NAME, "--", *ansible)
    assert result.returncode == 2
    assert "This machine has no Python: install python3 in it" in result.stdout


def test_destroy_leaves_nothing(own: Host) -> None:
    own.done("vagrant", "destroy", "--force")
    virsh = ("virsh", "--quiet", "--connect", "qemu:///system")
    assert own.done(*virsh, "list", "--all", "--name").split() == []
    assert f"{NAME} is up" not in provisioning(own, "list")
    assert not list(Path(own.environment["VAGRANT_DOTFILE_PATH"]).glob("machines/*/*/id"))
    # What libvirt keeps is its copy of the box, for the next machine.
    (volume,) = own.done(*virsh, "vol-list", "default").splitlines()
    assert "vagrant_box_image" in volume
    own.done("vagrant", "box", "remove", BOX, "--all", "--force")
    assert "no installed boxes" in own.done("vagrant", "box", "list")
