# SPDX-License-Identifier: Apache-2.0
"""The compiler is a stand-in that counts its calls; the files are real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from profiler.errors import ProbeError
from profiler.ingest.probe import compiled


class StandInCompiler:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(
        self, source: str, names: list[str], what: str, *, with_headers: bool
    ) -> dict[str, bytes]:
        self.asked += 1
        if "wrong" in source:
            raise ProbeError(what)
        return {name: f"{source} {name}".encode() for name in names}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandInCompiler:
    stand_in = StandInCompiler()
    bcc = tmp_path / "bcc.py"
    bcc.touch()
    monkeypatch.setattr(compiled, "compile_functions", stand_in)
    monkeypatch.setattr(compiled, "compiler_file", lambda: bcc)
    return stand_in


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def get(
    directory: Path, source: str = "text", *names: str, headers: bool = False
) -> dict[str, bytes]:
    return compiled.compiled_functions(
        source, names or ("f", "g"), "no", with_headers=headers, directory=directory
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files that are root's")


@needs_root
def test_the_second_time_nothing_is_compiled(compiler: StandInCompiler, directory: Path) -> None:
    first = get(directory)
    assert first == {"f": b"text f", "g": b"text g"}
    assert get(directory, "text", "g", "f") == first
    assert compiler.asked == 1
    assert len(list(directory.iterdir())) == 1


@needs_root
def test_different_inputs_are_compiled(
    compiler: StandInCompiler, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(directory)
    get(directory, "other text")
    get(directory, "text", "f")
    get(directory, headers=True)
    assert compiler.asked == 4
    # Another kernel has other headers; without headers nothing differs.
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result([*uname[:2], "9.9", *uname[3:]]))
    get(directory)
    assert compiler.asked == 4
    get(directory, headers=True)
    assert compiler.asked == 5
    # Another version of BCC.
    os.utime(tmp_path / "bcc.py", (1, 1))
    get(directory)
    assert compiler.asked == 6


@needs_root
@pytest.mark.parametrize("damage", ["half", "other bytes", "empty", "no text"])
def test_a_damaged_file_is_replaced(
    compiler: StandInCompiler, directory: Path, damage: str
) -> None:
    whole = get(directory)
    (kept,) = directory.iterdir()
    content = kept.read_bytes()
    changed = {
        "half": content[: len(content) // 2],
        "other bytes": content.replace(b"a", b"b"),
        "empty": b"",
        "no text": b"\xff\n\xff",
    }
    kept.write_bytes(changed[damage])
    assert get(directory) == whole
    assert compiler.asked == 2
    assert kept.read_bytes() == content


@needs_root
@pytest.mark.parametrize("what", ["owner", "mode", "directory's owner", "directory's mode", "link"])
def test_files_others_can_write_are_not_used(
    compiler: StandInCompiler, directory: Path, tmp_path: Path, what: str
) -> None:
    get(directory)
    (kept,) = directory.iterdir()
    if what == "link":
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
    else:
        path = directory if "directory" in what else kept
        os.chown(path, 1234, -1) if "owner" in what else path.chmod(0o777)
    get(directory)
    assert compiler.asked == 2
    if "directory" in what:  # and nothing is stored there
        get(directory, "other text")
        assert list(directory.iterdir()) == [kept]


@needs_root
def test_the_most_recently_used_are_kept(
    compiler: StandInCompiler, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_KEPT", 2)
    for source in ("one", "two"):
        get(directory, source)
    for number, path in enumerate(sorted(directory.iterdir())):
        os.utime(path, (number, number))
    get(directory, "one")  # now the most recently used
    get(directory, "three")
    assert len(list(directory.iterdir())) == 2
    get(directory, "one")
    assert compiler.asked == 3


def test_without_a_writable_cache(compiler: StandInCompiler, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert get(tmp_path / "file" / "kept") == {"f": b"text f", "g": b"text g"}
    assert compiler.asked == 2


def test_a_failed_compilation_is_not_cached(compiler: StandInCompiler, directory: Path) -> None:
    with pytest.raises(ProbeError, match="no"):
        get(directory, "wrong")
    assert not directory.exists()
