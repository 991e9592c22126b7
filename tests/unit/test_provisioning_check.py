# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess

import pytest

from provisioning import check as check_module
from provisioning import image, locks
from provisioning.__main__ import main
from provisioning.catalog import find_guest
from provisioning.check import CANNOT_TELL, DIFFERS, SAME, changes, check, query_archive
from provisioning.errors import ArchiveUnreachable
from provisioning.image import Image
from provisioning.installed import Installed
from provisioning.manifest import Manifest, latest_manifest

KERNEL = "linux-image-6.1.0-9-cloud-amd64"
PACKAGES = {"bash": "5.2-1", KERNEL: "6.1.27-1"}
INSTALLED = Installed("6.1.0-9-cloud-amd64", ("bash",), PACKAGES, {"/opt/tool": {"flask": "3.1"}})
INPUTS = {"guest": {"suite": "bookworm"}, "ansible": {"site.yml": "-abc"}, "disk": ["6G", "-t"]}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A guest that is built and locked, and an archive with exactly those packages."""
    spec = find_guest("debian-12")
    built = Image(tmp_path / "image")
    built.directory.mkdir()
    Manifest(INPUTS, INSTALLED).write(built.directory)
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "locks")
    locks.write_lock(spec.name, INSTALLED)
    state = {"image": built, "inputs": INPUTS, "archive": dict(PACKAGES)}
    monkeypatch.setattr(check_module, "image_of", lambda spec: state["image"])
    monkeypatch.setattr(check_module, "image_inputs_of", lambda spec: state["inputs"])

    def ask(spec, reference):
        if isinstance(state["archive"], Exception):
            raise state["archive"]
        return state["archive"]

    monkeypatch.setattr(check_module, "query_archive", ask)
    return state


def answer():
    lines = []
    return check(find_guest("debian-12"), lines.append), lines


def test_nothing_changed(world):
    status, lines = answer()
    assert status == SAME == 0
    assert lines == [
        f"kernel locked: {KERNEL} 6.1.27-1",
        f"kernel in the archive: {KERNEL} 6.1.27-1",
        "a rebuild would be the same: 3 versions as locked",
    ]


def test_reports_a_newer_kernel_in_the_archive(world):
    del world["archive"][KERNEL]
    world["archive"]["linux-image-6.1.0-10-cloud-amd64"] = "6.1.30-1"
    status, lines = answer()
    assert status == DIFFERS == 1
    assert "kernel in the archive: linux-image-6.1.0-10-cloud-amd64 6.1.30-1" in lines
    assert f"the archive does not have what is locked: {KERNEL} 6.1.27-1 -> not there" in lines
    assert lines[-1].startswith("a rebuild would differ: see 2 of the lines")


def test_inputs_that_changed_are_listed(world):
    world["inputs"] = {
        "guest": {"suite": "trixie"},
        "ansible": {"site.yml": "-abc", "new.yml": "-"},
        "key": "k",
    }
    status, lines = answer()
    assert status == DIFFERS
    assert [line for line in lines if line.startswith("input")] == [
        "input added: ansible new.yml",
        "input removed: disk",
        "input changed: guest suite",
        "input added: key",
    ]


def test_inputs_are_the_same_after_a_manifest():
    before = json.loads(json.dumps({"components": ["main"]}))
    assert changes(before, {"components": ("main",)}) == []


def test_an_image_that_differs_from_the_lock(world):
    other = Installed(INSTALLED.kernel, (), PACKAGES, {"/opt/tool": {"flask": "3.2"}})
    Manifest(INPUTS, other).write(world["image"].directory)
    status, lines = answer()
    assert status == DIFFERS
    assert "the image differs from the lock: /opt/tool: flask 3.1 -> 3.2" in lines


def test_an_unreachable_archive_leaves_the_answer_open(world):
    world["archive"] = ArchiveUnreachable("debian-12 is unreachable: no answer within 8 s")
    status, lines = answer()
    assert status == CANNOT_TELL == 125
    assert lines[-1] == (
        "cannot tell what the archive would install: debian-12 is unreachable: no answer within 8 s"
    )


def test_a_difference_is_an_answer_without_the_archive(world):
    world["archive"] = ArchiveUnreachable("debian-12 is unreachable: no answer within 8 s")
    world["inputs"] = {}
    assert answer()[0] == DIFFERS


def test_a_guest_that_is_not_built_is_compared_by_its_lock(world, tmp_path):
    world["image"] = Image(tmp_path / "nothing" / "built")
    status, lines = answer()
    assert status == SAME
    assert lines[0] == "no image is built here: only the lock is checked"


def test_without_a_lock_the_image_is_what_counts(world):
    locks.lock_file("debian-12").unlink()
    world["archive"]["bash"] = "5.3-1"
    status, lines = answer()
    assert status == DIFFERS
    assert "the archive does not have what is built: bash 5.2-1 -> 5.3-1" in lines


def test_without_image_and_lock_there_is_no_answer(world, tmp_path):
    world["image"] = Image(tmp_path / "nothing" / "built")
    locks.lock_file("debian-12").unlink()
    assert answer() == (
        CANNOT_TELL,
        [
            "no image is built here: only the lock is checked",
            "cannot tell: there is no lock either",
        ],
    )


def test_the_command_exits_with_the_answer(world, capsys):
    assert main(["build", "--check", "debian-12"]) == 0
    assert "debian-12: a rebuild would be the same" in capsys.readouterr().out
    world["inputs"] = {}
    assert main(["build", "--check", "debian-12"]) == 1
    world["inputs"] = INPUTS
    world["archive"] = ArchiveUnreachable("unreachable")
    assert main(["build", "--check", "debian-12"]) == 125


@pytest.mark.parametrize(
    ("version", "status", "says"),
    [
        ("3.1", 0, ""),
        (
            "3.2",
            1,
            "debian-12: versions that differ from the lock (1): /opt/tool: flask 3.1 -> 3.2",
        ),
    ],
)
def test_strict_rejects_differences_from_the_lock(
    world, monkeypatch, capsys, version, status, says
):
    other = Installed(INSTALLED.kernel, (), PACKAGES, {"/opt/tool": {"flask": version}})
    Manifest(INPUTS, other).write(world["image"].directory)
    monkeypatch.setattr("provisioning.__main__.ensure_image", lambda spec: world["image"])
    assert main(["build", "debian-12"]) == 0
    assert main(["build", "--strict", "debian-12"]) == status
    assert capsys.readouterr().err.strip() == says


def test_strict_without_a_lock(world, monkeypatch, capsys):
    locks.lock_file("debian-12").unlink()
    monkeypatch.setattr("provisioning.__main__.ensure_image", lambda spec: world["image"])
    assert main(["build", "--strict", "debian-12"]) == 125
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("debian-12 has no lock: run `python -m provisioning lock debian-12`")


def test_the_latest_manifest(tmp_path):
    wanted = tmp_path / f"debian-12-{9:016x}"
    assert latest_manifest(wanted, "debian-12") is None
    for age in (1, 2, 3):
        older = tmp_path / f"debian-12-{age:016x}"
        older.mkdir()
        if age != 1:
            Manifest({"age": age}, INSTALLED).write(older)
        os.utime(older, (1000 - age, 1000 - age))
    assert latest_manifest(wanted, "debian-12").inputs == {"age": 2}
    wanted.mkdir()
    Manifest({"age": 0}, INSTALLED).write(wanted)
    os.utime(wanted, (1, 1))
    assert latest_manifest(wanted, "debian-12") == Manifest({"age": 0}, INSTALLED)


# apt and mmdebstrap as far as the hook uses them; the real ones are tested manually.
APT_CACHE = r"""#!/bin/sh
for name; do case $name in bash|linux-image-cloud-amd64) echo "Package: $name";; esac; done
exit 100
"""
APT_GET = r"""#!/bin/sh
echo "$@" >>"$ARGUMENTS"
echo "NOTE: This is only a simulation!"
for name; do case $name in
bash) echo "Inst bash (5.3-1 Debian:12.15/oldstable [amd64])";;
linux-image-cloud-amd64)
    echo "Inst linux-image-6.1.0-10-cloud-amd64 (6.1.30-1 Debian:12.15/oldstable [amd64]) []"
    echo "Inst linux-image-cloud-amd64 (6.1.30-1 Debian:12.15/oldstable [amd64])";;
linux-headers-*) echo "Inst $name (6.1.30-1 Debian:12.15/oldstable [amd64])";;
esac; done
echo "Conf bash (5.3-1 Debian:12.15/oldstable [amd64])"
"""
MMDEBSTRAP = r"""#!/bin/sh
for option; do case $option in --essential-hook=*)
    MMDEBSTRAP_APT_CONFIG=config sh -c "${option#--essential-hook=}";; esac; done
"""


def test_the_query_requests_the_headers_of_the_archive_s_kernel(tmp_path, monkeypatch):
    for name, text in (("apt-cache", APT_CACHE), ("apt-get", APT_GET), ("mmdebstrap", MMDEBSTRAP)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ARGUMENTS", str(tmp_path / "arguments"))
    monkeypatch.setattr(image, "archive_trouble", lambda spec: None)
    monkeypatch.setattr(check_module, "isolated", list)
    asked = ("bash", "linux-image-cloud-amd64", "linux-headers-6.1.0-9-cloud-amd64", "renamed")
    reference = Installed("6.1.0-9-cloud-amd64", asked, {}, {})
    assert query_archive(find_guest("debian-12"), reference) == {
        "bash": "5.3-1",
        "linux-image-6.1.0-10-cloud-amd64": "6.1.30-1",
        "linux-image-cloud-amd64": "6.1.30-1",
        "linux-headers-6.1.0-10-cloud-amd64": "6.1.30-1",
    }
    # apt would reject the whole request for one package that the archive does not have.
    assert "renamed" not in (tmp_path / "arguments").read_text()


def test_an_unreachable_archive_is_not_queried(monkeypatch):
    monkeypatch.setattr(image, "archive_trouble", lambda spec: "no answer within 8 s")
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("something was run"))
    with pytest.raises(ArchiveUnreachable, match=r"ubuntu-20\.04 is unreachable: no answer"):
        query_archive(find_guest("ubuntu-20.04"), INSTALLED)
