# SPDX-License-Identifier: Apache-2.0
"""The choice of a provider, and how Vagrant's output is interpreted.

Vagrant is a script here, with the answers of the real one; tests/vagrant runs the real
one.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from provisioning import __main__ as command_line
from provisioning import instances, machines
from provisioning.errors import GuestError, ProviderUnavailable, ProvisioningError
from provisioning.guest import UNSHARED, Guest
from provisioning.host import REPOSITORY
from provisioning.providers import choose_provider, guests_up, vagrant
from provisioning.providers.sshconfig import address_of

SSH_CONFIG = """\
Host ubuntu-24.04
  HostName 192.0.2.7
  User vagrant
  Port 2201
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile "{key}"
  IdentitiesOnly yes
  LogLevel FATAL
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Ignore the machines of this repository, and choose no provider."""
    monkeypatch.delenv("GUEST_PROVIDER", raising=False)
    monkeypatch.setenv("VAGRANT_DOTFILE_PATH", str(tmp_path / "dot"))
    monkeypatch.setattr(instances, "STATE", tmp_path / "guests")
    return tmp_path


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Turn a shell script into a stand-in for vagrant; each call is a line of tmp_path/calls."""

    def make(script):
        program = tmp_path / "bin" / "vagrant"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setattr(vagrant, "find_tool", lambda name, package, part: str(program))

    return make


@pytest.fixture
def one_up(stand_in, tmp_path):
    """Vagrant made two machines; one of them runs."""
    for name in ("ubuntu-24.04", "debian-12"):
        made = tmp_path / "dot" / "machines" / name / "libvirt"
        made.mkdir(parents=True)
        (made / "id").write_text("6f1c")
    key = tmp_path / "key"
    key.touch()
    (tmp_path / "ssh-config").write_text(SSH_CONFIG.format(key=key))
    stand_in(
        f"""case $1 in
        status) cat << END
1763862000,ubuntu-24.04,metadata,provider,libvirt
1763862001,,ui,info,Current machine states:\\n\\nubuntu-24.04  running (libvirt)
1763862001,ubuntu-24.04,provider-name,libvirt
1763862001,ubuntu-24.04,state,running
1763862001,debian-12,state,shutoff
END
        ;;
        ssh-config)
            if [ $2 != ubuntu-24.04 ]; then echo 'not yet ready for SSH' >&2; exit 1; fi
            cat {tmp_path}/ssh-config ;;
        esac"""
    )


def calls(tmp_path):
    file = tmp_path / "calls"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def test_without_a_vagrant_machine_qemu_is_used_and_vagrant_not_run(stand_in, place):
    stand_in("exit 1")
    assert choose_provider() == "qemu"
    assert choose_provider(guest="ubuntu-24.04") == "qemu"
    assert calls(place) == []


def test_the_requested_provider_takes_precedence(one_up, monkeypatch, place):
    assert choose_provider("qemu") == "qemu"
    monkeypatch.setenv("GUEST_PROVIDER", "lima")
    assert choose_provider() == "lima"
    assert choose_provider("qemu") == "qemu"
    assert calls(place) == []
    with pytest.raises(ProvisioningError, match="unknown provider 'xen': known are qemu, vagrant"):
        choose_provider("xen")


def test_a_running_vagrant_machine_is_used(one_up):
    assert choose_provider() == "vagrant"
    assert choose_provider(guest="ubuntu-24.04") == "vagrant"
    assert guests_up() == guests_up("vagrant") == ["ubuntu-24.04"]
    assert guests_up("qemu") == []


@pytest.mark.parametrize("name", ["debian-12", "debian-13", "ubuntu-24.04@gw0"])
def test_a_guest_that_vagrant_does_not_have_up_is_left_to_qemu(one_up, name):
    assert choose_provider(guest=name) == "qemu"


def test_the_address_comes_from_vagrants_ssh_configuration(one_up, place):
    address = vagrant.attach("ubuntu-24.04").address
    assert (address.host, address.port, address.user) == ("192.0.2.7", 2201, "vagrant")
    assert address.keys == (place / "key",)
    assert address.control == UNSHARED


def test_keys_that_do_not_exist_are_not_offered(place):
    config = place / "config"
    config.write_text("Host one\n  HostName 192.0.2.1\n  IdentityFile /no/such/key\n")
    assert address_of(config, "one").keys == ()
    config.write_text("Host one\n  NoSuchKeyword 1\n")
    with pytest.raises(GuestError, match=r"ssh cannot read the configuration of one: .*"):
        address_of(config, "one")


def test_the_error_for_a_guest_that_is_not_up_has_a_remedy(one_up):
    with pytest.raises(GuestError, match="debian-12 is not up with Vagrant: run `vagrant up deb"):
        machines.attach("debian-12", provider="vagrant")
    with (
        pytest.raises(GuestError, match="not up with Vagrant"),
        machines.machine("debian-12", provider="vagrant"),
    ):
        pytest.fail("there is no such machine")


@pytest.fixture
def connections(monkeypatch):
    """Log the opening and closing of a guest's connections, without ssh."""
    seen = []
    monkeypatch.setattr(Guest, "connect", lambda self: seen.append(self.address.control))
    monkeypatch.setattr(Guest, "disconnect", lambda self: seen.append("closed"))
    return seen


def test_the_users_machine_is_borrowed_by_one_and_never_stopped(one_up, connections, place):
    busy = pytest.raises(GuestError, match="is in use by another run")
    with machines.machine() as guest:
        assert guest.name == "ubuntu-24.04"
        with busy, machines.machine("ubuntu-24.04"):
            pytest.fail("held twice")
        assert len(str(connections[0])) < 100
    assert connections[1:] == ["closed"]
    assert set(calls(place)) == {"status", "ssh-config"}
    assert not any((place / "guests").iterdir())


def test_what_vagrant_cannot_give_is_refused(one_up):
    with pytest.raises(GuestError, match="does not support kernel arguments"):
        machines.up("ubuntu-24.04", append="quiet")
    with pytest.raises(GuestError, match="has one machine of each guest"):
        machines.up("ubuntu-24.04@two", provider="vagrant")
    refused = pytest.raises(GuestError, match="provider vagrant does not support icount: use")
    with refused:
        machines.up("ubuntu-24.04", icount=True)
    with refused, machines.machine("ubuntu-24.04", icount=True):
        pytest.fail("a figure that is none")


def test_a_second_up_finds_the_first(one_up, place):
    guest, fresh = machines.up("ubuntu-24.04")
    assert (guest.name, fresh) == ("ubuntu-24.04", False)
    assert "up" not in calls(place)


def test_vagrants_machine_is_stopped_only_if_vagrant_is_named(one_up, place):
    assert not machines.down("ubuntu-24.04")
    assert calls(place) == []
    assert machines.down("ubuntu-24.04", provider="vagrant")
    assert calls(place) == ["destroy"]
    assert not machines.down("debian-13", provider="vagrant"), "there was none"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 1", "`vagrant status` ended with status 1"),
        ("exec sleep 30", "`vagrant status` gave no answer within 0 s"),
    ],
)
def test_a_vagrant_that_does_not_work(one_up, stand_in, monkeypatch, capsys, script, says):
    stand_in(script)
    monkeypatch.setattr(vagrant, "ANSWER_TIMEOUT", 0.3)
    with pytest.raises(ProviderUnavailable, match=says):
        guests_up("vagrant")
    assert command_line.main(["--provider", "vagrant", "up", "debian-12"]) == 125
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"provisioning: {says}")


def test_a_failed_up_names_its_command(stand_in, capfd):
    stand_in("echo 'The provider could not be found' >&2; exit 1")
    assert command_line.main(["--provider", "vagrant", "up", "debian-12"]) == 125
    assert capfd.readouterr().err.splitlines() == [
        "The provider could not be found",
        "provisioning: `vagrant up debian-12` ended with status 1: see above",
    ]


def test_a_broken_vagrant_that_was_not_requested_is_ignored(one_up, stand_in, capsys):
    stand_in("echo 'cannot load such file -- fog/libvirt' >&2; exit 1")
    assert choose_provider() == "qemu"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "provider vagrant is ignored: `vagrant status` ended with status 1"


def test_no_vagrant(monkeypatch, capsys):
    monkeypatch.setattr("provisioning.host.shutil.which", lambda name, path=None: None)
    assert command_line.main(["--provider", "vagrant", "ssh", "debian-12"]) == 125
    assert capsys.readouterr().err.splitlines() == [
        "provisioning: provider vagrant cannot be used: vagrant is not installed:"
        " run provisioning/setup-host.sh vagrant (or install vagrant)"
    ]


def test_nobody_is_up(stand_in):
    stand_in("exit 0")
    with pytest.raises(GuestError, match="no guest is up with provider vagrant: run `python"):
        guests_up("vagrant")


def test_the_end_to_end_tests_use_the_guest_that_is_up(one_up, place):
    """In a separate process, because pytest reads its options before it collects tests."""
    program = place / "bin" / "vagrant"
    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/e2e/test_load.py"],
        cwd=REPOSITORY,
        env={"PATH": f"{program.parent}:/usr/bin:/bin", "VAGRANT_DOTFILE_PATH": f"{place}/dot"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "[ubuntu-24.04" in asked.stdout, asked.stdout + asked.stderr
    assert "debian-" not in asked.stdout
