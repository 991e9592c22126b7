# SPDX-License-Identifier: Apache-2.0
"""The provider lima, against tests/stand_in_limactl.py: no real limactl was run."""

from __future__ import annotations

import sys

import pytest

from provisioning import __main__ as command_line
from provisioning import instances, machines
from provisioning.catalog import find_guest
from provisioning.errors import GuestError
from provisioning.host import REPOSITORY
from provisioning.providers import choose_provider, lima
from tests import stand_in_limactl

GUEST = "debian-12"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty PATH and a Lima without instances; no provider is chosen."""
    home = tmp_path / "lima"
    home.mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.delenv("GUEST_PROVIDER", raising=False)
    monkeypatch.setenv("STAND_IN_LIMA", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("VAGRANT_DOTFILE_PATH", str(tmp_path / "no-vagrant"))
    monkeypatch.setattr(stand_in_limactl, "HOME", home)
    monkeypatch.setattr(stand_in_limactl, "STATE", home / "instances.json")
    monkeypatch.setattr(instances, "STATE", tmp_path / "guests")
    return home


def program(place, text):
    path = place.parent / "bin" / "limactl"
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def installed(place):
    """Install the stand-in under the name limactl."""
    program(place, f'#!/bin/sh\nexec {sys.executable} {stand_in_limactl.__file__} "$@"\n')


def calls(place):
    file = place / "calls"
    return file.read_text().splitlines() if file.exists() else []


def has(*made):
    stand_in_limactl.save(list(made))


def left():
    return [one["name"] for one in stand_in_limactl.load()]


def one(status="Running", name=GUEST, guest=GUEST, **more):
    return stand_in_limactl.instance(name, status, guest, **more)


@pytest.fixture
def reachable(monkeypatch, place):
    """An ssh that accepts every address and runs commands here; a file marks it provisioned."""
    monkeypatch.setattr(lima, "PROVISIONED", str(place / "provisioned"))
    (place / "provisioned").touch(mode=0o755)
    (place / GUEST).mkdir(exist_ok=True)
    key = place / "user"
    key.touch()
    (place / GUEST / "ssh.config").write_text(
        "Host lima-debian-12\n"
        f'  IdentityFile "{key}"\n'
        "  StrictHostKeyChecking no\n"
        "  UserKnownHostsFile /dev/null\n"
        "  ControlMaster auto\n"
        f'  ControlPath "{place}/ssh.sock"\n'
        "  ControlPersist yes\n"
        "  User me\n"
        "  Hostname 127.0.0.1\n"
        "  Port 60022\n"
    )
    ssh = place.parent / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        "for line; do :; done\n"
        "case $line in -*) exit 0 ;; esac\n"
        'PATH=/usr/bin:/bin exec /bin/sh -c "$line"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setattr("provisioning.guest.find_tool", lambda name, package: str(ssh))
    monkeypatch.setattr(
        "provisioning.providers.sshconfig.find_tool", lambda name, package: "/usr/bin/ssh"
    )


def test_without_limactl_nothing_runs(place):
    assert lima.running() == []
    assert lima.unavailable() == "limactl is not installed: install Lima 2.0 or newer"


@pytest.mark.parametrize(
    "version", ["2.0.0", "2.2.1", "2.0.0-alpha.0-12-gabcdef0", "10.0.0", "HEAD"]
)
def test_a_lima_that_the_templates_work_with(installed, place, version):
    (place / "version").write_text(version)
    assert lima.unavailable() is None


@pytest.mark.parametrize("version", ["1.2.3", "0.23.2"])
def test_a_lima_that_is_too_old(installed, place, version):
    (place / "version").write_text(version)
    assert lima.unavailable() == (
        f"this is limactl version {version}, but the templates need 2.0.0: install a newer Lima"
    )


def test_a_lima_that_refuses_to_work_gives_its_reason(installed, place):
    (place / "as-root").touch()
    assert lima.unavailable() == (
        "`limactl list --json` ended with status 1: must not run as the root user"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#!/bin/sh\nexit 126\n", "`limactl --version` ended with status 126"),
        ("#!/no/such/interpreter\n", "`limactl --version` cannot be run"),
        ("#!/bin/sh\necho not JSON\n", "`limactl list --json` printed something unexpected"),
        ("#!/bin/sh\nexec /bin/sleep 60\n", "`limactl --version` gave no answer within 0 s"),
    ],
)
def test_a_lima_that_is_broken(place, monkeypatch, text, says):
    monkeypatch.setattr(lima, "ANSWER_TIMEOUT", 0.3)
    program(place, text)
    assert says in lima.unavailable()


def test_running_guests_are_those_from_our_templates(installed):
    has(
        one("Running", "mine", "ubuntu-24.04"),
        one("Stopped", "debian-13", "debian-13"),
        one("Running", "ubuntu-22.04", None),
        one("Broken", "debian-12"),
    )
    assert lima.running() == ["ubuntu-24.04"]
    assert choose_provider(guest="ubuntu-24.04") == "lima"
    assert choose_provider(guest="debian-13") == "qemu"


def test_a_guest_is_reached_by_its_ssh_configuration(installed, reachable, place):
    has(one())
    guest = lima.attach(GUEST)
    assert (guest.address.host, guest.address.port, guest.address.user) == (
        "127.0.0.1",
        60022,
        "me",
    )
    assert guest.address.keys == (place / "user",)
    assert guest.exec("echo here").stdout == "here\n"
    (place / GUEST / "serial.log").write_text("login:\n")
    assert guest.console() == "login:"


def test_a_guest_that_still_provisions_itself_is_not_used(installed, reachable, place):
    has(one())
    (place / "provisioned").unlink()
    with pytest.raises(GuestError, match="up with Lima, but not provisioned: wait until"):
        lima.attach(GUEST)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([], r"debian-12 is not up with Lima: run `limactl start ./lima/debian-12.yaml`"),
        ([("Stopped", "mine")], "debian-12 is stopped in Lima: run `limactl start mine`"),
        ([("Running", GUEST, None)], "debian-12 is not up with Lima"),
        (
            [("Broken", GUEST, None)],
            r"instance debian-12 is broken \(no lima.yaml\): `limactl delete --force debian-12`",
        ),
    ],
)
def test_a_guest_that_is_not_up_and_what_to_do(installed, made, says):
    has(*(one(*each, errors=["no lima.yaml"]) for each in made))
    with pytest.raises(GuestError, match=says):
        lima.attach(GUEST)


def test_a_guest_is_created_from_its_template_for_this_clone(installed, place):
    lima.start(find_guest(GUEST))
    (started,) = (call for call in calls(place) if call.startswith("start"))
    assert started == (
        f"start --tty=false --timeout=30m --name=debian-12 --param=repository={REPOSITORY}"
        f" {REPOSITORY}/lima/debian-12.yaml"
    )
    assert lima.running() == [GUEST]


def test_a_second_start_starts_nothing(installed, place):
    lima.start(find_guest(GUEST))
    before = calls(place)
    lima.start(find_guest(GUEST))
    assert calls(place)[len(before) :] == ["list --json"]


def test_a_guest_that_is_stopped_is_started_again_and_not_created(installed, place):
    has(one("Stopped", "mine"))
    lima.start(find_guest(GUEST))
    assert calls(place)[-1] == "start --tty=false --timeout=30m mine"
    assert left() == ["mine"]


def test_a_failed_start_is_deleted_and_its_console_kept(installed, place):
    (place / "start-fails").touch()
    with pytest.raises(GuestError, match="ended with status 1: see above") as caught:
        lima.start(find_guest(GUEST))
    assert caught.value.details == "cloud-init: no network"
    assert left() == []


def test_an_instance_of_the_user_stays_after_a_failed_start(installed, place):
    has(one("Stopped"))
    (place / "start-fails").touch()
    with pytest.raises(GuestError):
        lima.start(find_guest(GUEST))
    assert left() == [GUEST]


def test_a_foreign_instance_with_the_same_name_is_kept(installed, place):
    has(one("Stopped", GUEST, None))
    with pytest.raises(GuestError, match="instance debian-12 that is not from lima/"):
        lima.start(find_guest(GUEST))
    assert not lima.stop(GUEST)
    assert left() == [GUEST]


def test_a_broken_instance_is_not_started_but_can_be_removed(installed):
    has(one("Broken"))
    with pytest.raises(GuestError, match="is broken"):
        lima.start(find_guest(GUEST))
    assert lima.stop(GUEST)
    assert left() == []


def test_two_runs_do_not_create_the_same_guest(installed, place):
    with instances.Instance(f"{GUEST}@lima").lock(), pytest.raises(GuestError, match="another run"):
        lima.start(find_guest(GUEST))
    assert calls(place) == []


def test_a_guest_without_a_template(installed):
    with pytest.raises(
        GuestError, match=r"no Lima template of debian-11: lima/ has debian-12, debian-13"
    ):
        lima.start(find_guest("debian-11"))


def test_stopping_a_guest_removes_its_disk(installed, place):
    has(one("Running", "mine"))
    assert lima.stop(GUEST)
    assert calls(place)[-1] == "delete --force mine"
    assert not lima.stop(GUEST)


def test_the_command_line_brings_a_guest_up_once_and_takes_it_down(
    installed, reachable, place, capfd
):
    for _ in range(2):
        assert command_line.main(["--provider", "lima", "up", GUEST]) == 0
    assert command_line.main(["--provider", "lima", "down", GUEST]) == 0
    assert [call.split()[0] for call in calls(place)].count("start") == 1
    assert calls(place)[-1] == f"delete --force {GUEST}"
    captured = capfd.readouterr()
    assert captured.out == "", "limactl's own words are not on standard output"
    assert "debian-12 is up already" in captured.err


def test_errors_are_one_line(place, capsys):
    assert command_line.main(["--provider", "lima", "up", GUEST]) == 125
    assert capsys.readouterr().err.splitlines() == [
        "provisioning: provider lima cannot be used: limactl is not installed:"
        " install Lima 2.0 or newer"
    ]


def test_one_process_at_a_time_uses_a_guest_and_leaves_it_up(installed, reachable, place):
    has(one())
    with machines.machine(GUEST, provider="lima") as guest:
        assert guest.exec(["true"]).returncode == 0
        busy = pytest.raises(GuestError, match="in use by another run")
        with busy, machines.machine(GUEST, provider="lima"):
            pytest.fail("used twice")
    assert lima.running() == [GUEST]
