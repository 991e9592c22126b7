# SPDX-License-Identifier: Apache-2.0
"""Snapshots without a guest: what is kept, what is loaded, what happens to unusable ones."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import namedtuple
from contextlib import suppress
from dataclasses import replace

import pytest

from provisioning import cache, instances
from provisioning.architecture import host_architecture
from provisioning.catalog import find_guest
from provisioning.errors import BootFailed, GuestError, ProvisioningError
from provisioning.guest import Address, Guest
from provisioning.image import Image
from provisioning.instances import Access, Instance
from provisioning.providers import qemu
from provisioning.providers.qemu import resume, snapshot
from provisioning.providers.qemu.monitor import monitor_at


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache with an image, a program as QEMU, and an instance with a disk."""
    monkeypatch.setenv("HTTP_PROFILER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(instances, "STATE", tmp_path / "guests")
    image = tmp_path / "cache" / "images" / "debian-12-0123456789abcdef"
    image.mkdir(parents=True)
    (tmp_path / "qemu").write_text("one build")
    instance = Instance("debian-12")
    instance.directory.mkdir(parents=True)
    instance.overlay.write_text("disk and state")
    return tmp_path


@pytest.fixture
def machine(place):
    hardware = host_architecture("x86_64")
    return qemu.Machine(
        find_guest("debian-12"),
        Image(place / "cache" / "images" / "debian-12-0123456789abcdef"),
        Instance("debian-12"),
        Access("127.0.0.1", 0, "tester", "/key", str(place / "control" / "ssh")),
        str(place / "qemu"),
        hardware,
        qemu.TCG["x86_64"],
        append="",
        bound=False,
    )


def test_a_snapshot_is_of_what_the_guest_sees_and_of_qemu(machine, place):
    first = machine.snapshot
    assert first.parent == machine.image.directory
    other = Instance("debian-12@gw1")
    same = replace(machine, instance=other, bound=True, access=replace(machine.access, port=7))
    assert same.snapshot == first
    for change in ({"memory": 1024}, {"cpus": 1}):
        spec = replace(machine.spec, **change)
        assert replace(machine, spec=spec).snapshot.name != first.name
    elsewhere = machine.image.directory.with_name("debian-12-0000000000000000")
    elsewhere.mkdir()
    assert replace(machine, image=Image(elsewhere)).snapshot.name != first.name
    (place / "qemu").write_text("another build")
    assert machine.snapshot.name != first.name


def test_some_machines_have_none(machine, monkeypatch):
    assert replace(machine, accelerator=qemu.KVM).snapshot is None
    assert replace(machine, accelerator=qemu.ICOUNT["x86_64"]).snapshot is None
    assert replace(machine, append="quiet").snapshot is None
    monkeypatch.setattr(snapshot.os, "access", lambda path, mode: False)
    assert machine.snapshot is None


def test_only_a_machine_that_is_to_have_one_has_a_monitor(machine, place):
    kept = machine.command(1)
    assert kept[kept.index("-qmp") + 1] == f"unix:{place}/control/monitor,server=on,wait=off"
    loads = replace(machine, loads=True).command(1)
    assert loads[loads.index("-loadvm") + 1] == snapshot.TAG
    assert "-qmp" not in loads
    without = replace(machine, accelerator=qemu.KVM).command(1)
    assert not {"-qmp", "-loadvm"} & set(without)


@pytest.fixture
def monitor(place):
    """A stand-in for QEMU's monitor: ``answers`` by command line, ``asked`` in order."""
    asked, answers = [], {}

    def accepted():
        with suppress(OSError):
            return listener.accept()[0]

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place / "monitor"))
    listener.listen()

    def serve():
        # Until the listener is closed.
        while (connection := accepted()) is not None:
            with connection, connection.makefile("rwb") as lines:

                def say(thing, lines=lines):
                    lines.write(json.dumps(thing).encode() + b"\n")
                    lines.flush()

                say({"QMP": {}})
                for line in lines:
                    request = json.loads(line)
                    what = request["arguments"].get("command-line", request["execute"])
                    asked.append(what)
                    say({"event": "RESUME"})
                    say(answers.get(what, {"return": "" if what != request["execute"] else {}}))

    threading.Thread(target=serve, daemon=True).start()
    yield namedtuple("Monitor", "path asked answers")(place / "monitor", asked, answers)
    # Closing alone would not end accept().
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_monitor_that_refuses(monitor):
    monitor.answers["stop"] = {"error": {"desc": "not now"}}
    with monitor_at(monitor.path) as opened:
        with pytest.raises(ProvisioningError, match=r"^QEMU's stop: not now$"):
            opened.execute("stop")
        assert opened.execute("cont") == {}


def test_a_monitor_that_is_not_there(place):
    refused = pytest.raises(ProvisioningError, match=r"QEMU's monitor: .*No such file")
    with refused, monitor_at(place / "none"):
        pytest.fail("connected")


@pytest.fixture
def settled(monkeypatch):
    """The guest has settled, and the check of a disk finds no error."""
    monkeypatch.setattr(snapshot, "settle", lambda guest, instance: None)
    monkeypatch.setattr(snapshot, "find_tool", lambda name, package: "true")


def take(machine, monitor, memory=1):
    snapshot.take(machine.snapshot, None, machine.instance, monitor.path, memory)


def contents(machine):
    return sorted(path.name for path in machine.image.directory.iterdir())


def test_the_newest_is_kept_whole_and_alone(machine, monitor, settled):
    for left in ("snapshot-0.qcow2", ".snapshot-1.qcow2.7.tmp"):
        (machine.image.directory / left).touch()
    take(machine, monitor)
    # The disk is copied while the machine is paused.
    assert monitor.asked[1:] == ["stop", "savevm settled", "qemu-io disk flush", "cont"]
    assert contents(machine) == [machine.snapshot.name]
    assert machine.snapshot.read_text() == "disk and state"
    assert list((cache.cache_directory() / "locks").iterdir()) == []
    take(machine, monitor)
    assert len(monitor.asked) == 5, "a second time there is nothing to do"


def test_a_machine_continues_after_a_failed_snapshot(machine, monitor, settled):
    monitor.answers["savevm settled"] = {"return": "Error: no space\r\n"}
    with pytest.raises(ProvisioningError, match=r"^QEMU's savevm settled: Error: no space$"):
        take(machine, monitor)
    assert monitor.asked[-1] == "cont"
    assert contents(machine) == []


def test_an_incomplete_copy_is_not_kept(machine, monitor, settled, monkeypatch):
    monkeypatch.setattr(snapshot, "find_tool", lambda name, package: "false")
    with pytest.raises(ProvisioningError, match="false ended with 1"):
        take(machine, monitor)
    assert contents(machine) == []


def test_of_two_that_boot_at_once_one_keeps_it(machine, monitor, settled):
    with cache.locked(cache.cache_directory() / "locks" / machine.snapshot.name):
        take(machine, monitor)
    assert monitor.asked == []
    assert contents(machine) == []


def test_a_full_disk_is_reported_before_the_machine_is_paused(
    machine, monitor, settled, monkeypatch
):
    free = namedtuple("usage", "free")(100 * 2**20)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: free)
    with pytest.raises(ProvisioningError, match=r"^0\.1 GiB are free in .*, and it may take 2\.0$"):
        take(machine, monitor, 2048)
    assert monitor.asked == []


@pytest.fixture
def runs(monkeypatch):
    """Start fake machines; record for each whether it resumes from a snapshot."""
    started = []
    guest = Guest("debian-12", Address("127.0.0.1", 1, "tester", (), instances.Path("none")))

    def run_once(machine, port, deadline):
        started.append("loads" if machine.loads else "boots")
        return guest

    monkeypatch.setattr(qemu, "run_once", run_once)
    monkeypatch.setattr(qemu, "make_overlay", lambda *_: None)
    monkeypatch.setattr(qemu, "wait_again", lambda *_: started.append("is back"))
    monkeypatch.setattr(qemu, "complete_resume", lambda guest: started.append("is resumed"))
    monkeypatch.setattr(
        qemu.snapshot, "take", lambda kept, *_: (started.append("is kept"), kept.touch())
    )
    return started


def said(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "TCG" not in line]


def up(machine):
    return qemu.load(machine) or qemu.boot(machine, 1.0)


def test_the_first_boots_and_the_second_resumes(machine, runs):
    up(machine)
    assert runs == ["boots", "is kept", "is back", "is resumed"]
    machine.snapshot.write_text("kept")
    del runs[:]
    up(machine)
    assert runs == ["loads", "is resumed"]
    # A copy: the snapshot itself is never used as a disk.
    assert machine.instance.overlay.read_text() == "kept"
    assert machine.instance.overlay != machine.snapshot


def test_a_machine_without_a_snapshot_only_boots(machine, runs):
    up(replace(machine, append="quiet"))
    assert runs == ["boots"]


@pytest.mark.parametrize("where", ["run_once", "complete_resume"])
def test_a_snapshot_that_does_not_load_is_removed_and_the_guest_boots(
    machine, runs, monkeypatch, capsys, where
):
    machine.snapshot.write_text("damaged")
    done = getattr(qemu, where)

    def fails(subject, *more):
        monkeypatch.setattr(qemu, where, done)
        raise BootFailed("debian-12: QEMU ended with status 1 before the guest was up", "log")

    monkeypatch.setattr(qemu, where, fails)
    assert up(machine)
    assert said(capsys)[0] == (
        "debian-12: booting, and removing its snapshot:"
        " QEMU ended with status 1 before the guest was up"
    )
    assert runs[-4:] == ["boots", "is kept", "is back", "is resumed"]


def test_a_snapshot_that_cannot_be_copied_stays(machine, runs, monkeypatch, capsys):
    machine.snapshot.write_text("kept")

    def full(kept, overlay):
        raise ProvisioningError("cp: error writing: No space left on device")

    monkeypatch.setattr(qemu.snapshot, "copy", full)
    assert up(machine)
    assert said(capsys)[0] == (
        "debian-12: booting, because its snapshot cannot be copied:"
        " cp: error writing: No space left on device"
    )
    assert machine.snapshot.read_text() == "kept"


def test_a_guest_that_cannot_be_resumed_is_up_and_has_no_snapshot(
    machine, runs, monkeypatch, capsys
):
    def fails(guest):
        raise GuestError("debian-12: its clock cannot be set: no answer")

    monkeypatch.setattr(qemu, "complete_resume", fails)
    assert up(machine)
    assert "debian-12: no snapshot was taken: its clock cannot be set: no answer" in said(capsys)
    assert contents(machine) == []


@pytest.fixture
def guest(place, monkeypatch):
    """A guest whose ssh runs the command line here, with a script of the test as sudo."""
    (place / "ssh").write_text(
        f'#!/bin/sh\nPATH={place}:$PATH\nfor line; do :; done\nexec /bin/sh -c "$line"\n'
    )
    (place / "ssh").chmod(0o755)
    monkeypatch.setattr("provisioning.guest.find_tool", lambda name, package: str(place / name))
    return Guest("debian-12", Address("127.0.0.1", 1, "tester", (), place / "control"))


def sudo(place, script):
    (place / "sudo").write_text(f"#!/bin/sh\nread seed; echo $seed >> {place}/seeds\n{script}\n")
    (place / "sudo").chmod(0o755)


RIGHT = "echo seeded; read now; echo $now"


def test_a_guest_is_seeded_and_its_clock_set(guest, place):
    sudo(place, RIGHT)
    for _ in range(2):
        resume.complete_resume(guest)
    one, other = (place / "seeds").read_text().split()
    assert one != other
    assert len(one) == 2 * resume.SEED_BYTES


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f"{RIGHT[:-4]}$((now - 3600000000000))", r"was set, and is -360\d\.\d s off"),
        (f"{RIGHT[:-4]}$((now + 9000000000))", r"was set, and is \+[4-9]\.\d s off"),
        ("echo one >&2; echo 'OSError: no' >&2", "cannot be set: OSError: no"),
        ("echo seeded; read now", "cannot be set: no answer"),
    ],
)
def test_a_clock_that_is_wrong_is_an_error(guest, place, script, says):
    sudo(place, script)
    with pytest.raises(GuestError, match=f"^debian-12: its clock {says}$"):
        resume.complete_resume(guest)


def test_a_silent_guest_times_out(guest, place, monkeypatch):
    monkeypatch.setattr(resume, "TIMEOUT", 0.3)
    monkeypatch.setattr(Guest, "exec", lambda *a, **k: None)
    sudo(place, "exec sleep 60")
    started = time.monotonic()
    with pytest.raises(GuestError, match="its clock cannot be set: no answer"):
        resume.complete_resume(guest)
    assert time.monotonic() - started < 30


def test_removing_an_image_removes_its_snapshot(machine):
    machine.snapshot.touch()
    assert machine.image.snapshots == [machine.snapshot]
    cache.prune(machine.image.directory.parent, "debian-12", 0)
    assert not machine.image.directory.exists()
