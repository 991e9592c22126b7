# SPDX-License-Identifier: Apache-2.0
"""``make mesh`` fails if the capture and the access logs differ."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.mesh.__main__ import compare
from demo.mesh.mesh import Call, Mesh, service_in
from profiler.exchanges.pair import Exchanges
from provisioning.host import REPOSITORY

# As nginx and gunicorn, WEBrick, Node and Java write it.
LOGGED = """\
10.89.0.10 - - [29/Nov/2026:04:34:30 +0000] "GET /productpage?u=a HTTP/1.1" 200 78 "-" "gateway"
10.89.0.9 - - [29/Nov/2026:04:34:29 UTC] "GET /details/0 HTTP/1.1" 200 178 "-" "productpage"
10.89.0.7 - - [2026-11-29T04:34:34.389Z] "GET /details/0 HTTP/1.1" 200 48 "-" "productpage"
[2026-11-29 04:33:53 +0000] [1] [INFO] Starting gunicorn
"""


def test_the_calls_in_an_access_log() -> None:
    def podman(command: list[str], timeout: float) -> SimpleNamespace:
        return SimpleNamespace(stdout=LOGGED if command[-1] == "mesh_details_2" else "")

    guest: Any = SimpleNamespace(exec=podman)
    assert Mesh(guest).calls() == {
        Call("gateway", "mesh_details_2", "GET", "/productpage?u=a", 200): 1,
        Call("productpage", "mesh_details_2", "GET", "/details/0", 200): 2,
    }


def test_the_service_of_a_container() -> None:
    assert service_in("mesh_details_2") == "details"
    assert service_in("mesh_reviews-v1_1") == "reviews-v1"


def message(role: str, kind: str, container: str) -> Any:
    return {
        "timestamp": "2026-11-29T04:34:30.000000001Z",
        "type": kind,
        "role": role,
        "exchange": f"{role}-1",
        "connection": "1:a",
        "sequence": 1 if kind == "request" else 2,
        "headers": {},
        "service": service_in(container),
        "container": {"name": container},
        **({"method": "GET", "url": "/a"} if kind == "request" else {"status_code": 200}),
    }


CALL = Call("gateway", "mesh_productpage_1", "GET", "/a", 200)
EXCHANGE = [
    message(role, kind, container)
    for role, container in (("client", "mesh_gateway_1"), ("server", "mesh_productpage_1"))
    for kind in ("request", "response")
]


@pytest.mark.parametrize(
    ("logged", "agree"),
    [
        ({CALL: 1}, True),
        ({CALL: 2}, False),
        ({}, False),
        ({CALL._replace(container="mesh_productpage_2"): 1}, False),
        ({CALL._replace(status=500): 1}, False),
        ({CALL._replace(caller="visitor"): 1}, False),
    ],
)
def test_the_map_is_compared_with_the_logs(logged: dict[Call, int], agree: bool, capsys) -> None:
    assert compare(Counter(logged), list(Exchanges(EXCHANGE))) is agree
    shown = capsys.readouterr()
    assert "gateway      productpage" in shown.out
    assert ("but" in shown.err) is not agree


def test_an_end_that_was_not_captured_differs() -> None:
    assert not compare(Counter({CALL: 1}), list(Exchanges(EXCHANGE[:2])))


def test_the_script_that_builds_the_images() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    script = REPOSITORY / "demo" / "mesh" / "image.sh"
    checked = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
