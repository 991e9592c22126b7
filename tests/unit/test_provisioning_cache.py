# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from provisioning import cache, image, locks, relock, sources
from provisioning.cache import (
    digest,
    digest_files,
    locked,
    made_aside,
    prune,
    remove_leftovers,
    source_files,
    write_whole,
)
from provisioning.catalog import find_guest
from provisioning.errors import ArchiveUnreachable
from provisioning.host import REPOSITORY
from provisioning.installed import Installed
from provisioning.manifest import read_manifest


def contents(directory):
    return [path.name for path in directory.iterdir()]


def test_only_a_complete_artifact_has_its_name(tmp_path):
    final = tmp_path / "images" / "thing"
    with made_aside(final) as aside:
        (aside / "disk").write_text("whole")
        assert not final.exists()
        assert aside.parent == final.parent
    assert (final / "disk").read_text() == "whole"
    assert contents(tmp_path / "images") == ["thing"]


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_artifact_leaves_nothing(tmp_path, end):
    with pytest.raises(end), made_aside(tmp_path / "thing") as aside:
        (aside / "disk").write_text("half")
        raise end
    assert contents(tmp_path) == []


def test_leftovers_of_a_killed_run_are_removed_by_the_next(tmp_path):
    script = (
        "import os, pathlib, sys; from provisioning.cache import made_aside\n"
        "with made_aside(pathlib.Path(sys.argv[1])) as aside:\n"
        "    (aside / 'disk').write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    final = tmp_path / "debian-12-0123456789abcdef"
    subprocess.run([sys.executable, "-c", script, str(final)], cwd=REPOSITORY, check=False)
    assert len(contents(tmp_path)) == 1
    assert not final.exists()
    other = tmp_path / ".debian-12-bench-0123456789abcdef.1.tmp"
    other.mkdir()
    remove_leftovers(tmp_path, "debian-12")
    assert contents(tmp_path) == [other.name]


def test_old_images_of_one_guest_are_removed(tmp_path):
    names = [f"debian-12-{n:016x}" for n in range(4)] + ["debian-12-x", f"debian-13-{0:016x}"]
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert sorted(prune(tmp_path, "debian-12", 2)) == [tmp_path / names[2], tmp_path / names[3]]
    assert sorted(contents(tmp_path)) == sorted([*names[:2], *names[4:]])


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "sub" / "file"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two"
    assert contents(path.parent) == ["file"]


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path):
    path = tmp_path / "lock"
    with locked(path), pytest.raises(BlockingIOError), locked(path, wait=False):
        pytest.fail("held twice")
    assert not path.exists()


def test_workers_get_a_lock_one_after_the_other(tmp_path):
    script = (
        "import pathlib, sys, time; from provisioning.cache import locked\n"
        "log = pathlib.Path(sys.argv[1]) / 'log'\n"
        "for _ in range(20):\n"
        "    with locked(log.with_name('lock')):\n"
        "        with log.open('a') as file: file.write('in\\n')\n"
        "        time.sleep(0.001)\n"
        "        with log.open('a') as file: file.write('out\\n')\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY)
        for _ in range(3)
    ]
    assert [worker.wait(30) for worker in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 60
    assert contents(tmp_path) == ["log"]


def test_the_name_follows_the_recipe_and_nothing_else():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_files_count_by_name_mode_and_content_but_not_by_time(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    first = digest_files(tmp_path, [tmp_path])
    os.utime(file, (1, 1))
    assert digest_files(tmp_path, [tmp_path]) == first
    file.chmod(0o755)
    assert digest_files(tmp_path, [tmp_path]) != first
    file.chmod(0o644)
    file.write_text("other")
    assert digest_files(tmp_path, [tmp_path]) != first


def test_files_of_python_and_editors_do_not_count(tmp_path):
    for name in ("code.py", "__pycache__/code.cpython-311.pyc", ".swap", ".mypy_cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert source_files(tmp_path) == [tmp_path / "code.py"]
    assert source_files(tmp_path / "missing") == []


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A small copy of the repository, with its own cache."""
    root = tmp_path / "repository"
    for name in ("profiler", "bpf", "demo", "loadtest"):
        (root / name).mkdir(parents=True)
        (root / name / "code").write_text(name)
    for name in ("demo", "loadtest"):
        (root / name / "requirements.txt").write_text("flask\n")
    (root / "pyproject.toml").write_text('[project]\nversion = "1"\ndependencies = ["orjson"]\n')
    monkeypatch.setenv("HTTP_PROFILER_CACHE", str(tmp_path / "cache"))
    for module in (sources, image):
        monkeypatch.setattr(module, "REPOSITORY", root)
    monkeypatch.setattr(sources, "PYPROJECT", root / "pyproject.toml")
    monkeypatch.setattr(image, "public_key", lambda: "key")
    monkeypatch.setattr(image, "find_tool", lambda name, package: name)
    return root


def names(repository):
    spec = find_guest("debian-12")
    return image.system_tree(spec).name, image.image_of(spec, repository).directory.name


@pytest.mark.parametrize(
    ("file", "text", "rebuilds"),
    [
        ("profiler/code", "changed", "the image"),
        ("bpf/code", "changed", "the image"),
        ("demo/code", "changed", "the image"),
        ("pyproject.toml", '[project]\nversion = "2"\ndependencies = ["orjson"]\n', "the image"),
        ("pyproject.toml", '[project]\nversion = "1"\ndependencies = []\n', "both"),
        ("demo/requirements.txt", "flask>2\n", "both"),
        ("notes", "changed", "nothing"),
    ],
)
def test_a_change_rebuilds_what_it_must(repository, file, text, rebuilds):
    system, whole = names(repository)
    (repository / file).write_text(text)
    changed = tuple(a != b for a, b in zip(names(repository), (system, whole)))
    assert (
        changed
        == {
            "nothing": (False, False),
            "the image": (False, True),
            "both": (True, True),
        }[rebuilds]
    )


def test_a_copy_of_the_product_gives_the_same_name(repository, tmp_path):
    copy = sources.copy_product(tmp_path / "copy")
    assert sources.product_inputs(copy) == sources.product_inputs(repository)


def test_an_existing_image_needs_no_build(repository, monkeypatch):
    monkeypatch.setattr(image, "build", lambda spec: pytest.fail("built"))
    monkeypatch.setattr(image, "made_as_root", lambda spec, what: pytest.fail("built"))
    spec = find_guest("debian-12")
    made = image.image_of(spec, repository).directory
    made.mkdir(parents=True)
    monkeypatch.setattr(image, "image_of", lambda spec: image.Image(made))
    os.utime(made, (1, 1))
    assert image.ensure_image(spec).directory == made
    assert made.stat().st_mtime > time.time() - 60


def test_a_build_that_fails_leaves_nothing_to_reuse(repository, monkeypatch, tmp_path):
    def half(spec, tree, log, pinned):
        with cache.made_aside(tree) as aside:
            (aside / "half").touch()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(image, "build_system", half)
    with pytest.raises(image.BuildFailed, match="No space left on device"):
        image.build(find_guest("debian-12"))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept == []
    assert contents(tmp_path / "cache" / "systems") == []


def test_a_full_disk_is_reported_before_the_build(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(image, "build_system", lambda *a: pytest.fail("begun"))
    free = namedtuple("usage", "free")(int(1.5 * 2**30))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: free)
    with pytest.raises(
        image.BuildFailed,
        match=r"^debian-12: 1\.5 GiB are free in .*/cache, but a build needs 5: free some, or",
    ):
        image.build(find_guest("debian-12"))


def fake_build(monkeypatch, versions):
    """Replace the build of a system by an instant one, with ``versions`` of Python packages."""
    pinned = []

    def system(spec, tree, log, pins):
        pinned.append(pins)
        tree.mkdir(parents=True)

    installed = Installed("6.1", (), {"bash": "1"}, {"/opt/tool": versions})
    for module in (image, relock):
        monkeypatch.setattr(module, "build_system", system)
        monkeypatch.setattr(module, "installed_in", lambda tree: installed)
        monkeypatch.setattr(module, "play", lambda *a: pinned.append(a[-1]))
    return pinned


def test_a_lock_has_the_newest_versions_and_keeps_its_build(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "locks")
    spec = find_guest("debian-12")
    old = Installed("6.0", (), {}, {"/opt/tool": {"flask": "3.0"}})
    locks.write_lock(spec.name, old)
    before = image.system_tree(spec)
    pinned = fake_build(monkeypatch, {"flask": "3.1"})
    with image.building(spec) as log:
        relock.build_and_lock(spec, log)
    # First the newest versions are found, without pins; then those are pinned.
    assert pinned == [{}, {"/opt/tool": ["flask==3.1"]}]
    assert locks.read_lock(spec.name).python == {"/opt/tool": {"flask": "3.1"}}
    assert image.system_tree(spec) != before
    assert contents(tmp_path / "cache" / "systems") == [image.system_tree(spec).name]


def test_a_lock_that_fails_leaves_the_old_one_and_no_tree(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "locks")
    spec = find_guest("debian-12")
    old = Installed("6.0", (), {}, {"/opt/tool": {"flask": "3.0"}})
    locks.write_lock(spec.name, old)
    fake_build(monkeypatch, {"flask": "3.1"})

    def no(*arguments):
        raise image.BuildFailed("pip finds nothing")

    monkeypatch.setattr(relock, "play", no)
    with pytest.raises(image.BuildFailed), image.building(spec) as log:
        relock.build_and_lock(spec, log)
    assert locks.read_lock(spec.name) == old
    assert contents(tmp_path / "cache" / "systems") == []


@pytest.mark.parametrize(
    ("found", "says"),
    [("3.1", ""), ("3.2", "debian-12: versions that differ from the lock (1): /opt/tool: flask")],
)
def test_a_build_reports_differences_from_the_lock_and_continues(
    repository, monkeypatch, tmp_path, capsys, found, says
):
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "locks")
    locks.write_lock(
        "debian-12", Installed("6.1", (), {"bash": "1"}, {"/opt/tool": {"flask": "3.1"}})
    )
    fake_build(monkeypatch, {"flask": found})
    monkeypatch.setattr(image, "product_variables", lambda *a: {})
    monkeypatch.setattr(image, "run", lambda *a, **k: None)
    monkeypatch.setattr(image, "boot_file", lambda *a: __file__)
    made = image.build(find_guest("debian-12"))
    manifest = read_manifest(made.directory)
    assert manifest.installed.python == {"/opt/tool": {"flask": found}}
    assert manifest.inputs["locked Python packages"] == {"/opt/tool": ["flask==3.1"]}
    said = [line for line in capsys.readouterr().err.splitlines() if "lock" in line]
    assert len(said) == bool(says)
    assert all(line.startswith(says) for line in said)


@pytest.mark.parametrize("build", [image.build, lambda spec: image.made_as_root(spec, "build")])
def test_an_unreachable_archive_is_not_a_failed_build(repository, monkeypatch, build):
    monkeypatch.setattr(image, "archive_trouble", lambda spec: "no answer within 8 s")
    with pytest.raises(ArchiveUnreachable, match="debian-12 is unreachable: no answer within 8 s"):
        build(find_guest("debian-12"))
