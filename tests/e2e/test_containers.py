# SPDX-License-Identifier: Apache-2.0
"""The demo and the load test in containers, captured from outside: demo/compose.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from provisioning import Guest
from provisioning.capture import Record
from provisioning.catalog import find_guest
from tests.e2e.capture import Capture

pytestmark = pytest.mark.one_guest("debian-12")

COMPOSE = "/opt/http-profiler-demo/src/demo"
REQUESTS = 8
PORT = 8080

# The ids of both containers; of the demo, which still runs, its address and two network namespaces.
FACTS = """
sudo podman inspect --format '{{.Id}}' http-profiler-demo http-profiler-loadtest
sudo podman inspect http-profiler-demo \\
    --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{.State.Pid}}' |
while read address pid; do
    echo $address
    sudo stat --dereference --format %i /proc/$pid/ns/net /proc/self/ns/net
done
"""


@dataclass
class Watched:
    records: list[Record]
    said: str
    demo: str
    loadtest: str
    demo_ip: str
    demo_netns: int
    own_netns: int


@pytest.fixture(scope="module")
def watched(guest: Guest) -> Iterator[Watched]:
    """Capture from outside while a load test in one container calls the demo in another."""
    if not find_guest(guest.name).containers:
        pytest.skip(f"{guest.name} has no Podman: see `containers` in guests.toml")
    compose = f"cd {COMPOSE} && sudo TOTAL_REQUESTS={REQUESTS} REQUEST_DELAY_MS=0 podman-compose"
    guest.exec(["sudo", f"{COMPOSE}/image.sh"], timeout=120)
    try:
        with Capture(guest, "--port", str(PORT)) as capture:
            guest.exec(f"{compose} up -d", timeout=600)
            capture.wait_for(lambda r: True, count=4 * REQUESTS, timeout=120)
            demo, loadtest, address, *netns = guest.exec(FACTS, timeout=120).stdout.split()
            said = capture.stop()
        yield Watched(capture.records(), said, demo, loadtest, address, *map(int, netns))
    finally:
        guest.exec(f"{compose} down --timeout 1", check=False, timeout=300)


def test_every_message_at_both_ends(watched: Watched) -> None:
    assert len(watched.records) == 4 * REQUESTS
    assert "lost 0/0" in watched.said
    by_exchange: dict[str, list[Record]] = {}
    for record in watched.records:
        by_exchange.setdefault(f"{record['role']} {record['exchange']}", []).append(record)
    for pair in by_exchange.values():
        request, response = sorted(pair, key=lambda r: r["type"])
        assert response["request"] == {
            "method": request["method"],
            "url": request["url"],
            "host": request["headers"]["host"],
        }
        assert response["status_code"] == 200
        assert "incomplete" not in request
        assert "incomplete" not in response
    asked = [r["url"] for r in watched.records if (r["role"], r["type"]) == ("client", "request")]
    assert sorted(asked) == sorted(["/", "/healthz", "/echo", "/slow"] * (REQUESTS // 4))
    for number in range(1, REQUESTS + 1):
        ends = [
            (r["role"], r["type"])
            for r in watched.records
            if r.get("headers", {}).get("x-request-number") == str(number)
        ]
        assert sorted(ends) == [("client", "request"), ("server", "request")]


def test_each_in_its_own_network_namespace(watched: Watched) -> None:
    netns = {role: {r["netns"] for r in of(watched, role)} for role in ("client", "server")}
    assert netns["server"] == {watched.demo_netns}
    assert len(netns["client"]) == 1
    assert len(netns["client"] | netns["server"] | {watched.own_netns}) == 3


def test_the_cgroup_names_the_container(watched: Watched) -> None:
    for role, container in (("client", watched.loadtest), ("server", watched.demo)):
        assert len(container) == 64
        for record in of(watched, role):
            assert container in record["cgroup"]


def test_the_addresses_are_those_of_the_containers(watched: Watched) -> None:
    # Since Python 3.14, Python names its threads.
    servers = ("gunicorn", "ThreadPoolExecu")
    for record in watched.records:
        assert record["comm"] in (("locust",) if record["role"] == "client" else servers)
        source = (record["source_ip"], record["source_port"])
        target = (record["dest_ip"], record["dest_port"])
        client, server = (source, target) if record["type"] == "request" else (target, source)
        assert server == (watched.demo_ip, PORT)
        # In the same network, but not the demo's address.
        assert client[0].rpartition(".")[0] == watched.demo_ip.rpartition(".")[0]
        assert client[0] != watched.demo_ip


def of(watched: Watched, role: str) -> list[Record]:
    found = [record for record in watched.records if record["role"] == role]
    assert found
    return found
