# SPDX-License-Identifier: Apache-2.0
"""The inventory of a capture as JSON, which readers of YAML read too (YAML 1.2 contains JSON).

Lists are sorted, so the same exchanges in another order give the same document.
"""

from __future__ import annotations

from typing import Any

from profiler.exchanges.inventory import Call, Endpoint, Inventory, Messages, Service

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def inventory_json(inventory: Inventory) -> dict[str, Any]:
    """Return the document; latencies are milliseconds. Empty lists are absent."""
    services = sorted(inventory.services.values(), key=lambda one: one.name)
    return _without_empty(
        {
            "services": [{"name": one.name, **_service(one)} for one in services],
            "external": _service(inventory.external),
            "left_out": inventory.left_out,
        }
    )


def _service(service: Service) -> dict[str, Any]:
    endpoints = sorted(service.endpoints.values(), key=_order)
    calls = sorted(service.calls.values(), key=lambda one: (one.service or "", _order(one)))
    names = ("programs", "containers", "images", "pods", "units", "addresses")
    return _without_empty(
        {
            **{name: sorted(getattr(service, name)) for name in names},
            "endpoints": [_endpoint(one) for one in endpoints],
            "calls": [_call(one) for one in calls],
        }
    )


def _order(of: Endpoint | Call) -> tuple[str, str, str]:
    return of.host, of.path, of.method


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    latencies = endpoint.latencies
    shown = {name: latencies.percentile(share) for name, share in _SHARES.items()}
    return {
        **_target(endpoint),
        **_without_empty(
            {
                "latency_ms": {
                    name: round(value, 3) for name, value in shown.items() if value is not None
                },
                "query": sorted(endpoint.parameters),
                "request": _without_empty({"content": content(endpoint.requests)}),
                "responses": {
                    str(status): {
                        "count": messages.count,
                        **_without_empty({"content": content(messages)}),
                    }
                    for status, messages in sorted(endpoint.responses.items())
                },
            }
        ),
    }


def content(messages: Messages) -> dict[str, dict[str, Any]]:
    """Return the schema of each media type of messages; ``{}`` where none is known."""
    return {
        media_type: schema.to_json() if schema is not None else {}
        for media_type, schema in sorted(messages.content.items(), key=lambda one: one[0])
    }


def _call(call: Call) -> dict[str, Any]:
    return {**({"service": call.service} if call.service else {}), **_target(call)}


def _target(of: Endpoint | Call) -> dict[str, Any]:
    host = {"host": of.host} if of.host else {}
    counts = {"count": of.count, "failed": of.failed}
    return {**host, "method": of.method, "path": of.path, **counts}


def _without_empty(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value}
