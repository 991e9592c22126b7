# SPDX-License-Identifier: Apache-2.0
"""OpenAPI documents of what was seen: valid, and true of the messages that they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from profiler import cli, read
from profiler.commands.options import SAMPLE
from profiler.exchanges.endpoint import template
from profiler.exchanges.headers import header
from profiler.exchanges.inventory import Endpoint, Inventory, Messages
from profiler.exchanges.model import service
from profiler.exchanges.pair import Exchanges
from profiler.outputs.openapi import apis, openapi
from tests import sample_capture

CASES = Path(__file__).parents[1] / "replay" / "cases"
CAPTURES = [SAMPLE, *(path for path in sorted(CASES.glob("*/expected.jsonl")))]
Json = dict[str, Any]


def documents(path: Path) -> dict[str, Json]:
    found = {}
    for name, endpoints in apis(Inventory(Exchanges(read(path)))).items():
        found[name], left_out = openapi(name, endpoints)
        assert not left_out
    return found


def check_valid(document: Json) -> None:
    OpenAPIV31SpecValidator(document).validate()


def of(*endpoints: Endpoint) -> Json:
    document, _ = openapi("shop", endpoints)
    check_valid(document)
    return document


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.parent.name)
def test_documents_of_recorded_traffic_are_valid(path: Path) -> None:
    found = documents(path)
    for document in found.values():
        check_valid(document)
    assert found or path.parent.name not in ("profiler", "demo")


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.parent.name)
def test_every_response_is_described(path: Path) -> None:
    found = documents(path)
    for exchange in Exchanges(read(path)):
        if exchange.response is None or "url" not in exchange.asked:
            continue
        target = template(exchange.asked["url"])
        operation = found[service(exchange)]["paths"][target][exchange.asked["method"].lower()]
        response = operation["responses"][str(exchange.response["status_code"])]
        media_type = (header(exchange.response, "content-type") or "").partition(";")[0]
        if media_type:
            media = response["content"][media_type]
            if media_type == "application/json" and exchange.response.get("body"):
                validator = Draft202012Validator(media.get("schema", {}))
                validator.validate(json.loads(exchange.response["body"]))


def test_hostile_traffic_gives_a_valid_document(tmp_path: Path) -> None:
    path = sample_capture.hostile(tmp_path / "c.jsonl")
    for name, endpoints in apis(Inventory(Exchanges(read(path)))).items():
        check_valid(openapi(name, endpoints)[0])


def test_ids_become_parameters_of_different_names() -> None:
    document = of(Endpoint("GET", "/orders/{id}/items/{id}.json", ""))
    [(path, operations)] = document["paths"].items()
    assert path == "/orders/{id}/items/{id2}.json"
    assert [(one["name"], one["in"]) for one in operations["get"]["parameters"]] == [
        ("id", "path"),
        ("id2", "path"),
    ]


def test_other_braces_are_no_parameters() -> None:
    document = of(Endpoint("GET", "/{x}/}{/{id}", ""))
    assert [*document["paths"]] == ["/%7Bx%7D/%7D%7B/{id}"]


def test_parameters_of_the_query() -> None:
    document = of(Endpoint("GET", "/", "", parameters={"q": None, "page": None}))
    names = [(one["name"], one["in"]) for one in document["paths"]["/"]["get"]["parameters"]]
    assert names == [("page", "query"), ("q", "query")]


@pytest.mark.parametrize(("count", "expected"), [(2, True), (3, None)])
def test_a_body_is_required_if_all_requests_had_one(count: int, expected: bool | None) -> None:
    requests = Messages(count, 2, {"text/plain": None})
    document = of(Endpoint("POST", "/", "", requests=requests))
    body = document["paths"]["/"]["post"]["requestBody"]
    assert body["content"] == {"text/plain": {}} and body.get("required") == expected


def test_a_status_without_a_class_is_the_default() -> None:
    document = of(Endpoint("GET", "/", "", responses={299: Messages(1), 700: Messages(1)}))
    assert document["paths"]["/"]["get"]["responses"] == {
        "299": {"description": "Status 299"},
        "default": {"description": "Status 700"},
    }


def test_what_openapi_cannot_describe_is_counted() -> None:
    endpoints = [
        Endpoint("GET", "/", ""),
        Endpoint("PROPFIND", "/", ""),
        Endpoint("get", "/", ""),
        Endpoint("CONNECT", "x:443", ""),
        Endpoint("OPTIONS", "*", ""),
        Endpoint("GET", "/a b", ""),
        Endpoint("GET", "/a%20b", ""),
    ]
    document, left_out = openapi("shop", endpoints)
    check_valid(document)
    assert left_out == 5
    assert {path: [*one] for path, one in document["paths"].items()} == {
        "/": ["get"],
        "/a%20b": ["get"],
    }


def test_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inventory", "--sample", "--openapi", "--service", "catalog"]) == 0
    document = json.loads(capfd.readouterr().out)
    check_valid(document)
    assert document["info"]["title"] == "catalog"
    assert [*document["paths"]] == ["/healthz", "/v1/items/{id}"]
    operation = document["paths"]["/v1/items/{id}"]["get"]
    assert operation["responses"]["404"]["description"] == "Not Found"
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["type"] == "object" and schema["required"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "select it with --service: cart, catalog, frontend, payments"),
        (["--service", "nothing"], "--openapi needs a request, but none was read"),
    ],
)
def test_the_service_must_be_one(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inventory", "--sample", "--openapi", *arguments]) == 2
    out, err = capfd.readouterr()
    assert not out and words in err.splitlines()[-1]
