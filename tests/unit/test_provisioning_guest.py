# SPDX-License-Identifier: Apache-2.0
"""The guest, against a stand-in for ssh: its commands, and how it handles the results."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from provisioning import __main__ as command_line
from provisioning import host, machines
from provisioning.errors import (
    BuildFailed,
    CommandTimeout,
    GuestError,
    MachineLost,
    ProvisioningError,
)
from provisioning.guest import Address, CommandFailed, Guest
from provisioning.progress import step


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A guest whose ssh runs the command line here."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor line; do :; done\nexec /bin/sh -c "$line"\n')
    ssh.chmod(0o755)
    monkeypatch.setattr("provisioning.guest.find_tool", lambda name, package: str(tmp_path / name))
    address = Address("127.0.0.1", 1, "tester", (Path("/key"),), tmp_path / "control")
    return Guest("debian-12", address, console=lambda: "last words")


def test_an_argument_list_arrives_as_it_is(guest):
    assert guest.exec(["printf", "%s|", "a b", "$HOME", "'"]).stdout == "a b|$HOME|'|"


def test_a_line_is_for_the_shell_of_the_guest(guest):
    assert guest.exec("echo one | tr o 0").stdout == "0ne\n"


def test_input_output_and_status(guest):
    result = guest.exec("cat; echo bad >&2; exit 3", stdin="text", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, "text", "bad\n")


def test_bytes_that_are_not_text_do_no_harm(guest):
    assert guest.exec(r"printf '\377'").stdout == "\\xff"


def test_a_failure_carries_the_output_of_the_command(guest):
    with pytest.raises(CommandFailed) as caught:
        guest.exec("echo why >&2; exit 4")
    assert "exit status 4 in the guest" in str(caught.value)
    assert caught.value.details == "why"
    assert caught.value.result.returncode == 4


def test_a_command_that_takes_too_long(guest):
    with pytest.raises(CommandTimeout, match="not done in 0 s: exec sleep 30"):
        guest.exec("exec sleep 30", timeout=0.2)


def test_a_guest_without_a_network_is_lost_and_shows_its_console(guest, tmp_path):
    """It booted, but ssh cannot reach it."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    waits = []
    with pytest.raises(MachineLost, match="debian-12: ssh accepts no login") as caught:
        guest.wait(time.monotonic() + 0.5, alive=lambda: waits.append(1))
    assert caught.value.details == "last words"
    # Each attempt checked whether waiting is pointless.
    assert waits


def test_a_machine_that_is_gone_is_lost_and_shows_its_console(guest):
    with pytest.raises(MachineLost) as caught:
        guest.exec("echo Connection refused >&2; exit 255")
    assert "the machine is lost: Connection refused" in str(caught.value)
    assert caught.value.details == "last words"


def test_the_status_255_of_a_command_is_not_a_lost_machine(guest, monkeypatch):
    monkeypatch.setattr(Guest, "answers", lambda self, timeout: True)
    assert guest.exec("exit 255", check=False).returncode == 255


def test_waiting_ends_when_the_machine_does(guest):
    def alive():
        raise MachineLost("QEMU ended")

    with pytest.raises(MachineLost, match="QEMU ended"):
        guest.wait(time.monotonic() + 30, alive)


def test_a_command_that_runs_can_be_signalled(guest, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Guest, "exec", lambda self, line, check: __import__("os").system(line.replace("sudo ", ""))
    )
    script = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(7));"
        " print('ready', flush=True); time.sleep(60)"
    )
    with guest.popen([sys.executable, "-c", script]) as running:
        assert running.stdout.readline() == b"ready\n"
        assert running.poll() is None
        running.signal("INT")
        assert running.wait(20) == 7


def test_nothing_to_push(guest, tmp_path):
    with pytest.raises(GuestError, match="does not exist, nothing to push to debian-12"):
        guest.push(tmp_path / "missing", "/tmp/x")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["up", "debian-99"], 2, "unknown guest 'debian-99'"),
        (["ssh", "debian-12@nobody", "--", "true"], 125, "debian-12@nobody is not up: run"),
        (["down", "../etc"], 2, "unknown guest '../etc'"),
        (["--provider", "xen", "list"], 125, "unknown provider 'xen': known are qemu, vagrant"),
    ],
)
def test_trouble_is_one_line_and_a_status(arguments, status, says, capsys):
    assert command_line.main(arguments) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_a_lost_machine_shows_its_console_before_the_error(monkeypatch, capsys):
    def lost(*arguments, **options):
        raise MachineLost("debian-12: gone", "Kernel panic")

    monkeypatch.setattr(machines, "up", lost)
    assert command_line.main(["up", "debian-12"]) == 125
    assert capsys.readouterr().err.splitlines() == [
        "Kernel panic",
        "provisioning: debian-12: gone",
    ]


def test_the_status_of_an_interrupt(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "ensure_image", interrupted)
    assert command_line.main(["build", "debian-12"]) == 130


def test_progress_shows_the_step_its_time_and_its_result(capsys):
    with step("working"):
        pass
    with pytest.raises(ValueError), step("failing"):
        raise ValueError
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "working ..."
    assert lines[1].startswith("working: done in 0.")
    assert lines[3].startswith("failing: failed after 0.")


def test_a_program_that_fails_shows_the_end_of_its_log(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(BuildFailed) as caught:
        host.run(["/bin/sh", "-c", "echo reason; exit 3"], doing="building", log=log)
    assert f"building: sh failed with status 3; see {log}" == str(caught.value)
    assert caught.value.details.endswith("reason")


def test_an_interrupted_program_is_gone_with_its_children(tmp_path, monkeypatch):
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! > {pids}; wait"
    real = host.subprocess.Popen.wait

    def interrupt(process, timeout=None):
        if timeout is None:
            while not (pids.exists() and pids.read_text().strip()):
                time.sleep(0.01)
            raise KeyboardInterrupt
        return real(process, timeout)

    monkeypatch.setattr(host.subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        host.run(["/bin/sh", "-c", script], doing="building", log=tmp_path / "log")
    child = Path(f"/proc/{pids.read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_error_for_a_missing_ansible_has_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(host.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(host, "REPOSITORY", tmp_path)
    monkeypatch.setattr(host.shutil, "which", lambda name: None)
    with pytest.raises(
        ProvisioningError, match="ansible-playbook is not installed: run `make setup`"
    ):
        host.find_ansible()
