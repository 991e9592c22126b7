# SPDX-License-Identifier: Apache-2.0
"""The mesh in a guest: builds and starts its containers, and reads what their access logs say.

A call is counted by what the log of the called service says, and in the same form by what was
captured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from profiler.exchanges.inventory import Inventory
from profiler.exchanges.model import Exchange, service_of
from provisioning import Guest
from provisioning.errors import GuestError

HOME = "/opt/http-profiler-demo/src/demo/mesh"
VISITOR = "mesh_visitor_1"
SERVERS = (
    "mesh_gateway_1",
    "mesh_productpage_1",
    "mesh_details_1",
    "mesh_details_2",
    "mesh_reviews-v1_1",
    "mesh_reviews-v2_1",
    "mesh_reviews-v3_1",
    "mesh_ratings_1",
    "mesh_ratings_2",
)
# The Combined Log Format; each service of the mesh sends its name as User-Agent.
_LOGGED = re.compile(r'\S+ - - \[[^]]+\] "(\S+) (\S+) HTTP/[0-9.]+" (\d+) \d+ "-" "([^"]*)"')


class Call(NamedTuple):
    """One request: the calling service, the container that answered, and what was exchanged."""

    caller: str
    container: str
    method: str
    target: str
    status: int


def service_in(container: str) -> str:
    """Return the service of a container, by the name that podman-compose gives it."""
    return container.partition("_")[2].rpartition("_")[0]


class Mesh:
    """The containers of ``compose.yaml`` in a guest that has Podman and the JDK."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def build(self) -> None:
        """Build the images from the guest's files."""
        self.guest.exec(["sudo", f"{HOME}/image.sh"], timeout=600)

    def start(self) -> None:
        """Start all services."""
        self._compose("up -d")

    def visit(self, visits: int) -> None:
        """Let Locust send ``visits`` requests; GuestError if one was not answered as expected."""
        self._compose("--profile visit up -d visitor", f"VISITS={visits}")
        ended = self.guest.exec(["sudo", "podman", "wait", VISITOR], timeout=600).stdout.strip()
        if ended != "0":
            log = self.guest.exec(f"sudo podman logs {VISITOR} 2>&1").stdout
            raise GuestError(f"{self.guest.name}: a visit of the mesh failed", log)

    def containers(self) -> set[tuple[str, str]]:
        """Return the names and ids of all containers that were started."""
        names = [*SERVERS, VISITOR]
        done = self.guest.exec(["sudo", "podman", "inspect", "--format", "{{.Id}}", *names])
        return set(zip(names, done.stdout.split()))

    def address(self, container: str) -> str:
        """Return the address of a container that runs."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        done = self.guest.exec(["sudo", "podman", "inspect", "--format", form, container])
        return done.stdout.strip()

    def restart(self, container: str) -> None:
        """Stop a container and start it again, under the address that it gets then."""
        self.guest.exec(["sudo", "podman", "restart", container], timeout=120)

    def stop(self) -> None:
        """Stop all services, so that their logs are complete."""
        self.guest.exec(["sudo", "podman", "stop", *SERVERS], timeout=300)

    def calls(self) -> Counter[Call]:
        """Return the calls in the access logs of all services."""
        found: Counter[Call] = Counter()
        for container in SERVERS:
            log = self.guest.exec(["sudo", "podman", "logs", container], timeout=60).stdout
            for method, target, status, caller in _LOGGED.findall(log):
                found[Call(caller, container, method, target, int(status))] += 1
        return found

    def remove(self) -> None:
        """Remove all containers and their network, if there are any."""
        self.guest.exec(
            ["sudo", "podman", "rm", "--force", "--ignore", "--time", "1", VISITOR, *SERVERS],
            timeout=300,
        )
        self.guest.exec(["sudo", "podman", "network", "rm", "--force", "mesh_mesh"], timeout=60)

    def _compose(self, command: str, environment: str = "") -> None:
        self.guest.exec(f"cd {HOME} && sudo {environment} podman-compose {command}", timeout=900)


def captured_calls(exchanges: Iterable[Exchange]) -> Counter[Call]:
    """Return the calls between containers in a capture, where both ends were seen."""
    found: Counter[Call] = Counter()
    for exchange in exchanges:
        asked, response = exchange.asked, exchange.response
        if exchange.client is None or exchange.server is None or response is None:
            continue
        caller = service_of(exchange.client.records[0]) or "?"
        container = exchange.server.records[0].get("container", {}).get("name", "?")
        status = response.get("status_code", 0)
        found[Call(caller, container, asked["method"], asked["url"], status)] += 1
    return found


def edges_of(calls: Counter[Call]) -> Counter[tuple[str, str]]:
    """Return how often each service called each other one."""
    found: Counter[tuple[str, str]] = Counter()
    for call, count in calls.items():
        found[call.caller, service_in(call.container)] += count
    return found


def drawn_edges(inventory: Inventory) -> Counter[tuple[str, str]]:
    """Return the edges of the map of an inventory; an end outside is ``external``."""
    found: Counter[tuple[str, str]] = Counter()
    for service in (*inventory.services.values(), inventory.external):
        for call in service.calls.values():
            found[service.name, call.service or "external"] += call.count
    return found
