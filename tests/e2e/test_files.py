# SPDX-License-Identifier: Apache-2.0
"""What a capture opens as root, against another user of the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import background, traffic
from tests.e2e.test_trouble import fails
from tests.records import read_records

pytestmark = pytest.mark.one_guest("debian-12")

# What the kernel itself refuses in sticky directories (proc_sys_fs(5)), depending on the machine.
PROTECTIONS = [f"fs.protected_{kind}" for kind in ("symlinks", "hardlinks", "fifos", "regular")]


@pytest.fixture
def unprotected(guest: Guest) -> Iterator[None]:
    """Switch the kernel's own protections off, so that only the profiler's count."""
    values = guest.exec(["sudo", "sysctl", *PROTECTIONS]).stdout.replace(" ", "").split()
    guest.exec(["sudo", "sysctl", "-q", *(f"{name}=0" for name in PROTECTIONS)])
    yield
    guest.exec(["sudo", "sysctl", "-q", *values])


@pytest.fixture
def directory(guest: Guest, token: str) -> Iterator[str]:
    """A directory of root, in one that the group of another user can write to."""
    above = f"/srv/{token}"
    guest.exec(f"sudo install -d -m 775 -g nogroup {above} && sudo install -d {above}/logs")
    yield f"{above}/logs"
    guest.exec(f"sudo rm -rf {above}")


def as_nobody(guest: Guest, script: str) -> None:
    guest.exec(["sudo", "-u", "nobody", "sh", "-ec", script])


@pytest.mark.usefixtures("unprotected")
def test_nothing_of_another_user_is_opened(guest: Guest, token: str, directory: str) -> None:
    path, target = f"/tmp/{token}", f"{directory}/target"
    guest.exec(f"echo precious | sudo tee {target}")
    as_nobody(
        guest,
        f"ln -s {target} {path}.link; mkfifo {path}.fifo; touch {path}.file; mkdir {path}.d",
    )
    for name in ("link", "fifo", "file", "d/out"):
        line = fails(guest, f"sudo http-profiler --output {path}.{name}")
        assert "belongs to nobody" in line, name
        assert line.endswith("or choose another --output"), name
    for option in ("--record", "--stats"):
        line = fails(guest, f"sudo http-profiler --output /dev/null {option} {path}.link")
        assert "belongs to nobody" in line and option in line
    # A file of root, but no recording.
    assert "other content" in fails(guest, f"sudo http-profiler --record {target}")
    assert guest.exec(["sudo", "cat", target]).stdout == "precious\n"


@pytest.mark.usefixtures("unprotected")
def test_a_rename_does_not_redirect_a_capture(guest: Guest, token: str, directory: str) -> None:
    moved, victim = f"{directory}.moved", f"{directory}.victim"
    guest.exec(f"sudo install -d {victim}")
    with (
        background(guest, "serve") as (_, server),
        Capture(guest, output=f"{directory}/out") as capture,
    ):
        where = ("127.0.0.1", server["port"])
        traffic(guest, "requests", *where, f"GET:/{token}/first")
        capture.wait_for(lambda r: r.get("request", {}).get("url") == f"/{token}/first", 2)
        as_nobody(guest, f"mv {directory} {moved}; ln -s {victim} {directory}")
        guest.exec(f"sudo mv {moved}/out {moved}/out.1")
        capture.output = f"{moved}/out.1"
        traffic(guest, "requests", *where, f"GET:/{token}/second")
        capture.stop()
        assert capture.exit_code == 0
    assert guest.exec(f"sudo ls {victim}").stdout == ""
    records = read_records(guest.exec(f"sudo cat {moved}/out").stdout)
    assert f"/{token}/second" in [record.get("url") for record in records]


def test_what_others_could_read_becomes_private(guest: Guest, token: str, directory: str) -> None:
    """What logrotate creates, too. The user who called sudo may name a directory of their own."""
    output, stats = f"{directory}/out", f"{directory}/stats"
    home = guest.exec("mkdir -p ~/captures && cd ~/captures && pwd && id -u && stat -c %u .").stdout
    own, uid, owner = home.split()
    assert uid == owner != "0"
    guest.exec(f"sudo touch {stats}; sudo chmod 644 {stats}")
    options = ("--stats", stats, "--record", f"{own}/{token}.capture")
    with (
        background(guest, "serve") as (_, server),
        Capture(guest, *options, output=output) as capture,
    ):
        where = ("127.0.0.1", server["port"])
        traffic(guest, "requests", *where, f"GET:/{token}/first")
        capture.wait_for(lambda r: r.get("request", {}).get("url") == f"/{token}/first", 2)
        # As logrotate does with `create 0644`; the guest has no logrotate.
        guest.exec(f"sudo mv {output} {output}.1 && sudo install -m 644 /dev/null {output}")
        capture.output = f"{output}.1"
        traffic(guest, "requests", *where, f"GET:/{token}/second")
        deadline = time.monotonic() + 60
        while f"{output} had mode 0644" not in capture.said:
            assert time.monotonic() < deadline, capture.said
            time.sleep(0.1)
        capture.stop()
        assert capture.exit_code == 0
    assert capture.said.count(f"{stats} had mode 0644; now it is 0600") == 1
    modes = guest.exec(f"sudo stat -c %a {output} {stats} {own}/{token}.capture").stdout
    assert modes.split() == ["600"] * 3
    assert f"/{token}/second" in guest.exec(f"sudo cat {output}").stdout
