# SPDX-License-Identifier: Apache-2.0
"""Schemathesis sends the demo what its document describes, made from recorded traffic.

The demo must answer as described: no 5xx, only statuses and media types that were seen, and bodies
that are valid for their schemas.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from demo.app import create_app
from profiler import read
from profiler.exchanges.inventory import Inventory
from profiler.exchanges.pair import Exchanges
from profiler.outputs.openapi import apis, openapi

RECORDED = Path(__file__).parents[1] / "replay" / "cases" / "demo" / "expected.jsonl"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """Yield the URL of a demo of its own."""
    server = make_server("127.0.0.1", 0, create_app({"SLOW_DELAY_MS": 1}), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def document() -> dict[str, Any]:
    [(name, endpoints)] = apis(Inventory(Exchanges(read(RECORDED)))).items()
    return openapi(name, endpoints)[0]


def run(document: dict[str, Any], url: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    (scratch / "openapi.json").write_text(json.dumps(document))
    program = str(Path(sys.executable).with_name("schemathesis"))
    # Positive: only requests as described, because nothing is known of others.
    line = [program, "run", "openapi.json", "--url", url, "--mode", "positive"]
    line += ["--checks", ",".join(CHECKS), "--max-examples", "50", "--seed", "1"]
    return subprocess.run(line, cwd=scratch, capture_output=True, text=True, check=False)


def test_the_demo_answers_as_described(demo: str, document: dict[str, Any], tmp_path: Path) -> None:
    done = run(document, demo, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {len(document['paths'])}" in done.stdout


def test_a_wrong_document_is_noticed(demo: str, document: dict[str, Any], tmp_path: Path) -> None:
    answer = document["paths"]["/healthz"]["get"]["responses"]["200"]
    properties = answer["content"]["application/json"]["schema"]["properties"]
    properties["status"] = {"type": "integer"}
    done = run(document, demo, tmp_path)
    assert done.returncode == 1 and "/healthz" in done.stdout
