# SPDX-License-Identifier: Apache-2.0
"""Problems with one of our machines: one clear line each, and nothing partial remains.

QEMU, ssh and qemu-img are scripts here; everything else is what a user runs.
"""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple

import pytest

from provisioning import __main__ as command_line
from provisioning import cache, catalog, instances, machines
from provisioning.architecture import host_architecture
from provisioning.errors import GuestError
from provisioning.host import REPOSITORY
from provisioning.image import Image
from provisioning.instances import Instance
from provisioning.providers import qemu

# It writes its process id as QEMU does, prints the ready line of the role `embedded`, and
# ends as QEMU does.
UP = 'echo $$ > "$pid"; echo "http-profiler guest: ready" > "$console"; exec tail -f /dev/null'


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty state, an image that is built, and no other machines."""
    monkeypatch.setenv("GUEST_PROVIDER", "qemu")
    monkeypatch.setenv("HTTP_PROFILER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(instances, "STATE", tmp_path / "guests")
    image = Image(tmp_path / "image")
    image.directory.mkdir()
    monkeypatch.setattr(machines, "ensure_image", lambda spec: image)
    monkeypatch.setattr(qemu, "private_key", lambda: tmp_path / "key")
    monkeypatch.setattr(qemu.kvm, "trouble", lambda *a: "not here")
    monkeypatch.setattr(qemu.snapshot, "path_of", lambda *a: None)
    return tmp_path


@pytest.fixture
def programs(place, monkeypatch):
    """Replace programs of this host; one without a script succeeds."""
    directory = place / "bin"
    directory.mkdir()

    def make(name, script):
        program = directory / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)

    def make_qemu(script):
        # It keeps its command line, which identifies it.
        finds = (
            "last=; for argument; do case $argument in file,id=console,path=*) "
            'console=${argument##*=};; esac; [ "$last" = -pidfile ] && pid=$argument; '
            "last=$argument; done"
        )
        make(host_architecture().qemu, f"{finds}\n{script}")

    for name in ("qemu-img", "ssh"):
        make(name, "exit 0")
    make_qemu(UP.replace("exec tail -f /dev/null", "sleep infinity & wait"))
    for module in ("provisioning.guest", "provisioning.providers.qemu"):
        monkeypatch.setattr(f"{module}.find_tool", lambda name, package: str(directory / name))
    return namedtuple("Programs", "make make_qemu")(make, make_qemu)


def trouble(capsys, *arguments):
    """Run a command that fails; return its last line, which follows the explanation."""
    assert command_line.main(list(arguments)) == 125
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def left():
    return sorted(path.name for path in instances.STATE.glob("*"))


def test_no_qemu(monkeypatch, capsys):
    monkeypatch.setattr("provisioning.host.shutil.which", lambda name, path=None: None)
    hardware = host_architecture()
    assert trouble(capsys, "up", "debian-12") == (
        f"provisioning: provider qemu cannot be used: {hardware.qemu} is not installed:"
        f" run provisioning/setup-host.sh (or install {hardware.qemu_package})"
    )
    assert left() == []


def test_a_qemu_that_is_broken(programs, capsys):
    programs.make_qemu("echo 'libfoo.so.1: cannot open shared object file' >&2; exit 127")
    assert command_line.main(["up", "debian-12"]) == 125
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "libfoo.so.1: cannot open shared object file",
        "provisioning: debian-12: QEMU ended with status 127 before the guest was up",
    ]
    assert left() == []


def test_a_disk_that_cannot_be_made(programs, capsys):
    programs.make("qemu-img", "echo 'qemu-img: overlay.qcow2: Permission denied' >&2; exit 1")
    assert trouble(capsys, "up", "debian-12") == (
        "provisioning: debian-12: no overlay disk: qemu-img: overlay.qcow2: Permission denied"
    )
    assert left() == []


def test_no_space_for_what_a_machine_writes(programs, monkeypatch, capsys):
    programs.make_qemu("echo 'it was started' >&2; exit 9")
    free = namedtuple("usage", "free")(2**29)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: free)
    assert trouble(capsys, "up", "debian-12") == (
        f"provisioning: debian-12: 0.5 GiB are free in {instances.STATE},"
        " but a machine needs 1: free some"
    )
    assert left() == []


def test_a_guest_without_ssh(programs, monkeypatch, capsys):
    """For example without a network: it boots, and ssh cannot reach it."""
    monkeypatch.setattr(command_line.qemu, "BOOT_TIMEOUT", 1.0)
    programs.make("ssh", "exit 255")
    assert command_line.main(["up", "debian-12"]) == 125
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "http-profiler guest: ready",
        "provisioning: debian-12: ssh accepts no login",
    ]
    assert left() == []


def test_a_guest_that_does_not_come_up(programs, monkeypatch, capsys):
    monkeypatch.setattr(command_line.qemu, "BOOT_TIMEOUT", 1.0)
    programs.make_qemu('echo $$ > "$pid"; echo "Linux" > "$console"; sleep infinity & wait')
    assert command_line.main(["up", "debian-12"]) == 125
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "Linux",
        "provisioning: debian-12: not up in time",
    ]
    assert left() == []


def test_a_second_up_of_the_same_guest(programs, capsys):
    try:
        assert command_line.main(["up", "debian-12"]) == 0
        pid = Instance("debian-12").pid()
        assert pid is not None
        capsys.readouterr()
        assert command_line.main(["up", "debian-12"]) == 0
        assert capsys.readouterr().err.splitlines() == [
            "debian-12 is up already: python -m provisioning ssh debian-12"
        ]
        assert Instance("debian-12").pid() == pid
        # A test or a demo gets a guest of its own, never this one.
        with pytest.raises(GuestError, match="debian-12 is up already: take it down, or name"):
            machines.machine(instance="debian-12").__enter__()
        assert Instance("debian-12").pid() == pid
    finally:
        command_line.main(["down", "debian-12"])
    assert left() == []


def test_two_runs_at_once(programs, capsys):
    with Instance("debian-12").lock():
        for command in ("up", "down"):
            assert trouble(capsys, command, "debian-12") == (
                "provisioning: debian-12 is in use by another run: wait for it, or use another name"
            )
    assert left() == []


def test_a_key_that_guests_toml_must_not_have(monkeypatch, tmp_path, capsys):
    table = tmp_path / "guests.toml"
    table.write_text(catalog.CATALOG.read_text() + "\ncolour = 'red'\n")
    monkeypatch.setattr(catalog, "CATALOG", table)
    catalog.load_catalog.cache_clear()
    try:
        for command in (["list"], ["up", "debian-12"], ["build", "--check", "debian-12"]):
            assert command_line.main(command) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(
                "provisioning: guests.toml: unknown key 'colour' of guest debian-13-bench: known"
            )
    finally:
        catalog.load_catalog.cache_clear()


@pytest.mark.parametrize("workers", [[], ["-n", "auto"], ["-n", "2"]])
def test_end_to_end_tests_of_an_unknown_guest(workers):
    """In a separate process, because pytest reads its options before it collects tests."""
    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/e2e", "--guest", "debian-99", *workers],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 4
    (line,) = (asked.stdout + asked.stderr).split("\n")[:1]
    assert line.startswith("ERROR: unknown guest 'debian-99': guests.toml has ubuntu-24.04,")
