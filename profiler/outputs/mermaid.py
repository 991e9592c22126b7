# SPDX-License-Identifier: Apache-2.0
"""A Mermaid flowchart of who calls whom (https://mermaid.js.org/syntax/flowchart.html).

No name becomes syntax or markup: a character that is not plain stands as its entity code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from profiler.exchanges.inventory import Inventory
from profiler.exchanges.text import visible

HOSTS_MAX = 50
"""Nodes for hosts of external services; the others share one."""

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_ ./:@-]")
_CLIENTS = "external clients"
_OTHERS = "other hosts"


def mermaid(inventory: Inventory) -> Iterator[str]:
    """Yield the lines of the diagram. An edge has the number of exchanges, and of failed ones."""
    yield "flowchart LR\n"
    names = sorted(inventory.services)
    nodes = {name: f"s{number}" for number, name in enumerate(names)}
    for name, node in nodes.items():
        yield f'    {node}["{_text(name)}"]\n'
    hosts: dict[str, str] = {}
    edges: dict[tuple[str, str], list[int]] = {}
    for caller in (*(inventory.services[name] for name in names), inventory.external):
        source = "clients" if caller is inventory.external else nodes[caller.name]
        for call in caller.calls.values():
            target = nodes[call.service] if call.service else _host(call.host, hosts)
            counts = edges.setdefault((source, target), [0, 0])
            counts[0] += call.count
            counts[1] += call.failed
    if inventory.external.calls:
        yield f'    clients(["{_CLIENTS}"])\n'
    for host, node in hosts.items():
        yield f'    {node}(["{_text(host)}"])\n'
    for (source, target), (count, failed) in edges.items():
        label = f"{count}, {failed} failed" if failed else str(count)
        yield f'    {source} -->|"{label}"| {target}\n'


def _host(name: str, hosts: dict[str, str]) -> str:
    """Return the node of a host."""
    if name not in hosts and len(hosts) >= HOSTS_MAX:
        name = _OTHERS
    return hosts.setdefault(name, f"h{len(hosts)}")


def _text(name: str) -> str:
    """Return a name as the text of a node."""
    return _NOT_PLAIN.sub(lambda match: f"#{ord(match[0])};", visible(name))
