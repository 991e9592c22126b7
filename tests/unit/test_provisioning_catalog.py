# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from provisioning import catalog
from provisioning.architecture import KNOWN, host_architecture
from provisioning.catalog import default_guest, find_guest, load_catalog, parse_catalog
from provisioning.errors import CatalogError, ProvisioningError, UnknownGuest

GUEST = """
[debian-12]
distribution = "debian"
suite = "bookworm"
components = ["main"]
kernel = "6.1."
kernel_package = "linux-image-cloud-{arch}"
python = "3.11"
memory = 2048
cpus = 2
"""


@pytest.fixture(autouse=True)
def no_remembered_archives():
    catalog.archive_trouble.cache_clear()


@pytest.mark.parametrize("machine", KNOWN)
def test_the_kernel_package_follows_the_architecture(machine):
    architecture = host_architecture(machine)
    spec = parse_catalog(GUEST, architecture)["debian-12"]
    assert spec.kernel_package == f"linux-image-cloud-{architecture.debian}"
    assert spec.components == ("main",)


def test_the_required_guests():
    kernels = {name: spec.kernel for name, spec in load_catalog().items()}
    assert kernels["debian-12"] == "6.1."
    assert kernels["debian-13"] == "6.12."
    assert kernels["ubuntu-24.04"] == "6.8."
    assert kernels["ubuntu-22.04"] == "5.15."


def test_ubuntu_comes_first():
    names = list(load_catalog())
    assert names[:4] == ["ubuntu-24.04", "ubuntu-26.04", "ubuntu-22.04", "ubuntu-20.04"]
    assert all(name.startswith("debian-") for name in names[4:])


def test_the_releases_of_ubuntu():
    rows = {name: (row.suite, row.kernel, row.python) for name, row in load_catalog().items()}
    assert rows["ubuntu-20.04"] == ("focal", "5.4.", "3.8")
    assert rows["ubuntu-26.04"] == ("resolute", "7.0.", "3.14")
    # python3.9 and python3-bpfcc exist there.
    assert "universe" in find_guest("ubuntu-20.04").components


def test_an_additional_python_makes_the_environments_where_the_system_s_is_too_old():
    assert find_guest("ubuntu-20.04").venv_python == "python3.9"
    others = [row for row in load_catalog().values() if row.name != "ubuntu-20.04"]
    assert {row.venv_python for row in others} == {"python3"}
    assert all(tuple(map(int, row.python.split("."))) >= (3, 9) for row in others)


def test_the_recipe_has_what_shapes_an_image():
    spec = find_guest("debian-12")
    assert spec.containers
    for change in (
        {"containers": False},
        {"mesh": True},
        {"benchmarks": True},
        {"product_python": "3.12"},
        {"suite": "trixie"},
    ):
        assert catalog.recipe(replace(spec, **change)) != catalog.recipe(spec)
    for change in ({"memory": 1}, {"cpus": 1}, {"archive_expired": True}):
        assert catalog.recipe(replace(spec, **change)) == catalog.recipe(spec)


def test_the_oldest_and_the_newest_kernel():
    catalog = load_catalog()
    assert (catalog["debian-11"].kernel, catalog["debian-11"].python) == ("5.10.", "3.9")
    assert (catalog["debian-14"].kernel, catalog["debian-14"].python) == ("7.", "3.14")


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("", ((), ())),
        ("archive_expired = true", (('--aptopt=Acquire::Check-Valid-Until "false"',), ())),
        ("archive_expired = false", ((), ())),
        ("without_security = true", ((), (catalog.WITHOUT_SECURITY,))),
    ],
)
def test_options_of_an_archive_apply_to_their_guest_only(key, options):
    spec = parse_catalog(GUEST + key, host_architecture("x86_64"))["debian-12"]
    assert (spec.apt_options, spec.hooks) == options


def test_without_security_leaves_the_other_archives(tmp_path):
    sources = tmp_path / "etc" / "apt" / "sources.list"
    sources.parent.mkdir(parents=True)
    wanted = "deb http://a.test/debian old main\ndeb http://a.test/debian old-updates main\n"
    sources.write_text(wanted + "deb http://b.test/security old-security main\n")
    hook = catalog.WITHOUT_SECURITY.partition("=")[2]
    # In the way mmdebstrap runs a hook.
    subprocess.run(["sh", "-c", hook, "exec", str(tmp_path)], check=True)
    assert sources.read_text() == wanted


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("cpus = 2", "cpus = 2\ncores = 2"), "unknown key 'cores' of guest debian-12"),
        (("cpus = 2", 'cpus = "2"'), "cpus of guest debian-12 is '2', not a int"),
        (("cpus = 2", "cpus = true"), "cpus of guest debian-12 is True"),
        (("cpus = 2", "cpus = 0"), "cpus of guest debian-12 is 0, below 1"),
        (("cpus = 2", ""), "guest debian-12 has no cpus"),
        (
            ("cpus = 2", "cpus = 2\narchive_expired = 1"),
            "archive_expired of guest debian-12 is 1, not a bool",
        ),
        (('"debian"', '"fedora"'), "distribution of guest debian-12 is 'fedora'"),
        (("[debian-12]", "[debian-12"), "is not TOML"),
        (("[debian-12]", ""), "distribution is outside any guest"),
    ],
)
def test_a_mistake_in_the_table_is_named(change, says):
    with pytest.raises(CatalogError) as caught:
        parse_catalog(GUEST.replace(*change), host_architecture("x86_64"))
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_error_for_an_unknown_guest_lists_the_known_ones():
    with pytest.raises(UnknownGuest, match=r"unknown guest 'debian-99'.*debian-12"):
        find_guest("debian-99")


def test_an_instance_is_of_its_guest():
    assert find_guest("debian-12@gw0") == find_guest("debian-12")


def test_an_unknown_processor_is_an_error():
    with pytest.raises(ProvisioningError, match="no guests for a s390x host"):
        host_architecture("s390x")


def test_ubuntu_is_the_default_where_its_archive_answers(monkeypatch):
    monkeypatch.setattr(catalog, "archive_trouble", lambda spec: None)
    choice = default_guest()
    assert choice.spec.name == "ubuntu-24.04"
    assert "its archive answers" in choice.reason


def test_debian_is_the_default_elsewhere_with_the_reason(monkeypatch):
    monkeypatch.setattr(catalog, "archive_trouble", lambda spec: "no answer within 8 s")
    choice = default_guest()
    assert choice.spec.name == "debian-12"
    assert choice.reason == "using debian-12: ubuntu-24.04 is unreachable (no answer within 8 s)"


def stand_in(monkeypatch, tmp_path, script):
    program = tmp_path / "mmdebstrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(catalog.shutil, "which", lambda name: str(program))


def test_an_archive_that_answers(monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "exit 0")
    assert catalog.archive_trouble(find_guest("ubuntu-24.04")) is None


def test_an_archive_without_its_key(monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "echo 'E: The repository ... is not signed.'; exit 1")
    trouble = catalog.archive_trouble(find_guest("ubuntu-24.04"))
    assert trouble == "this host lacks the key of the ubuntu archive"


def test_an_archive_that_refuses(monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "echo 'I: running'; echo 'E: Could not resolve it'; exit 1")
    assert catalog.archive_trouble(find_guest("ubuntu-24.04")) == "Could not resolve it"


def test_an_expired_archive_is_accepted_if_the_guest_permits_it(monkeypatch, tmp_path):
    # Prints what mmdebstrap prints for an expired list, unless told to ignore the date.
    stand_in(
        monkeypatch,
        tmp_path,
        "case \"$*\" in *Check-Valid-Until*) exit 0;; esac; echo 'E: it is expired'; exit 1",
    )
    assert catalog.archive_trouble(find_guest("debian-14")) is None
    assert catalog.archive_trouble(find_guest("debian-13")) == "it is expired"


def test_all_processes_of_an_archive_query_end_after_its_timeout(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "ARCHIVE_TIMEOUTS", (0.3, 0.4))
    # A process that is still running keeps the pipe open.
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    stand_in(
        monkeypatch, tmp_path, f"exec 9> {tmp_path}/alive; echo >&9; sleep 60 > /dev/null & wait"
    )
    assert "no answer within" in catalog.archive_trouble(find_guest("ubuntu-24.04"))
    asked = b""
    while piece := os.read(reader, 100):
        asked += piece
    os.close(reader)
    assert asked == b"\n\n"


def test_an_archive_that_is_slow_once_is_not_unreachable(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "ARCHIVE_TIMEOUTS", (0.5, 60.0))
    # The first mkdir succeeds, later ones fail.
    stand_in(monkeypatch, tmp_path, f"mkdir {tmp_path}/asked 2>&1 || exit 0; exec sleep 60")
    assert catalog.archive_trouble(find_guest("ubuntu-24.04")) is None


def test_without_mmdebstrap_no_archive_can_be_used(monkeypatch):
    monkeypatch.setattr(catalog.shutil, "which", lambda name: None)
    trouble = catalog.archive_trouble(find_guest("ubuntu-24.04"))
    assert trouble == "mmdebstrap is not installed"


def test_benchmarks_have_a_guest_of_their_own():
    found = [row for row in load_catalog().values() if row.benchmarks]
    assert [row.name for row in found] == ["debian-13-bench"]
    # icount works with one processor only.
    assert found[0].cpus == 1
    like = find_guest("debian-13")
    assert (found[0].suite, found[0].kernel) == (like.suite, like.kernel)
