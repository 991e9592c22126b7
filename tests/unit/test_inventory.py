# SPDX-License-Identifier: Apache-2.0
"""The inventory: services, endpoints and calls of exchanges, within bounds, without values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from profiler import cli, read
from profiler.commands.options import SAMPLE
from profiler.exchanges import inventory as bounds
from profiler.exchanges.body_schema import Limit
from profiler.exchanges.endpoint import template
from profiler.exchanges.headers import header
from profiler.exchanges.inventory import Inventory
from profiler.exchanges.model import failed, service
from profiler.exchanges.pair import Exchanges
from profiler.outputs.inventory import inventory_json
from tests import sample_capture

Json = dict[str, Any]
CASES = Path(__file__).parents[1] / "replay" / "cases"
RECORDED = sorted(path for path in CASES.glob("*/expected.jsonl") if path.stat().st_size)


def exchange(number: int, *roles: str, **changes: Any) -> Iterator[Json]:
    """Yield the lines of an exchange as its ends saw it; ``shop`` calls ``cart``.

    ``changes`` replace fields: of requests (``method``, ``url``), of responses (``status_code``),
    of the client's and the server's lines (``client``, ``server``), and of both messages.
    """
    ends = {role: changes.pop(role, {}) for role in ("client", "server")}
    reply = {name: changes.pop(name) for name in ("status_code", "latency_ms") if name in changes}
    asked = {"method": "GET", "url": "/", **changes.pop("request", {})}
    answer = {"status_code": 200, "latency_ms": 1.0, **reply, **changes.pop("response", {})}
    asked |= {name: changes.pop(name) for name in ("method", "url") if name in changes}
    for role in roles or ("client", "server"):
        base = {
            "timestamp": f"2026-01-01T00:00:00.{number:09d}Z",
            "comm": "shop" if role == "client" else "cart",
            "exchange": f"{number * 2 + (role == 'server')}-1",
            "netns": 1,
            "role": role,
            "connection": f"1:{number}",
            "source_ip": "10.0.0.1",
            "source_port": 40000,
            "dest_ip": "10.0.0.2",
            "dest_port": 80,
            **changes,
            **ends[role],
        }
        back = {
            "source_ip": "10.0.0.2",
            "source_port": 80,
            "dest_ip": "10.0.0.1",
            "dest_port": 40000,
        }
        yield {
            "headers": {"host": "cart.internal"},
            **base,
            **asked,
            "type": "request",
            "sequence": 1,
        }  # type: ignore[typeddict-item]
        yield {
            "headers": {},
            **base,
            **back,
            "dest_port": 40000,
            **answer,
            "type": "response",
            "sequence": 2,
        }  # type: ignore[typeddict-item]


def inventory(*lines: Iterator[Json]) -> Json:
    found = inventory_json(Inventory(Exchanges(one for some in lines for one in some)))
    json.dumps(found)
    return found


def by_name(found: Json) -> dict[str, Json]:
    return {one["name"]: one for one in found["services"]}


def test_an_exchange_that_both_ends_saw_counts_once() -> None:
    found = by_name(inventory(exchange(1), exchange(2, "server"), exchange(3, status_code=503)))
    [call] = found["shop"]["calls"]
    assert call == {"service": "cart", "method": "GET", "path": "/", "count": 2, "failed": 1}
    [endpoint] = found["cart"]["endpoints"]
    assert (endpoint["count"], endpoint["failed"]) == (3, 1)


def test_latencies_statuses_and_failures() -> None:
    lines = [exchange(n, latency_ms=float(n)) for n in range(1, 100)]
    [endpoint] = by_name(inventory(*lines, exchange(100, status_code=503)))["cart"]["endpoints"]
    assert (endpoint["count"], endpoint["failed"]) == (100, 1)
    assert {s: one["count"] for s, one in endpoint["responses"].items()} == {"200": 99, "503": 1}
    assert endpoint["latency_ms"] == {
        "p50": pytest.approx(50, rel=0.02),
        "p90": pytest.approx(90, rel=0.02),
        "p99": pytest.approx(99, rel=0.02),
    }


def test_ids_in_paths_and_names_of_parameters() -> None:
    found = inventory(
        exchange(1, url="/orders/17?page=1&api_key=hush"),
        exchange(2, url="/orders/18?q=x&eyJhbGciOi&550e8400-e29b-41d4-a716-446655440000=1"),
    )
    [endpoint] = by_name(found)["cart"]["endpoints"]
    assert (endpoint["path"], endpoint["count"]) == ("/orders/{id}", 2)
    assert endpoint["query"] == ["api_key", "page", "q"]


def test_media_types_without_their_parameters() -> None:
    odd = {"headers": {"content-type": "<script>/\n"}}
    found = inventory(
        exchange(1, response={"headers": {"content-type": "Text/HTML; charset=utf-8"}}),
        exchange(2, request={"headers": {"content-type": "multipart/form-data; boundary=x"}}),
        exchange(3, response=odd),
    )
    [endpoint] = by_name(found)["cart"]["endpoints"]
    assert [*endpoint["responses"]["200"]["content"]] == ["text/html"]
    assert [*endpoint["request"]["content"]] == ["multipart/form-data"]


def json_body(body: str, **changes: Any) -> Json:
    return {"headers": {"content-type": "application/json"}, "body": body, **changes}


def test_schemas_of_json_bodies() -> None:
    found = inventory(
        exchange(1, request=json_body('{"item": 1}'), response=json_body('{"id": 7}')),
        exchange(2, request=json_body('{"item": 2, "note": "x"}'), response=json_body("[]")),
        exchange(3, status_code=404, response=json_body('{"error": "none"}')),
        # Not whole, not JSON, or not text.
        exchange(4, request=json_body('{"ite', incomplete=["lost"]), response=json_body("{")),
        exchange(5, request=json_body("W10=", body_encoding="base64")),
        exchange(6, request=json_body("17", headers={"content-type": "text/plain"})),
    )
    [endpoint] = by_name(found)["cart"]["endpoints"]
    assert endpoint["request"]["content"] == {
        "application/json": {
            "type": "object",
            "properties": {"item": {"type": "integer"}, "note": {"type": "string"}},
            "required": ["item"],
        },
        "text/plain": {},
    }
    responses = endpoint["responses"]
    assert responses["200"]["content"]["application/json"]["type"] == ["array", "object"]
    assert responses["404"]["content"]["application/json"]["required"] == ["error"]


def test_the_end_that_saw_the_whole_body_gives_the_schema() -> None:
    lines = [*exchange(1, response=json_body('{"a": 1}'))]
    [seen] = (one for one in lines if (one["role"], one["type"]) == ("client", "response"))
    seen.update(body='{"a"', incomplete=["lost"])
    [endpoint] = by_name(inventory(iter(lines)))["cart"]["endpoints"]
    assert endpoint["responses"]["200"]["content"]["application/json"]["required"] == ["a"]


def test_schemas_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "Limit", lambda: Limit(3))
    body = json_body('{"a": 1, "b": 2, "c": 3}')
    found = inventory(exchange(1, response=body), exchange(2, url="/x", response=body))
    first, second = (
        endpoint["responses"]["200"]["content"]["application/json"]
        for endpoint in by_name(found)["cart"]["endpoints"]
    )
    assert [*first["properties"]] == ["a", "b"] and second == {}
    # One property, and another body whole.
    assert found["left_out"] == {"values": 2}


CONTAINER = {"id": "a" * 64, "name": "shop_cart_1", "image": "shop/cart:2"}
POD = {"name": "cart-7d9f-x", "namespace": "shop"}


def test_what_a_service_is() -> None:
    server = {"service": "basket", "container": CONTAINER, "pod": POD, "cgroup": "/x.service/y"}
    unit = {"service": "nginx", "cgroup": "/system.slice/nginx.service"}
    session = {"cgroup": "/system.slice/ssh.service"}
    found = by_name(
        inventory(
            exchange(1, server=server),
            exchange(2, server=unit),
            exchange(3, client=session, server=session),
        )
    )
    assert {name: one.get("units") for name, one in found.items()} == {
        "basket": None,
        "cart": None,
        "nginx": ["nginx.service"],
        "shop": None,
    }
    basket = found["basket"]
    assert basket["programs"] == ["cart"] and basket["containers"] == ["shop_cart_1"]
    assert basket["images"] == ["shop/cart:2"] and basket["pods"] == ["shop/cart-7d9f-x"]


def test_the_peer_names_an_end_without_records() -> None:
    server = {
        "service": "basket",
        "container": CONTAINER,
        "process": {"pid": 1, "comm": "gunicorn"},
    }
    client = {"process": {"pid": 2, "comm": "browser"}}
    found = inventory(
        exchange(1, "client", response={"peer": server}),
        exchange(2, "server", response={"peer": client}),
    )
    assert "external" not in found
    named = by_name(found)
    assert named["basket"]["programs"] == ["gunicorn"]
    assert named["basket"]["images"] == ["shop/cart:2"]
    assert named["shop"]["calls"][0]["service"] == "basket"
    assert named["browser"]["calls"][0]["service"] == "cart"


def test_external_ends_are_one_entry() -> None:
    found = inventory(
        exchange(1, "client"),
        exchange(2, "client", request={"headers": {"host": "Pay.example:8443"}}),
        exchange(3, "server"),
        exchange(4, "server", request={"headers": {}}),
    )
    external = found["external"]
    assert external["addresses"] == ["10.0.0.1", "cart.internal", "pay.example"]
    assert [(one["host"], one["count"]) for one in external["endpoints"]] == [
        ("cart.internal", 1),
        ("pay.example", 1),
    ]
    assert external["calls"] == [
        {"service": "cart", "method": "GET", "path": "/", "count": 2, "failed": 0}
    ]
    assert sorted(by_name(found)) == ["cart", "shop"]


def test_a_response_without_its_request_is_counted() -> None:
    lines = [one for one in exchange(1, "server") if one["type"] == "response"]
    assert inventory(iter(lines)) == {"left_out": {"unknown_requests": 1}}


LETTERS = "abcdefgh"


def test_services_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SERVICES_MAX", 3)
    servers = ({"comm": f"server-{letter}"} for letter in LETTERS)
    found = inventory(*(exchange(n, server=server) for n, server in enumerate(servers)))
    assert sorted(by_name(found)) == ["server-a", "server-b", "shop"]
    assert found["left_out"] == {"services": 6}


@pytest.mark.parametrize(
    ("bound", "owner", "table"),
    [("ENDPOINTS_MAX", "cart", "endpoints"), ("CALLS_MAX", "shop", "calls")],
)
def test_endpoints_and_calls_are_bounded(
    bound: str, owner: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, bound, 3)
    found = inventory(*(exchange(n, url=f"/{letter}") for n, letter in enumerate(LETTERS)))
    assert [one["path"] for one in by_name(found)[owner][table]] == ["/a", "/b", "/c"]
    assert found["left_out"] == {table: 5}


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "NAMES_MAX", 3)
    servers = [{"comm": letter, "service": "cart"} for letter in LETTERS]
    url = "/?" + "&".join(f"{letter}=1" for letter in LETTERS)
    longer = {"comm": "x" * 300, "service": "cart"}
    lines = [exchange(n, server=one, url=url) for n, one in enumerate([longer, *servers])]
    cart = by_name(inventory(*lines))["cart"]
    assert cart["programs"] == cart["endpoints"][0]["query"] == ["a", "b", "c"]


def test_the_sample() -> None:
    exchanges = list(Exchanges(read(SAMPLE)))
    found = inventory_json(Inventory(exchanges))
    served = {
        one["name"]: sum(endpoint["count"] for endpoint in one.get("endpoints", ()))
        for one in found["services"]
    }
    assert {name: n for name, n in served.items() if n} == Counter(map(service, exchanges))
    everything = [end for one in found["services"] for end in one.get("endpoints", ())]
    calls = [call for one in found["services"] for call in one.get("calls", ())]
    assert sum(one["count"] for one in everything) == len(exchanges)
    assert sum(one["count"] for one in calls) == len(exchanges)
    assert sum(one["failed"] for one in everything) == sum(map(failed, exchanges)) > 0
    cart = by_name(found)["cart"]
    assert [one["service"] for one in cart["calls"]] == ["payments"]


def test_the_command_prints_json_that_is_yaml(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inventory", "--sample", "--no-redact"]) == 0
    printed = capfd.readouterr().out
    found = inventory_json(Inventory(Exchanges(read(SAMPLE))))
    assert json.loads(printed) == yaml.safe_load(printed) == found


def test_what_is_left_out_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bounds, "SERVICES_MAX", 4)
    assert cli.main(["inventory", "--sample"]) == 0
    out, err = capfd.readouterr()
    count = json.loads(out)["left_out"]["services"]
    assert f"left out of the inventory: services {count}\n" in err


@pytest.mark.parametrize("path", [SAMPLE, *RECORDED], ids=lambda path: path.parent.name)
def test_every_json_body_is_valid(path: Path) -> None:
    exchanges = list(Exchanges(read(path)))
    found = Inventory(exchanges)
    everything = [*found.services.values(), found.external]
    validated = 0
    for one in exchanges:
        name = service(one)
        target = one.asked.get("method", ""), template(one.asked.get("url", ""))
        owners = [end for end in everything if end.name == name or name in end.addresses]
        ends = [end for owner in owners for end in owner.endpoints.values()]
        [endpoint] = (end for end in ends if (end.method, end.path) == target)
        for message in (one.request, one.response):
            if message is None or header(message, "content-type") != "application/json":
                continue
            status = message.get("status_code")
            messages = endpoint.responses[status] if status else endpoint.requests
            schema = messages.content["application/json"]
            if message.get("body") and "incomplete" not in message:
                assert schema is not None
                Draft202012Validator(schema.to_json()).validate(json.loads(message["body"]))
                validated += 1
    assert validated or path.parent.name not in ("profiler", "demo")


def test_no_value_of_a_message_is_shown() -> None:
    lines = list(sample_capture.records(300))
    found = json.dumps(inventory_json(Inventory(Exchanges(lines))))
    for value in (sample_capture.SECRET, "Teapot", "teapot", "Mozilla", "text/html; charset"):
        assert value not in found
        assert value in json.dumps(lines)
    assert "api_key" in found
