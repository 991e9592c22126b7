# SPDX-License-Identifier: Apache-2.0
"""The package and its parts: manual page, completion and files, tested with their own tools."""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from email import message_from_string
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from packages import deb, vendored
from packages.completion import SHELLS, completion
from packages.man import page
from profiler import __version__, cli
from profiler.commands.parser import commands_of
from profiler.outputs import Rotation
from profiler.outputs.jsonl import JsonLines
from provisioning.host import REPOSITORY, find_tool
from provisioning.sources import installed_dependencies

FILES = REPOSITORY / "packages" / "files"


def options() -> Iterator[tuple[str, str]]:
    """Yield every command, and each of its options."""
    parser = cli.build_parser()
    for command, each in {"": parser, **commands_of(parser)}.items():
        for line in re.findall(r"^  -.*", each.format_help(), re.MULTILINE):
            yield from ((command, word) for word in re.findall(r"(?<!\S)--?\w[\w-]*", line))


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The rendered manual page; rendering must not print a warning."""
    file = tmp_path_factory.mktemp("man") / "http-profiler.1"
    file.write_text(page(cli.build_parser()))
    groff = ["groff", "-ww", "-K", "utf8", "-man", "-T", "utf8", "-P-c", "-P-b", "-P-o", "-P-u"]
    done = subprocess.run([*groff, file], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    man = ["man", "--warnings", "--local-file", "--encoding=UTF-8", file]
    shown = subprocess.run(man, capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    return done.stdout


def test_the_manual_has_every_option(manual: str) -> None:
    before, _, commands = manual.partition("\nCOMMANDS")
    sections = {"": before}
    for section in re.split(r"\n   http-profiler ", commands)[1:]:
        sections[section.split()[0]] = section
    for command, option in options():
        if option not in ("-h", "--help"):
            assert re.search(rf"^ {{7}}.*(?<![\w-]){option}\b", sections[command], re.MULTILINE)


def test_the_manual_has_its_sections(manual: str) -> None:
    headings = re.findall(r"^[A-Z][A-Z ]+$", manual, re.MULTILINE)
    assert headings == [
        "NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "CONFIGURATION",
        "EXIT STATUS", "ENVIRONMENT", "FILES", "SIGNALS", "EXAMPLES",
    ]  # fmt: skip
    status = manual.partition("EXIT STATUS")[2].partition("ENVIRONMENT")[0]
    codes = re.findall(r"^ {7}(\d) +\w", status, re.MULTILINE)
    assert codes[:4] == ["0", "1", "2", "3"]
    assert "sudo http-profiler --port 8080 --output http.jsonl" in manual
    assert "attend" not in manual


def test_no_word_of_the_manual_is_a_request() -> None:
    parser = argparse.ArgumentParser(prog="tried", description="'a \\n", epilog=".x\n\\fB")
    parser.add_argument("--one", help=".ignored 'quoted' and `this` at 100%%")
    text = page(parser)
    assert "\\&.ignored \\(aqquoted\\(aq and \\(gathis\\(ga at 100%" in text
    assert "\n\\&.x\n\\efB\n" in text


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_accepts_its_completion(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "completion"
    file.write_text(completion(cli.build_parser(), shell))
    done = subprocess.run([shell, "-n", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = file.read_text()
    for _, option in options():
        written = rf"-[ls] {option.lstrip('-')}" if shell == "fish" else rf"(?<![\w-]){option}"
        assert re.search(rf"{written}\b", text), option


@pytest.mark.parametrize("shell", SHELLS)
def test_internal_commands_are_not_completed(shell: str) -> None:
    assert "attend" not in completion(cli.build_parser(), shell)


def completed(tmp_path: Path, *words: str) -> set[str]:
    """The words that bash offers to complete the last one."""
    file = tmp_path / "completion"
    file.write_text(completion(cli.build_parser(), "bash"))
    script = """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        $(complete -p http-profiler | sed 's/.*-F \\([^ ]*\\).*/\\1/') "$1" "${@: -1}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "-c", script, "bash", str(file), "http-profiler", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.strip() for line in done.stdout.splitlines()}


def test_bash_completes(tmp_path: Path) -> None:
    assert completed(tmp_path, "rep") == {"replay", "report"}
    assert completed(tmp_path, "--route", "s") == {"socket", "syscall"}
    assert completed(tmp_path, "report", "--no") == {"--no-redact"}


def test_the_changelog_and_the_documents_name_this_version() -> None:
    """``profiler.__version__`` is the source; hatch takes the package's version from it."""
    changelog = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    sections = re.findall(r"^## \[(.*?)\](?: - \d{4}-\d\d-\d\d)?$", changelog, re.MULTILINE)
    assert sections[:2] == ["Unreleased", __version__]
    command = ["git", "ls-files", "*.md", "*.yml"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    texts = [(REPOSITORY / name).read_text("utf-8") for name in listed.stdout.split()]
    named = {one for text in texts for one in re.findall(r"http-profiler_(\d[\d.]*)_", text)}
    assert named <= {__version__}


def test_the_locked_versions_meet_the_requirements() -> None:
    """For each Python and each requirement."""
    locked = deb.locked()
    assert tuple(locked) == deb.PYTHONS
    for python, versions in locked.items():
        for one in vendored.applying(installed_dependencies(), python):
            assert versions[canonicalize_name(one.name)] in one.specifier


def build(directory: Path) -> Path:
    """Build the package at a fixed time, for two versions of Python only, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        patch.setenv("DPKG_DEB_COMPRESSOR_LEVEL", "0")
        patch.setattr(deb, "PYTHONS", (deb.PYTHONS[0], deb.PYTHONS[-1]))
        return deb.build(directory)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package"))


def test_two_builds_of_the_package_are_equal(package: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_lintian_finds_nothing_in_the_package(package: Path) -> None:
    """No error, no warning, nothing pedantic."""
    command = [find_tool("lintian", "lintian"), "--pedantic", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_package_has_what_tls_needs(package: Path, tmp_path: Path) -> None:
    """Capstone with its native library, and pyelftools: for each Python the same wheel."""
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    for python in (deb.PYTHONS[0], deb.PYTHONS[-1]):
        directory = deb._site_packages(tmp_path, python)
        script = (
            f"import sys; sys.path.insert(0, {str(directory)!r}); "
            "import capstone, elftools.elf.elffile as elf; "
            "code = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(b'\\xc3', 0); "
            "print(next(code).mnemonic, capstone.__file__, elf.__file__)"
        )
        command = [sys.executable, "-I", "-S", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        mnemonic, *files = done.stdout.split()
        assert mnemonic == "ret"
        assert all(Path(file).is_relative_to(directory) for file in files)


def test_the_package_has_the_fast_path(package: Path, tmp_path: Path) -> None:
    """The same module for each Python, and linked so that the oldest release can load it."""
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    files = [
        next(deb._site_packages(tmp_path, python).glob("http_profiler_fastpath/*.abi3.so"))
        for python in (deb.PYTHONS[0], deb.PYTHONS[-1])
    ]
    assert len({file.stat().st_ino for file in files}) == 1
    command = [find_tool("objdump", "binutils"), "-T", files[0]]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = {tuple(map(int, one)) for one in re.findall(r"GLIBC_(\d+)\.(\d+)", symbols)}
    assert needed
    # manylinux2014
    assert max(needed) <= (2, 17)


def test_the_licence_of_each_file(tmp_path: Path) -> None:
    directory = deb.HOME / "lib/python3.9/site-packages"
    for name, text in {
        "other-1.dist-info/METADATA": "Name: other\nVersion: 1\nLicense-Expression: MIT\n",
        "older-1.dist-info/METADATA": "Name: older\nClassifier: License :: OSI Approved :: BSD\n",
        "older-1.dist-info/RECORD": "older.py,,\n",
        "older.py": "",
        "other-1.dist-info/RECORD": "other/code.py,,\nother.py,,\n../../bin/other,,\n",
        "other/code.py": "",
        "other.py": "",
    }.items():
        file = tmp_path / directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    _, *stanzas = map(message_from_string, "\n".join(deb._copyright(tmp_path)).split("\n\n"))

    def licence(path: Path) -> str:
        # The last match counts; `*` matches slashes too.
        patterns = [(one["Files"].split(), one["License"].split()[0]) for one in stanzas]
        return [name for files, name in patterns if any(fnmatch(str(path), p) for p in files)][-1]

    assert licence(Path("usr/bin/http-profiler")) == "Apache-2.0"
    assert licence(directory / "profiler/cli.py") == "Apache-2.0"
    assert licence(directory / "profiler/bpf/call.h") == "GPL-2.0-only"
    assert licence(directory / "other/code.py") == "MIT"
    assert licence(directory / "other.py") == "MIT"
    assert licence(directory / "older.py") == "BSD"


def test_the_profiler_continues_in_a_new_file_after_a_rotation(
    tmp_path: Path, soon: Callable[[], None]
) -> None:
    log = tmp_path / "http.jsonl"
    text = (FILES / "logrotate").read_text()
    rule = tmp_path / "rule"
    rule.write_text(text.replace("/var/log/http-profiler", str(tmp_path)))
    assert str(log) in rule.read_text()
    sink = JsonLines(log)
    for number in range(4):
        sink.write({"number": number})
        sink.flush()
        # Rotate now, not once a day.
        command = [find_tool("logrotate", "logrotate"), "--force", "--state", tmp_path / "state"]
        subprocess.run([*command, rule], check=True)
        soon()
    sink.close()
    # The newest old file is not compressed yet: the profiler may still write a line to it.
    assert (tmp_path / "http.jsonl.1").read_text() == '{"number":3}\n'
    older = sorted(file.name for file in tmp_path.glob("*.gz"))
    assert older == ["http.jsonl.2.gz", "http.jsonl.3.gz", "http.jsonl.4.gz"]
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.glob("http.jsonl.*")}
    assert modes == {0o600}


def test_logrotate_and_the_profiler_rotate_the_same_file_without_loss(
    tmp_path: Path, soon: Callable[[], None]
) -> None:
    log = tmp_path / "http.jsonl"
    rule = tmp_path / "rule"
    text = (FILES / "logrotate").read_text()
    rule.write_text(text.replace("/var/log/http-profiler", str(tmp_path)))
    command = [find_tool("logrotate", "logrotate"), "--force", "--state", tmp_path / "state", rule]
    sink = JsonLines(log, rotation=Rotation(50, 7))
    for number in range(14):
        sink.write({"number": number})  # three lines fit into a file
        sink.flush()
        if number % 5 == 4:
            subprocess.run(command, check=True)
        if number % 3:
            soon()
    sink.close()
    found = []
    for file in tmp_path.glob("http.jsonl*"):
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
        found += [json.loads(line)["number"] for line in data.splitlines()]
    assert sorted(found) == list(range(14))


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_the_scripts_are_clean(script: str) -> None:
    done = subprocess.run(["shellcheck", FILES / script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_requirements_depend_on_the_version_of_python() -> None:
    requires = ["a>=1; python_version < '3.11'", "b", "c; extra == 'more'"]
    assert [one.name for one in vendored.applying(requires, "3.9")] == ["a", "b"]
    assert [one.name for one in vendored.applying(requires, "3.14")] == ["b"]
