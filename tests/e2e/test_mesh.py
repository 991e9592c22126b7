# SPDX-License-Identifier: Apache-2.0
"""The mesh of demo/mesh, captured from outside, compared with the access logs of its services.

One of two replicas starts again between two rounds of visits, under another address.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.mesh.mesh import (
    SERVERS,
    VISITOR,
    Call,
    Mesh,
    captured_calls,
    drawn_edges,
    edges_of,
    service_in,
)
from profiler.cli import main
from profiler.exchanges.inventory import Inventory
from profiler.exchanges.model import Exchange
from profiler.exchanges.pair import Exchanges
from provisioning import Guest
from provisioning.capture import Record
from provisioning.catalog import find_guest
from tests.e2e.capture import Capture

# Its containers take two minutes to build and start in an emulated guest.
pytestmark = [pytest.mark.one_guest("debian-13"), pytest.mark.thorough]

VISITS = 16
"""In each of two rounds, twice the pages of the visitor."""

RESTARTED = "mesh_details_1"
IMAGES = {
    service_in(name): f"localhost/mesh-{service_in(name).partition('-')[0]}:latest"
    for name in (*SERVERS, VISITOR)
}
CALLS = {
    ("visitor", "gateway"),
    ("gateway", "productpage"),
    ("productpage", "details"),
    ("productpage", "reviews-v1"),
    ("productpage", "reviews-v2"),
    ("productpage", "reviews-v3"),
    ("productpage", "ratings"),
    ("reviews-v2", "ratings"),
    ("reviews-v3", "ratings"),
}


@dataclass
class Visited:
    records: list[Record]
    exchanges: list[Exchange]
    logged: Counter[Call]
    said: str
    containers: set[tuple[str, str]]
    """Their names and ids. Each round has a visitor of its own."""

    addresses: tuple[str, str]
    """Of the container that started again, before and after."""

    selected: list[Record]
    """The lines of a second capture, with --container."""


@pytest.fixture(scope="module")
def visited(guest: Guest) -> Iterator[Visited]:
    """Start the mesh while everything is captured, and visit it twice."""
    if not find_guest(guest.name).mesh:
        pytest.skip(f"{guest.name} has no JDK: see `mesh` in guests.toml")
    mesh = Mesh(guest)
    mesh.build()
    only = Capture(guest, "--container", RESTARTED, output="/tmp/restarted.jsonl")
    try:
        with Capture(guest, "--tls") as capture, only:
            mesh.start()
            mesh.visit(VISITS)
            containers = mesh.containers()
            before = mesh.address(RESTARTED)
            mesh.restart(RESTARTED)
            after = mesh.address(RESTARTED)
            mesh.visit(VISITS)
            said = capture.stop()
            only.stop()
        containers |= mesh.containers()
        mesh.stop()
        records = capture.records()
        yield Visited(
            records,
            list(Exchanges(records)),
            mesh.calls(),
            said,
            containers,
            (before, after),
            only.records(),
        )
    finally:
        mesh.remove()


def test_who_calls_whom_is_what_the_access_logs_have(visited: Visited) -> None:
    assert captured_calls(visited.exchanges) == visited.logged
    assert edges_of(visited.logged).keys() == CALLS
    assert len(visited.exchanges) == sum(visited.logged.values())
    at_the_gateway = [n for call, n in visited.logged.items() if call.caller == "visitor"]
    assert sum(at_the_gateway) == 2 * VISITS


def test_every_message_is_whole_at_both_ends(visited: Visited) -> None:
    assert visited.said.count("lost 0/0") == 4, visited.said
    assert len(visited.records) == 4 * len(visited.exchanges)
    assert not [record for record in visited.records if "incomplete" in record]
    assert {exchange.is_tls for exchange in visited.exchanges} == {True, False}
    for exchange in visited.exchanges:
        caller = exchange.client.records[0]["service"]
        assert exchange.is_tls == (caller == "gateway")


def test_the_map(visited: Visited) -> None:
    inventory = Inventory(visited.exchanges)
    assert drawn_edges(inventory) == edges_of(visited.logged)
    services = inventory.services
    assert {name: list(service.images) for name, service in services.items()} == {
        name: [image] for name, image in IMAGES.items()
    }
    assert {name: sorted(service.containers) for name, service in services.items()} == {
        service: [name for name in sorted((*SERVERS, VISITOR)) if service_in(name) == service]
        for service in IMAGES
    }


def test_each_line_names_its_container(visited: Visited) -> None:
    found = [record["container"] for record in visited.records]
    assert {(container["name"], container["id"]) for container in found} == visited.containers
    assert len(visited.containers) == len(SERVERS) + 2
    for record, container in zip(visited.records, found):
        service = record["service"]
        assert service == service_in(container["name"])
        assert (container["image"], container["runtime"]) == (IMAGES[service], "podman")


def test_the_other_end(visited: Visited) -> None:
    for exchange in visited.exchanges:
        ends = (exchange.client, exchange.server), (exchange.server, exchange.client)
        for side, other in ends:
            for record in side.records:
                if "peer" in record:
                    assert record["peer"]["container"] == other.records[0]["container"]
                    assert record["peer"]["service"] == other.records[0]["service"]
            assert "peer" in side.response
        # The end of a new connection that is read first does not know the other one.
        assert any("peer" in side.request for side in exchange.sides)


def test_a_container_that_starts_again_under_another_address(visited: Visited) -> None:
    before, after = visited.addresses
    assert before != after
    sent = [one for one in visited.records if one["type"] == "response"]
    answers = [one for one in sent if one["container"]["name"] == RESTARTED]
    assert {one["source_ip"] for one in answers} == {before, after}
    assert len({one["pid"] for one in answers}) == 2
    assert {one["peer"]["service"] for one in answers} == {"productpage"}
    # And as productpage sees it.
    seen = [one for one in sent if one["role"] == "client" and one["source_ip"] in (before, after)]
    assert len(seen) == len(answers)
    assert {one["peer"]["container"]["name"] for one in seen} == {RESTARTED}


def test_a_filter_by_its_name_selects_both(visited: Visited) -> None:
    wanted = [one for one in visited.records if one["container"]["name"] == RESTARTED]
    assert {one["dest_ip"] for one in wanted if one["type"] == "request"} == {*visited.addresses}
    assert {one["container"]["name"] for one in visited.selected} == {RESTARTED}
    assert Counter(map(key_of_message, visited.selected)) == Counter(map(key_of_message, wanted))


def key_of_message(record: Record) -> tuple[str, str, int]:
    return record["type"], record["connection"], record["sequence"]


def test_two_replicas_share_the_calls(visited: Visited) -> None:
    for service in ("details", "ratings"):
        counts: Counter[str] = Counter()
        for exchange in visited.exchanges:
            record = exchange.server.records[0]
            if record["service"] == service:
                counts[record["container"]["name"]] += 1
        assert counts.keys() == {f"mesh_{service}_1", f"mesh_{service}_2"}
        # Each of three callers takes turns.
        assert max(counts.values()) - min(counts.values()) <= 3


def test_the_id_of_a_visit_is_in_each_of_its_requests(visited: Visited) -> None:
    # As one visitor's request, which has no id of its own yet, and all that follow from it.
    visits: dict[str, Counter[str]] = {}
    for exchange in visited.exchanges:
        request = exchange.request
        if request["service"] == "visitor":
            assert "x-request-id" not in request["headers"]
        else:
            called = exchange.server.records[0]["service"]
            visits.setdefault(request["headers"]["x-request-id"], Counter())[called] += 1
            assert request["headers"]["traceparent"].startswith("00-")
    assert len(visits) == 2 * VISITS
    for called in visits.values():
        reviews = [name for name in called if name.startswith("reviews-")]
        assert set(called.values()) == {1}
        assert len(reviews) <= 1
        if "reviews-v1" in called:
            assert "ratings" not in called
        elif reviews:
            assert "ratings" in called


def test_the_map_of_a_service(visited: Visited, tmp_path: Path) -> None:
    lines, drawn = tmp_path / "mesh.jsonl", tmp_path / "mesh.mmd"
    lines.write_text("".join(f"{json.dumps(record)}\n" for record in visited.records))
    assert (
        main(["inventory", str(lines), "--mermaid", "--service", "ratings", "-o", str(drawn)]) == 0
    )
    assert re.findall(r'\["(.*)"\]', drawn.read_text()) == [
        *("productpage", "ratings", "reviews-v2", "reviews-v3")
    ]
