# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provisioning import instances
from provisioning.architecture import host_architecture
from provisioning.catalog import find_guest
from provisioning.errors import BootFailed, GuestError, ProvisioningError
from provisioning.image import Image
from provisioning.instances import Access, Instance
from provisioning.providers import qemu
from provisioning.providers.qemu import kvm

IMAGE = Image(Path("/images/one"))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(instances, "STATE", tmp_path / "guests")
    return tmp_path / "guests"


def machine(processor="x86_64", accelerator=None, append="", guest="debian-12", image=IMAGE):
    hardware = host_architecture(processor)
    return qemu.Machine(
        find_guest(guest),
        image,
        Instance(guest),
        Access("127.0.0.1", 0, "tester", "/key", "/tmp/control/ssh"),
        hardware.qemu,
        hardware,
        accelerator or qemu.TCG[processor],
        append,
        bound=False,
    )


def command(*arguments, **keywords):
    return machine(*arguments, **keywords).command(2299)


def option(line, name):
    return line[line.index(name) + 1]


def test_the_machine_of_a_guest():
    line = command()
    assert line[0] == "qemu-system-x86_64"
    assert {"-nodefaults", "-nographic", "-no-reboot"} < set(line)
    assert option(line, "-accel") == "tcg,thread=multi"
    assert option(line, "-smp") == "2"
    assert option(line, "-m") == "2048"
    assert option(line, "-kernel") == "/images/one/vmlinuz"
    assert option(line, "-initrd") == "/images/one/initrd"


def test_the_disk_is_the_overlay_and_never_the_image():
    line = command()
    assert f"file={Instance('debian-12').overlay}" in option(line, "-drive")
    assert "cache=unsafe" in option(line, "-drive")
    assert not any("disk.raw" in argument for argument in line)


def test_the_guest_sees_only_this_host_which_sees_its_ssh():
    assert option(command(), "-netdev") == (
        "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:2299-:22"
    )


def test_a_panic_ends_the_machine_and_what_is_appended_comes_last():
    arguments = option(command(append="init=/none"), "-append").split()
    assert {"root=/dev/vda", "rw", "console=ttyS0", "panic=-1", "net.ifnames=0"} < set(arguments)
    assert arguments[-1] == "init=/none"


def test_the_other_architecture_differs_by_its_table_only():
    line = command("aarch64")
    assert line[0] == "qemu-system-aarch64"
    assert option(line, "-machine") == "virt"
    assert "console=ttyAMA0" in option(line, "-append")
    # It is for a PC's interrupt controller.
    assert "no_timer_check" in option(command(), "-append")
    assert "no_timer_check" not in option(line, "-append")


def test_a_comma_in_a_path_does_not_start_an_option(monkeypatch, tmp_path):
    monkeypatch.setattr(instances, "STATE", tmp_path / "a,b")
    assert f"file={tmp_path}/a,,b/debian-12/overlay.qcow2" in option(command(), "-drive")


def test_a_clock_that_counts_instructions_takes_one_thread_and_one_processor():
    line = command(accelerator=qemu.ICOUNT["x86_64"], guest="debian-13-bench")
    assert option(line, "-icount") == "shift=0,sleep=off"
    assert option(line, "-accel") == "tcg,thread=single"
    assert option(line, "-smp") == "1"
    # The processor model of all earlier figures.
    assert option(line, "-cpu") == "max,la57=off,svm=off"
    assert option(command(), "-cpu") == "max,la57=off,svm=off,erms=off,fsrm=off"
    assert "-icount" not in command()


def test_a_guest_with_more_processors_is_refused_before_it_hangs(state):
    with pytest.raises(GuestError, match="with one processor only, and it has 2: use a guest with"):
        qemu.start(find_guest("debian-12"), IMAGE, Instance("debian-12"), icount=True)
    assert not Instance("debian-12").directory.exists()


@pytest.mark.parametrize("counts", [True, False])
def test_the_command_line_shows_whether_a_machine_counts(state, counts):
    instance = Instance("debian-12@gw0")
    assert not qemu.counts_instructions(instance)
    process = fake_machine(instance, *(["-icount"] if counts else []))
    assert qemu.counts_instructions(instance) is counts
    qemu.stop(instance)
    process.wait()


def test_without_kvm_there_is_no_probe(monkeypatch, tmp_path):
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    trouble = kvm.trouble("/bin/sh", host_architecture("x86_64"), IMAGE)
    assert trouble == f"{tmp_path}/kvm cannot be used by this user"


def stand_in(tmp_path, script):
    """A QEMU that runs ``script``, which writes to the console at $console."""
    program = tmp_path / "qemu"
    program.write_text(
        "#!/bin/sh\n"
        "for argument; do\n"
        "case $argument in file,id=console,path=*) console=${argument##*=};; esac; done\n"
        f"{script}\n"
    )
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def kvm_device(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTP_PROFILER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(kvm, "TIMEOUT", 1.0)
    (tmp_path / "kvm").touch()


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ('echo "VFS: Unable to mount root fs on unknown" > $console; exit 0', None),
        ("exit 6", "QEMU with KVM ended with status 6"),
        ('echo "Linux version 6" > $console; exec sleep 60', "did not boot within"),
    ],
)
def test_kvm_is_used_only_where_a_kernel_booted(kvm_device, tmp_path, script, trouble):
    program = stand_in(tmp_path, f"echo run >> {tmp_path}/runs\n{script}")
    hardware = host_architecture("x86_64")
    for _ in range(2):
        said = kvm.trouble(program, hardware, IMAGE)
        assert said is None if trouble is None else trouble in said
    assert (tmp_path / "runs").read_text() == "run\n", "the answer is remembered"


def fake_machine(instance, *more):
    """Start a process with the command line of an instance."""
    instance.directory.mkdir(parents=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "import time; time.sleep(60)"),
            *("-pidfile", str(instance.pid_file), *more),
        ]
    )
    instance.pid_file.write_text(f"{process.pid}\n")
    while not instance.is_process(process.pid):
        assert process.poll() is None
    return process


def test_a_machine_is_ended_by_its_process(state):
    instance = Instance("debian-12@gw0")
    process = fake_machine(instance)
    assert instance.pid() == process.pid
    assert qemu.stop(instance)
    assert not instance.directory.exists()
    assert not Path(f"/proc/{process.pid}").exists()
    assert not qemu.stop(instance), "a second time there is nothing"
    process.wait()


def test_a_machine_that_ignores_sigterm_is_killed(state):
    instance = Instance("debian-12")
    instance.directory.mkdir(parents=True)
    ready = instance.directory / "ready"
    script = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        " pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(ready), str(instance.pid_file)])
    while not ready.exists():
        assert process.poll() is None
    instance.pid_file.write_text(str(process.pid))
    assert instance.end(grace=0.3)
    process.wait()


def test_a_reused_process_id_is_left_alone(state):
    instance = Instance("debian-12")
    instance.directory.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        instance.pid_file.write_text(str(other.pid))
        assert instance.pid() is None
        assert not qemu.stop(instance)
        assert other.poll() is None
        other.send_signal(signal.SIGKILL)


def test_an_instance_remembers_how_it_is_reached(state, tmp_path):
    instance = Instance("debian-12@gw1")
    control = tmp_path / "control"
    control.mkdir()
    access = Access("127.0.0.1", 2299, "tester", "/key", str(control / "ssh"))
    instance.record(access)
    assert instance.access() == access
    assert instance.access().address().port == 2299
    instance.forget()
    assert not control.exists()
    assert instance.access() is None


def test_two_runs_do_not_change_one_instance(state):
    busy = pytest.raises(ProvisioningError, match="in use by another run")
    with Instance("debian-12").lock(), busy, Instance("debian-12").lock():
        pytest.fail("held twice")
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "debian-12@a/b", "", "@gw0", "debian-12@"])
def test_a_name_that_would_escape_its_directory_is_refused(name):
    with pytest.raises(ProvisioningError):
        Instance(name)


def test_a_machine_left_by_a_killed_run_is_ended_before_the_next(state, monkeypatch):
    instance = Instance("debian-12")
    process = fake_machine(instance)
    instance.record(Access("127.0.0.1", 0, "tester", "/key", "/tmp/no-such-control/ssh"))
    monkeypatch.setattr(qemu, "private_key", lambda: Path("/key"))
    monkeypatch.setattr(qemu, "find_tool", lambda name, package: name)
    monkeypatch.setattr(qemu.kvm, "trouble", lambda *a: "none")

    def booted(machine, timeout):
        assert process.wait(10) is not None
        raise BootFailed("not now")

    monkeypatch.setattr(qemu, "boot", booted)
    with pytest.raises(BootFailed):
        qemu.start(find_guest("debian-12"), IMAGE, instance)
    assert not instance.directory.exists()


def test_the_error_without_qemu_names_the_package(monkeypatch):
    monkeypatch.setattr("provisioning.host.shutil.which", lambda name, path=None: None)
    assert "is not installed: run provisioning/setup-host.sh" in qemu.unavailable()


@pytest.mark.parametrize(
    ("accelerator", "console", "boots"),
    [
        (qemu.TCG["x86_64"], qemu.PANIC, 2),
        (qemu.KVM, qemu.PANIC, 1),
        (qemu.TCG["x86_64"], "no such disk", 1),
        (qemu.KVM, qemu.PORT_TAKEN, 2),
    ],
)
def test_panics_that_are_retried(state, monkeypatch, accelerator, console, boots):
    attempts = []

    def run_once(machine, port, deadline):
        attempts.append(port)
        if len(attempts) < 2:
            raise BootFailed("ended", console)
        return "up"

    monkeypatch.setattr(qemu, "run_once", run_once)
    monkeypatch.setattr(qemu, "make_overlay", lambda *_: None)
    if boots == 1:
        with pytest.raises(BootFailed):
            qemu.try_boot(machine(accelerator=accelerator), 0.0)
    else:
        assert qemu.try_boot(machine(accelerator=accelerator), 0.0) == "up"
    assert len(attempts) == boots
