# SPDX-License-Identifier: Apache-2.0
"""The doctor's cases of ``--tls`` on a real kernel: all captured, on both routes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provisioning import Guest
from tests.e2e.conftest import ROUTES

pytestmark = pytest.mark.one_guest("debian-12")

CASES = [
    "tls-before", "tls-1.3", "tls-1.2", "tls-large-body", "asyncio", "curl", "openssl", "node",
]  # fmt: skip

Document = dict[str, Any]


@pytest.fixture(scope="module", params=ROUTES)
def document(guest: Guest, request: pytest.FixtureRequest) -> Document:
    command = f"sudo http-profiler doctor --tls --json --route {request.param}"
    done = guest.exec(command, check=False, timeout=900)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def test_the_runs(document: Document) -> None:
    assert [run["tls"] for run in document["runs"]] == [False, True]
    assert [run["error"] for run in document["runs"]] == [None, None]
    assert all(document["machine"]["tls_packages"].values())
    names = {row["name"] for row in document["cases"] if row["group"] == "tls"}
    assert names == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_case(document: Document, name: str) -> None:
    rows = [row for row in document["cases"] if row["name"] == name]
    assert [row["end"] for row in rows] == ["send", "recv"]
    for row in rows:
        assert (row["result"], row["reason"], row["worse"]) == ("captured", "", False), row
