# SPDX-License-Identifier: Apache-2.0
"""The command line's reaction to something unavailable: one line, and an exit code."""

from __future__ import annotations

import pytest

from provisioning import catalog, image, instances, machines, relock
from provisioning.__main__ import main

UBUNTU = ("ubuntu-20.04", "ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04")


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """No archive answers, nothing is built, nothing is up, and QEMU is installed."""
    monkeypatch.setenv("HTTP_PROFILER_CACHE", str(tmp_path))
    monkeypatch.setattr(instances, "STATE", tmp_path / "guests")
    monkeypatch.setattr(image, "public_key", lambda: "key")
    monkeypatch.setattr(image, "find_tool", lambda name, package: name)
    monkeypatch.setattr(machines.qemu, "unavailable", lambda: None)
    for module in (catalog, image):
        monkeypatch.setattr(module, "archive_trouble", lambda spec: "no answer within 8 s")


@pytest.mark.parametrize("guest", UBUNTU)
@pytest.mark.parametrize("command", ["build", "up", "lock"])
def test_a_guest_whose_archive_cannot_be_reached_is_unreachable(
    unreachable, monkeypatch, capsys, command, guest
):
    for uid in (0, 1000):
        monkeypatch.setattr(image.os, "geteuid", lambda uid=uid: uid)
        assert main([command, guest]) == 125
        said = capsys.readouterr().err.splitlines()
        assert said == [f"provisioning: {guest} is unreachable: no answer within 8 s"]


@pytest.mark.parametrize("guest", UBUNTU)
def test_a_check_of_it_cannot_tell(unreachable, capsys, guest):
    assert main(["build", "--check", guest]) == 125
    assert capsys.readouterr().out.splitlines() == [
        f"{guest}: no image is built here: only the lock is checked",
        f"{guest}: cannot tell: there is no lock either",
    ]


def test_an_unreachable_guest_is_listed(unreachable, capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines]
    assert set(UBUNTU) <= set(listed)
    assert listed == list(catalog.load_catalog())


def test_images_and_snapshots_are_listed(unreachable, capsys):
    kept = image.image_of(catalog.find_guest("debian-12"))
    kept.directory.mkdir(parents=True)
    for snapshots in ("", ", with a snapshot"):
        assert main(["list"]) == 0
        said = capsys.readouterr().out.splitlines()
        (line,) = [each for each in said if each.startswith("debian-12 ")]
        assert line.endswith(f"  built{snapshots}")
        kept.snapshot("0123456789abcdef").touch()


def test_several_guests_are_taken_down_at_once(unreachable, capsys):
    assert main(["down", "debian-12", "debian-13@other"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "debian-12 was not up",
        "debian-13@other was not up",
    ]


@pytest.mark.parametrize("command", [["down"], ["down", "debian-12", "--all"]])
def test_down_requires_guests_or_all(capsys, command):
    with pytest.raises(SystemExit):
        main(command)
    assert "--all" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["build", "debian-99"],
        ["build", "--check", "debian-99"],
        ["lock", "debian-12", "debian-99"],
        ["up", "debian-99"],
        ["box", "debian-99"],
        ["play", "debian-99", "--", "site.yml"],
        ["ssh", "debian-99"],
        ["push", "debian-99", "/etc/hosts", "/tmp/x"],
        ["pull", "debian-99", "/tmp/x", "/tmp/y"],
        ["down", "debian-99"],
    ],
)
def test_an_unknown_guest_is_one_line(unreachable, monkeypatch, capsys, command):
    monkeypatch.setattr(relock, "build_system", lambda *a: pytest.fail("something was built"))
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("provisioning: unknown guest 'debian-99': guests.toml has ubuntu-24.04,")
