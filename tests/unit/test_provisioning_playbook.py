# SPDX-License-Identifier: Apache-2.0
"""The playbook's variables, the cached wheel, and the disk of a box."""

from __future__ import annotations

import json
import subprocess

import pytest

from provisioning import __main__ as command_line
from provisioning import box, host, playbook, sources
from provisioning.architecture import host_architecture
from provisioning.box import FIRST_SECTOR, SECTOR
from provisioning.catalog import find_guest
from provisioning.errors import ProvisioningError, ToolMissing


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROFILER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def built(monkeypatch):
    """The names of the sources that a wheel was built from, without pip."""
    seen = []

    def build(copy, scratch, wheels, log):
        seen.append((copy / "profiler" / "one.py").read_text())
        (wheels / "http_profiler-1-py3-none-any.whl").write_text(seen[-1])

    monkeypatch.setattr(sources, "build_wheel", build)
    return seen


def product(path, text):
    (path / "profiler").mkdir(parents=True)
    (path / "profiler" / "one.py").write_text(text)
    return path


def test_a_wheel_is_built_once_for_the_same_sources(tmp_path, built):
    log = tmp_path / "log"
    first = sources.wheel_of(product(tmp_path / "a", "one"), log)
    again = sources.wheel_of(product(tmp_path / "b", "one"), log)
    other = sources.wheel_of(product(tmp_path / "c", "two"), log)
    assert first == again != other
    assert (first.read_text(), other.read_text()) == ("one", "two")
    assert built == ["one", "two"]


def test_a_failed_wheel_is_not_cached(tmp_path, monkeypatch, cache):
    def fails(copy, scratch, wheels, log):
        (wheels / "half.whl").touch()
        raise ProvisioningError("no")

    monkeypatch.setattr(sources, "build_wheel", fails)
    with pytest.raises(ProvisioningError):
        sources.wheel_of(product(tmp_path / "a", "one"), tmp_path / "log")
    assert list((cache / "wheels").iterdir()) == []


def test_what_cargo_leaves_is_not_part_of_the_product(tmp_path):
    files = [*sources.FASTPATH_SOURCES[:2], "fastpath/src/lib.rs"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    before = sources.product_inputs(tmp_path)
    assert set(before) == set(files)
    (tmp_path / "fastpath/Cargo.lock").write_text("")
    (tmp_path / "fastpath/target").mkdir()
    (tmp_path / "fastpath/target/lib.so").write_text("")
    assert sources.product_inputs(tmp_path) == before


@pytest.fixture
def ansible(tmp_path, monkeypatch):
    """An ansible-playbook that stores its arguments, and exits with 4."""
    program = tmp_path / "ansible-playbook"
    program.write_text(
        "#!/bin/sh\n"
        f'for argument; do echo "$argument" >> {tmp_path}/arguments\n'
        f"case $argument in --extra-vars=@*) cp ${{argument#*@}} {tmp_path}/variables;; esac\n"
        f"done; echo $ANSIBLE_CONFIG > {tmp_path}/config; exit 4\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(playbook, "find_ansible", lambda: str(program))


def test_a_running_machine_gets_the_variables_of_an_image(tmp_path, ansible, monkeypatch):
    monkeypatch.setattr(playbook, "wheel_of", lambda copy, log: copy / "profiler.whl")
    monkeypatch.setattr(playbook, "fastpath_of", lambda copy, log: copy / "fastpath.whl")
    spec = find_guest("debian-13")
    status = command_line.main(["play", spec.name, "--", "--limit=debian-13", "site.yml"])
    assert status == 4
    told = json.loads((tmp_path / "variables").read_text())
    assert told["guest_python"] == "3.13"
    assert told["profiler_wheel"].endswith("/profiler.whl")
    assert told["profiler_fastpath_wheel"].endswith("/fastpath.whl")
    own = {"profiler_wheel", "profiler_fastpath_wheel", "demo_sources"}
    assert set(told) == {*playbook.system_variables(spec), *own}
    # Not the tasks for our disks: a running machine keeps its network and its users.
    assert not any(key.startswith("embedded") for key in told)
    assert (tmp_path / "arguments").read_text().splitlines()[1:] == [
        "--limit=debian-13",
        "site.yml",
    ]
    assert (tmp_path / "config").read_text().strip().endswith("ansible/ansible.cfg")


def test_the_guests_for_other_programs(capsys):
    assert command_line.main(["list", "--json"]) == 0
    guests = {guest["name"]: guest for guest in json.loads(capsys.readouterr().out)}
    assert guests["ubuntu-24.04"]["box"] == "cloud-image/ubuntu-24.04"
    assert guests["debian-11"]["box"] == ""
    assert guests["debian-12"]["memory"] == 2048


@pytest.fixture
def grub(tmp_path, monkeypatch):
    (tmp_path / "grub").mkdir()
    (tmp_path / "grub" / "boot.img").write_bytes(b"G" * 512)
    monkeypatch.setattr(box, "GRUB", tmp_path / "grub")


def test_a_disk_that_boots_has_its_loader_before_the_partition(tmp_path, grub):
    disk = tmp_path / "disk"
    end = FIRST_SECTOR * SECTOR
    disk.write_bytes(b"\0" * end + b"file system")
    core = b"C" * 1000
    box.write_boot_sectors(disk, core, sectors=6000)
    written = disk.read_bytes()
    assert written[:440] == b"G" * 440
    entry = written[446:462]
    assert (entry[0], entry[4]) == (0x80, 0x83)
    assert int.from_bytes(entry[8:12], "little") == FIRST_SECTOR
    assert int.from_bytes(entry[12:16], "little") == 6000
    assert written[462:510] == b"\0" * 48
    assert written[510:512] == b"\x55\xaa"
    assert written[512:1512] == core
    assert written[end:] == b"file system"


def test_a_loader_that_would_reach_the_partition_is_refused(tmp_path, grub):
    with pytest.raises(ProvisioningError, match="does not fit before the first partition"):
        box.write_boot_sectors(tmp_path / "disk", b"C" * FIRST_SECTOR * SECTOR, sectors=1)
    assert not (tmp_path / "disk").exists()


def test_a_box_needs_a_pc_and_its_boot_loader(tmp_path, monkeypatch):
    monkeypatch.setattr(box, "GRUB", tmp_path / "none")
    monkeypatch.setattr(box, "host_architecture", lambda: host_architecture("x86_64"))
    with pytest.raises(ToolMissing, match=r"run provisioning/setup-host\.sh vagrant"):
        box.ensure_box(find_guest("debian-12"))
    monkeypatch.setattr(box, "host_architecture", lambda: host_architecture("aarch64"))
    with pytest.raises(ProvisioningError, match="boxes are made on x86_64 only"):
        box.ensure_box(find_guest("debian-12"))


def test_the_script_for_vagrant_finds_the_guest_by_the_limit():
    script = host.REPOSITORY / "provisioning" / "ansible-playbook"
    asked = subprocess.run(
        [str(script), "--connection=ssh", "--limit=debian-99", "site.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 2
    assert asked.stderr.startswith("provisioning: unknown guest 'debian-99'")
