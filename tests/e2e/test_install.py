# SPDX-License-Identifier: Apache-2.0
"""The package, installed and removed; its service; and the playbook that installs it on a fleet."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from packages import deb, vendored
from provisioning import Guest
from provisioning.capture import START_TIMEOUT, Record
from provisioning.catalog import find_guest
from provisioning.host import find_ansible
from provisioning.sources import ANSIBLE, copy_product, wheel_of
from tests.e2e.capture import Capture
from tests.e2e.conftest import background, traffic
from tests.records import read_record

pytestmark = pytest.mark.one_guest("debian-12")

LOG = "/var/log/http-profiler/http.jsonl"
PACKAGE = "/tmp/http-profiler.deb"
SET_ASIDE = "/usr/bin/.http-profiler-of-the-image"
CACHE = "/var/cache/http-profiler"
CACHE_ASIDE = "/var/cache/.http-profiler-of-the-image"


@pytest.fixture(scope="module")
def package(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with the modules of the guest's Python only: `tox -e deb` makes the whole."""
    with pytest.MonkeyPatch.context() as patch:
        # The best compression takes minutes, and is not tested here.
        patch.setenv("DPKG_DEB_COMPRESSOR_LEVEL", "0")
        patch.setattr(deb, "PYTHONS", (find_guest(guest.name.partition("@")[0]).python,))
        return deb.build(tmp_path_factory.mktemp("deb"))


@pytest.fixture
def bare(guest: Guest) -> Iterator[Guest]:
    """A guest without its image's command; afterwards it is restored in any case."""
    guest.exec(f"sudo mv /usr/bin/http-profiler {SET_ASIDE}")
    # Its compiled probes, which removing the package would delete: later tests start from them.
    guest.exec(f"! test -e {CACHE} || sudo mv {CACHE} {CACHE_ASIDE}")
    try:
        yield guest
    finally:
        guest.exec("sudo dpkg --purge http-profiler", check=False, timeout=300)
        guest.exec(f"sudo mv {SET_ASIDE} /usr/bin/http-profiler")
        back = f"sudo rm -rf {CACHE}; sudo mv {CACHE_ASIDE} {CACHE}"
        guest.exec(f"! test -e {CACHE_ASIDE} || {{ {back}; }}")


def said(guest: Guest) -> str:
    return guest.exec("sudo journalctl --unit http-profiler --output cat --no-pager").stdout


def said_since_its_start(guest: Guest) -> str:
    """Only from the current run of the service: an earlier test may have logged the same."""
    show = "sudo systemctl show --property InvocationID --value http-profiler"
    journal = f"sudo journalctl _SYSTEMD_INVOCATION_ID=$({show}) --output cat --no-pager"
    return guest.exec(journal).stdout


def wait_until_capturing(guest: Guest) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while "capturing (" not in said_since_its_start(guest):
        state = guest.exec("sudo systemctl is-active http-profiler", check=False).stdout.strip()
        assert state == "active", said(guest)
        assert time.monotonic() < deadline, said(guest)
        time.sleep(1)


def wait_for_lines(guest: Guest, token: str) -> list[Record]:
    """Return the four lines of an exchange, once the service has written them."""
    deadline = time.monotonic() + 120
    while True:
        lines = guest.exec(f"sudo cat {LOG}", check=False).stdout.splitlines()
        found = [read_record(line) for line in lines if token in line]
        if len(found) == 4 or time.monotonic() > deadline:
            assert len(found) == 4, said(guest)
            return found
        time.sleep(1)


def left(guest: Guest) -> list[str]:
    """List the package's files, except what the image already had."""
    places = "/etc /usr/bin /usr/lib /usr/share /var/log /var/cache /lib/systemd /var/lib/systemd"
    found = guest.exec(f"sudo find {places} -name '*http-profiler*'").stdout.splitlines()
    return sorted({one for one in found if "-demo" not in one and "-of-the-image" not in one})


def test_the_package(bare: Guest, package: Path, token: str) -> None:
    guest = bare
    before = left(guest)
    guest.push(package, PACKAGE)
    guest.exec(f"sudo dpkg --install {PACKAGE}", timeout=600)
    assert guest.exec("http-profiler --version").stdout.startswith("http-profiler 0.")
    # The packaged configuration documents every setting, and sets only what bounds the disk.
    config = guest.exec("http-profiler config").stdout.splitlines()
    chosen = [line.split(" =")[0] for line in config if line and not line.startswith(("#", "["))]
    assert chosen == ["output-max-size", "output-files"]
    # Nothing captures before it is started.
    for question, answer in (("is-enabled", "disabled"), ("is-active", "inactive")):
        state = guest.exec(f"sudo systemctl {question} http-profiler", check=False)
        assert state.stdout.strip() == answer

    guest.exec("sudo systemctl start http-profiler", timeout=120)
    wait_until_capturing(guest)
    with background(guest, "serve") as (_, server):
        where = ("127.0.0.1", server["port"])
        traffic(guest, "requests", *where, f"GET:/{token}-first")
        wait_for_lines(guest, f"{token}-first")
        guest.exec(f"sudo mv {LOG} {LOG}.1")
        traffic(guest, "requests", *where, f"GET:/{token}-second")
        lines = wait_for_lines(guest, f"{token}-second")
    # Not by comm: Python 3.14 names its threads.
    assert all(str(line.get("cmdline")).startswith("python3 ") for line in lines)
    modes = guest.exec(f"sudo stat --format %a:%U {LOG} {LOG}.1 /var/log/http-profiler").stdout
    owner = "http-profiler"
    assert modes.split() == [f"600:{owner}", f"600:{owner}", f"700:{owner}"]
    exposure = guest.exec("sudo systemd-analyze security http-profiler --no-pager").stdout
    assert float(exposure.split("exposure level")[1].split()[2]) <= 2.0

    guest.exec("sudo systemctl stop http-profiler", timeout=120)
    assert "wrote " in said(guest)
    assert "Failed" not in said(guest)
    guest.exec("sudo dpkg --remove http-profiler", timeout=300)
    kept = {"/etc/http-profiler.toml", "/etc/logrotate.d/http-profiler", "/var/log/http-profiler"}
    assert set(left(guest)) - set(before) == kept
    guest.exec("sudo dpkg --purge http-profiler", timeout=300)
    assert left(guest) == before


@pytest.mark.thorough
def test_the_playbook_for_a_fleet(bare: Guest, package: Path, token: str) -> None:
    guest = bare
    options = {"service_package": str(package), "service_configuration": "max-body = 7\n"}
    assert play(guest, options) > 0
    wait_until_capturing(guest)
    with background(guest, "serve") as (_, server):
        traffic(guest, "requests", "127.0.0.1", server["port"], f"POST:/{token}:100")
        lines = wait_for_lines(guest, token)
    assert {len(str(line["body"])) for line in lines} == {7}
    # The second run neither installs it again nor restarts it.
    assert play(guest, options) == 0


@pytest.mark.thorough
def test_pipx(bare: Guest, token: str, tmp_path: Path) -> None:
    """As in README, but with a local package index: a guest has no network."""
    guest = bare
    wheels, pipx = tmp_path / "wheels", tmp_path / "pipx"
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = guest.exec(["python3", "-c", script]).stdout.strip()
    machine = platform.machine()
    vendored.install([Path("pipx")], (), python, machine, pipx, {})
    needed = [f"{name}=={version}" for name, version in deb.locked()[python].items()]
    # pipx needs its own pip.
    vendored.download(["pip", *needed], python, machine, wheels)
    wheel = wheel_of(copy_product(tmp_path / "sources"), tmp_path / "log")
    shutil.copy(wheel, wheels)
    guest.exec("rm -rf /tmp/pipx /tmp/wheels; sudo rm -rf /opt/pipx")
    guest.push(pipx, "/tmp/pipx")
    guest.push(wheels, "/tmp/wheels")

    index = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/tmp/wheels"
    where = "PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin PYTHONPATH=/tmp/pipx"
    command = f"sudo env {index} {where} python3 -m pipx"
    product = f"/tmp/wheels/{wheel.name}"
    guest.exec(f"{command} install --system-site-packages {product}", timeout=600)
    try:
        with Capture(guest) as capture, background(guest, "serve") as (_, server):
            traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
            capture.wait_for(lambda line: token in str(line.get("url")), 2)
            assert guest.exec("readlink /usr/local/bin/http-profiler").stdout.startswith("/opt/")
            assert capture.stop()
            assert capture.exit_code == 0
    finally:
        guest.exec(f"{command} uninstall http-profiler", timeout=300)
    guest.exec("test ! -e /usr/local/bin/http-profiler")


def play(guest: Guest, options: dict[str, str]) -> int:
    """Run the playbook on a guest; return how many tasks changed something."""
    address = guest.address
    ssh = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    ssh += [word for key in address.keys for word in ("-i", str(key))]
    variables = {
        "ansible_host": address.host,
        "ansible_port": address.port,
        "ansible_user": address.user,
        "ansible_ssh_common_args": shlex.join(ssh),
        **options,
    }
    done = subprocess.run(
        [find_ansible(), "--inventory", "guest,", f"--extra-vars={json.dumps(variables)}",
         ANSIBLE / "fleet.yml"],
        env={**os.environ, "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.rpartition("changed=")[2].split()[0])
