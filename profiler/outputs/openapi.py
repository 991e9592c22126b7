# SPDX-License-Identifier: Apache-2.0
"""An OpenAPI 3.1 document of what was seen of a service (https://spec.openapis.org/oas/v3.1.1).

It has every method and path, but for those that OpenAPI cannot describe: other methods than eight,
and targets that are no path, as of ``CONNECT``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from profiler.exchanges.inventory import Endpoint, Inventory, Messages
from profiler.outputs.inventory import content

# 4.8.9, Path Item Object.
_METHODS = frozenset(["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"])
_ID = "{id}"
# What a path may contain besides letters and digits (RFC 3986, 3.3), and its percent signs.
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~-._"


def apis(inventory: Inventory) -> dict[str, list[Endpoint]]:
    """Return the endpoints of each service that answered; of external ones, by host."""
    found = {
        service.name: list(service.endpoints.values())
        for service in inventory.services.values()
        if service.endpoints
    }
    for endpoint in inventory.external.endpoints.values():
        found.setdefault(endpoint.host, []).append(endpoint)
    return found


def openapi(title: str, endpoints: Iterable[Endpoint]) -> tuple[dict[str, Any], int]:
    """Return the document, and the number of endpoints that it does not describe."""
    paths: dict[str, dict[str, Any]] = {}
    count = left_out = 0
    for endpoint in sorted(endpoints, key=lambda one: (one.path, one.method)):
        method = endpoint.method.lower()
        if endpoint.method not in _METHODS or not endpoint.path.startswith("/"):
            left_out += 1
            continue
        path, names = _path(endpoint.path)
        operations = paths.setdefault(path, {})
        if method in operations:
            # Two paths that differ only in how they are encoded.
            left_out += 1
            continue
        operations[method] = _operation(endpoint, names)
        count += endpoint.count
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": "observed",
            "description": f"Made by http-profiler from {count} exchanges. It describes what was "
            "seen. There may be other endpoints, parameters and properties.",
        },
        "paths": paths,
    }
    return document, left_out


def _path(template: str) -> tuple[str, list[str]]:
    """Return a path with parameters of different names, and these names."""
    names: list[str] = []

    def parameter(_: re.Match[str]) -> str:
        names.append(f"id{len(names) + 1}" if names else "id")
        return f"{{{names[-1]}}}"

    # Other braces would be parameters too.
    literal = _ID.join(quote(one, safe=_PATH_CHARACTERS) for one in template.split(_ID))
    return re.sub(re.escape(_ID), parameter, literal), names


def _operation(endpoint: Endpoint, names: list[str]) -> dict[str, Any]:
    operation: dict[str, Any] = {}
    parameters = [*(_parameter(name, "path") for name in names)]
    parameters += [_parameter(name, "query") for name in sorted(endpoint.parameters)]
    if parameters:
        operation["parameters"] = parameters
    requests = endpoint.requests
    if requests.content:
        # As with properties: required is what all had.
        required = {"required": True} if requests.with_content == requests.count else {}
        operation["requestBody"] = {**_content(requests), **required}
    responses = dict(_responses(endpoint.responses))
    if responses:
        operation["responses"] = responses
    return operation


def _parameter(name: str, place: str) -> dict[str, Any]:
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, **required, "schema": {"type": "string"}}


def _responses(responses: dict[int, Messages]) -> Iterator[tuple[str, dict[str, Any]]]:
    for status, messages in sorted(responses.items()):
        # 4.8.16, Responses Object: other statuses have no key of their own.
        key = str(status) if status < 600 else "default"
        yield key, {"description": _reason(status), **_content(messages)}


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def _content(messages: Messages) -> dict[str, Any]:
    shown = {
        media_type: {"schema": schema} if schema else {}
        for media_type, schema in content(messages).items()
    }
    return {"content": shown} if shown else {}
