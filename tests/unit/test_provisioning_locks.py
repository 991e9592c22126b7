# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from provisioning import locks
from provisioning.catalog import load_catalog
from provisioning.errors import BuildFailed, CatalogError
from provisioning.installed import Installed, installed_in
from provisioning.locks import differences, pins, read_lock, summary, write_lock

STATUS = """\
Package: bash
Status: install ok installed
Version: 5.2-1
Description: a shell
 Version: not this

Package: linux-image-6.1.0-9-cloud-amd64
Status: hold ok installed
Version: 6.1.27-1

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libc6
Status: install ok installed
Version: 2.36-9
"""

EXTENDED = """\
Package: libc6
Architecture: amd64
Auto-Installed: 1
"""


@pytest.fixture
def tree(tmp_path):
    files = {
        "var/lib/dpkg/status": STATUS,
        "var/lib/apt/extended_states": EXTENDED,
        "boot/vmlinuz-6.1.0-9-cloud-amd64": "",
        "opt/tool/lib/python3.11/site-packages/Flask-3.1.dist-info/METADATA": (
            "Metadata-Version: 2.1\nName: Flask\nVersion: 3.1\n"
        ),
        "opt/other/readme": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A directory for locks without any."""
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "locks")
    return tmp_path / "locks"


def test_what_is_installed_in_a_tree(tree):
    assert installed_in(tree) == Installed(
        kernel="6.1.0-9-cloud-amd64",
        asked=("bash", "linux-image-6.1.0-9-cloud-amd64"),
        packages={
            "bash": "5.2-1",
            "libc6": "2.36-9",
            "linux-image-6.1.0-9-cloud-amd64": "6.1.27-1",
        },
        python={"/opt/tool": {"flask": "3.1"}},
    )


def test_a_tree_with_two_kernels_is_rejected(tree):
    (tree / "boot" / "vmlinuz-6.2").touch()
    with pytest.raises(BuildFailed, match="expected one kernel in its /boot, found 2"):
        installed_in(tree)


def test_a_lock_is_read_as_it_was_written(tree, empty):
    installed = installed_in(tree)
    path = write_lock("debian-12", installed)
    assert path == empty / "debian-12.json"
    assert read_lock("debian-12") == installed
    assert read_lock("debian-13") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_the_error_for_a_broken_lock_has_a_remedy(empty, text):
    empty.mkdir()
    (empty / "debian-12.json").write_text(text)
    with pytest.raises(CatalogError, match=r"is not a lock file: remove it and run .* debian-12"):
        read_lock("debian-12")


def test_pip_is_pinned_in_each_environment(tree):
    assert pins(installed_in(tree)) == {"/opt/tool": ["flask==3.1"]}
    assert pins(None) == {}


def test_differences_are_named():
    found = differences({"a": "1", "b": "1", "d": "1"}, {"a": "1", "b": "2", "c": "1"})
    assert [str(one) for one in found] == ["b 1 -> 2", "c not there -> 1", "d 1 -> not there"]
    assert differences({"a": "1"}, {"a": "1"}) == []


def test_many_differences_are_one_line():
    few = differences({}, {"a": "1"})
    many = differences({}, dict.fromkeys("abcde", "1"))
    assert summary(few) == "versions that differ from the lock (1): a not there -> 1"
    assert summary(many).startswith("versions that differ from the lock (5): a ")
    assert summary(many).endswith(", ...")
    assert "\n" not in summary(many)


def test_the_locks_of_this_repository_are_of_its_guests():
    catalog = load_catalog()
    found = sorted(path.stem for path in locks.LOCKS.glob("*.json"))
    assert found == ["debian-11", "debian-12", "debian-13", "debian-13-bench", "debian-14"]
    for name in found:
        lock = read_lock(name)
        assert lock.kernel.startswith(catalog[name].kernel)
        # The kernel and headers are of one release, and the product's packages are pinned.
        assert f"linux-headers-{lock.kernel}" in lock.packages
        assert any(package.endswith(lock.kernel) for package in lock.packages if "image" in package)
        assert "orjson" in lock.python["/opt/http-profiler"]
        assert "python3-bpfcc" in lock.asked
        # A build elsewhere leaves no trace of the place.
        assert json.dumps(lock.document()).count("://") == 0
