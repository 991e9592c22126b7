# SPDX-License-Identifier: Apache-2.0
"""Containers, captured from outside: the demo with its load test, one that is gone, a rootless one.

Podman 5 keeps labels in a database that the profiler reads; that of debian-12 does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from provisioning import Guest
from provisioning.capture import Record
from provisioning.catalog import find_guest
from tests.e2e.capture import Capture

pytestmark = pytest.mark.one_guest("debian-13")

COMPOSE = "/opt/http-profiler-demo/src/demo"
IMAGE = "localhost/http-profiler-demo"
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


@pytest.fixture(scope="module", autouse=True)
def podman(guest: Guest) -> None:
    """Podman in the guest."""
    if not find_guest(guest.name).containers:
        pytest.skip(f"{guest.name} has no Podman: see `containers` in guests.toml")


@pytest.fixture(scope="module")
def watched(guest: Guest) -> Iterator[Watched]:
    """Capture from outside while a load test in one container calls the demo in another."""
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


def test_the_name_the_image_and_the_service(watched: Watched, has_labels: bool) -> None:
    for role, service, id_ in (
        ("client", "loadtest", watched.loadtest),
        ("server", "demo", watched.demo),
    ):
        for record in of(watched, role):
            assert record["container"] == described(f"http-profiler-{service}", id_)
            assert record.get("service") == (service if has_labels else None)


def test_the_container_at_the_other_end(watched: Watched) -> None:
    demo = described("http-profiler-demo", watched.demo)
    loadtest = described("http-profiler-loadtest", watched.loadtest)
    known = set()
    for record in watched.records:
        ends = [(record[f"{end}_ip"], record[f"{end}_port"]) for end in ("source", "dest")]
        connection = frozenset(ends)
        if "peer" not in record:
            # The end that is seen first does not know the other yet: the scheduler decides which.
            assert connection not in known
            known.add(connection)
            continue
        assert record["peer"]["container"] == (demo if record["role"] == "client" else loadtest)
        assert record["peer"]["process"]["pid"] in {
            one["pid"] for one in watched.records if one["role"] != record["role"]
        }


@pytest.fixture(scope="module")
def has_labels(guest: Guest, watched: Watched) -> bool:
    """Whether Podman keeps labels where the profiler reads them."""
    storage = "/var/lib/containers/storage"
    found = guest.exec(f"sudo test -e {storage}/db.sql -o -e {storage}/libpod/db.sql", check=False)
    assert (found.returncode == 0) == (guest.name != "debian-12")
    return found.returncode == 0


# An HTTP server on the machine, which answers once the client's container is gone.
SERVER = """
import http.server, subprocess
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path[1:]
        exists = ["podman", "container", "exists", name]
        while name.startswith("gone") and subprocess.call(exists) == 0:
            pass
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Handler)
print("ready", flush=True)
server.serve_forever()
"""
# It ends without waiting for the response, and keeps no end of its connection.
CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", 8081))
connection.sendall(f"GET /{sys.argv[1]} HTTP/1.0\\r\\n\\r\\n".encode())
"""


@pytest.fixture(scope="module")
def server(guest: Guest) -> Iterator[None]:
    for name, script in (("server", SERVER), ("client", CLIENT)):
        guest.exec(f"cat > /tmp/{name}.py <<'END'\n{script}END")
    with guest.popen(["sudo", "python3", "/tmp/server.py"]) as running:
        assert running.stdout.readline().strip() in ("ready", b"ready")
        yield
        running.signal("TERM")


def test_a_container_that_is_gone_keeps_its_name(
    guest: Guest, watched: Watched, server: None, token: str
) -> None:
    name = f"gone-{token}"
    options = f"--rm --name {name} --network host --volume /usr:/usr:ro --volume /tmp:/tmp:ro"
    with Capture(guest, "--port", "8081") as capture:
        command = f"sudo podman run {options} {IMAGE} /usr/bin/python3 /tmp/client.py {name}"
        guest.exec(command, timeout=300)
        gone = guest.exec(f"sudo podman container exists {name}", check=False)
        assert gone.returncode == 1
        (answer,) = capture.wait_for(
            lambda r: (
                (r["role"], r["type"], r.get("request", {}).get("url"))
                == ("server", "response", f"/{name}")
            )
        )
        (asked,) = [
            r for r in capture.records() if r["role"] == "client" and r.get("url") == f"/{name}"
        ]
        capture.stop()
    assert asked["container"]["name"] == name
    assert asked["container"]["image"] == f"{IMAGE}:latest"
    assert answer["peer"]["container"] == asked["container"]


# Without D-Bus, Podman cannot have systemd make a control group for a rootless container. So this
# makes one of that name, and starts a process in it.
ROOTLESS = """
set -eu
id ann >/dev/null 2>&1 || sudo useradd --create-home ann
# Podman then maps this user only, for which it needs no newuidmap.
sudo sed -i /^ann:/d /etc/subuid /etc/subgid
uid=$(id -u ann)
sudo mkdir -p /run/user/$uid
sudo chown ann /run/user/$uid
cd /home
rootless() {{ sudo -u ann env HOME=/home/ann XDG_RUNTIME_DIR=/run/user/$uid "$@"; }}
tar --create --no-recursion -C / usr | rootless podman import --quiet - {image} >/dev/null
id=$(rootless podman create --name {name} --network host --cgroups=disabled \\
    --label com.docker.compose.service=notes {image} true)
scope=/sys/fs/cgroup/user.slice/user-$uid.slice/user@$uid.service/user.slice/libpod-$id.scope/container
sudo mkdir -p $scope
sudo sh -c 'echo $$ > '$scope'/cgroup.procs; exec sudo -u ann python3 /tmp/client.py {name}'
echo $id
rootless podman rm --force {name} >/dev/null
"""


def test_a_rootless_container(guest: Guest, server: None, token: str) -> None:
    name = f"ann-{token}"
    script = ROOTLESS.format(name=name, image="localhost/notes")
    with Capture(guest, "--port", "8081") as capture:
        id_ = guest.exec(script, timeout=300).stdout.split()[-1]
        (asked,) = capture.wait_for(lambda r: r["role"] == "client" and r.get("url") == f"/{name}")
        capture.stop()
    assert asked["container"] == described(name, id_, "localhost/notes")
    assert asked.get("service") == ("notes" if guest.name != "debian-12" else None)


def described(name: str, id_: str, image: str = IMAGE) -> dict[str, str]:
    return {"id": id_, "name": name, "image": f"{image}:latest", "runtime": "podman"}


def of(watched: Watched, role: str) -> list[Record]:
    found = [record for record in watched.records if record["role"] == role]
    assert found
    return found
