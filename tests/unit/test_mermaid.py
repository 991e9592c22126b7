# SPDX-License-Identifier: Apache-2.0
"""The diagram of an inventory: its counts, and names that would like to be syntax."""

from __future__ import annotations

import re
import shlex
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler import cli, read
from profiler.commands.options import SAMPLE
from profiler.exchanges.inventory import Call, Inventory, Service
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.text import visible
from profiler.outputs import mermaid as bounds
from profiler.outputs.mermaid import mermaid
from tests import sample_capture

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "inventory.md"
NODE = re.compile(r'    (\w+)(?:\["([\w ./:@#;-]*)"\]|\(\["([\w ./:@#;-]*)"\]\))', re.ASCII)
EDGE = re.compile(r'    (\w+) -->\|"([0-9]+)(?:, ([0-9]+) failed)?"\| (\w+)', re.ASCII)
HOSTILE = [
    'a"]; click s0 "javascript:alert(1)"',
    "a\nb --> c",
    "](x)",
    "`**bold**`",
    "<script>alert(1)</script>",
    "#quot;",
    "%% comment",
    "end",
    "é\N{GRINNING FACE}\u202e",
]


def inventory(*names: str) -> Inventory:
    """Return one in which the first service calls each service."""
    found = Inventory()
    found.services = {name: Service(name) for name in names}
    for name in names:
        found.services[names[0]].calls[name, "", "GET", "/"] = Call(name, "", "GET", "/", 1)
    return found


def parsed(lines: list[str]) -> tuple[dict[str, str], list[tuple[str, str, int, int]]]:
    """Return the names of nodes, and the edges; every line must be one of these."""
    assert lines.pop(0) == "flowchart LR\n"
    nodes, edges = {}, []
    for line in lines:
        assert line.endswith("\n")
        edge, node = EDGE.fullmatch(line[:-1]), NODE.fullmatch(line[:-1])
        if edge:
            edges.append((edge[1], edge[4], int(edge[2]), int(edge[3] or 0)))
        else:
            assert node, line
            nodes[node[1]] = unescape(re.sub(r"#([0-9]+);", r"&#\1;", node[2] or node[3]))
    return nodes, edges


def test_the_sample() -> None:
    found = Inventory(Exchanges(read(SAMPLE)))
    nodes, edges = parsed(list(mermaid(found)))
    assert sorted(nodes.values()) == sorted(found.services)
    calls = [call for service in found.services.values() for call in service.calls.values()]
    assert sum(edge[2] for edge in edges) == sum(call.count for call in calls)
    assert sum(edge[3] for edge in edges) == sum(call.failed for call in calls) > 0
    [pays] = (edge for edge in edges if nodes[edge[0]] == "cart")
    assert nodes[pays[1]] == "payments"


def test_external_ends_are_nodes() -> None:
    found = Inventory(Exchanges(sample_capture.records(300)))
    nodes, edges = parsed(list(mermaid(found)))
    named = {(nodes[source], nodes[target]) for source, target, *_ in edges}
    assert ("external clients", "nginx") in named and ("shop", "pay.example") in named


def test_hosts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HOSTS_MAX", 2)
    found = inventory("shop")
    calls = found.services["shop"].calls
    calls.clear()
    for host in ("a", "b", "c", "d"):
        calls["", host, "GET", "/"] = Call(None, host, "GET", "/", 1)
    nodes, edges = parsed(list(mermaid(found)))
    assert [*nodes.values()] == ["shop", "a", "b", "other hosts"]
    assert [edge[2] for edge in edges] == [1, 1, 2]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text(name: str) -> None:
    nodes, edges = parsed(list(mermaid(inventory("shop", name))))
    assert sorted(nodes.values()) == sorted(["shop", visible(name)])
    assert len(edges) == 2


@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]), min_size=1))
def test_any_name_is_text(name: str) -> None:
    nodes, _ = parsed(list(mermaid(inventory(name))))
    assert [*nodes.values()] == [visible(name)]


def test_nothing_is_an_empty_diagram() -> None:
    assert list(mermaid(Inventory())) == ["flowchart LR\n"]


def test_the_command_prints_what_the_page_shows(capfd: pytest.CaptureFixture[str]) -> None:
    example = PAGE.read_text().partition("inventory --sample --mermaid")[2]
    line, _, shown = example.partition("```text\n")
    condition = shlex.split(line.partition("\n")[0])
    assert cli.main(["inventory", "--sample", "--mermaid", *condition]) == 0
    assert capfd.readouterr().out == shown.partition("```")[0]
