# SPDX-License-Identifier: Apache-2.0
"""The project's papers name what exists: paths, commands, versions, guests, capabilities."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from profiler import __version__
from provisioning.catalog import load_catalog

REPOSITORY = Path(__file__).parents[2]
PAPERS = ("CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md")
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
CI = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())


def read(name: str) -> str:
    return (REPOSITORY / name).read_text()


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_names_files_that_exist(name: str) -> None:
    named = re.findall(r"`([\w.-]+/[\w./-]*|[\w-]+\.(?:toml|md|cff|ini))`", read(name))
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("path", [*PAPERS, *WORKFLOWS], ids=lambda path: Path(path).name)
def test_a_paper_names_commands_that_exist(path: str | Path) -> None:
    tox = ConfigParser(interpolation=None)
    tox.read(REPOSITORY / "tox.ini")
    text = (REPOSITORY / path).read_text()
    calls = re.findall(r"tox (?:run )?-e ([\w,-]+)", text)
    environments = {name for names in calls for name in names.split(",")}
    assert {f"testenv:{name}" for name in environments} <= set(tox.sections())
    targets = set(re.findall(r"\bmake ([a-z-]+)\b(?=`|$)", text, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_to_a_commit(path: Path) -> None:
    for action in re.findall(r"uses: (.*)", path.read_text()):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_hosted_ci_has_every_python_and_every_guest() -> None:
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
    assert CI["jobs"]["unit"]["strategy"]["matrix"]["python"] == pythons
    guests = [name for name, guest in load_catalog().items() if not guest.benchmarks]
    assert CI["jobs"]["e2e"]["strategy"]["matrix"]["guest"] == sorted(guests)


def test_the_threat_model_is_that_of_the_service() -> None:
    unit = read("packages/files/http-profiler.service")
    capabilities = re.search("^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert capabilities is not None
    (row,) = (line for line in read("SECURITY.md").splitlines() if "flaw in the helper" in line)
    assert set(re.findall("`(CAP_[A-Z_]+)`", row.partition(" The syscall route")[0])) == set(
        capabilities[1].split()
    )
    assert "four capabilities" in row and len(capabilities[1].split()) == 4


def test_the_version_is_the_same_everywhere() -> None:
    assert yaml.safe_load(read("CITATION.cff"))["version"] == __version__
    assert f"| {__version__.rpartition('.')[0]} | yes |" in read("SECURITY.md")
