# SPDX-License-Identifier: Apache-2.0
"""Endpoints: which parts of a path are ids, and which name a kind of thing."""

from __future__ import annotations

import pytest

from profiler.exchanges.endpoint import endpoint, template
from profiler.exchanges.model import Exchange, Side


@pytest.mark.parametrize(
    ("path", "grouped"),
    [
        ("/orders/123", "/orders/{id}"),
        ("/orders/123?full=1", "/orders/{id}"),
        ("http://shop/orders/123", "/orders/{id}"),
        ("/img/p356.jpg", "/img/{id}.jpg"),
        ("/img/p3.jpg", "/img/{id}.jpg"),
        ("/images/ABC-123.png", "/images/{id}.png"),
        ("/assets/main.3f2a9c1b.js", "/assets/main.{id}.js"),
        ("/a/3f2a9c1b7d/x", "/a/{id}/x"),
        ("/h/d41d8cd98f00b204e9800998ecf8427e", "/h/{id}"),
        ("/u/550e8400-e29b-41d4-a716-446655440000", "/u/{id}"),
        ("/u/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/u/{id}"),
        ("/watch/dQw4w9WgXcQ", "/watch/{id}"),
        ("/products/OLJCESPC7Z", "/products/{id}"),
        ("/c/cus_9s6XKzkNRiz8i3", "/c/{id}"),
        ("/reports/2024-01-31", "/reports/{id}"),
        ("/reports/20240131", "/reports/{id}"),
        ("/r/2024-01-31T10:00:00Z", "/r/{id}"),
        ("/items/item_7", "/items/{id}"),
        ("/blog/blue-shirt-42", "/blog/{id}"),
        ("/blog/42-blue-shirt", "/blog/{id}"),
        ("/users/jane@example.com", "/users/{id}"),
        ("/pkg/1.2.3/x", "/pkg/{id}/x"),
        ("/x;jsessionid=AAA", "/x"),
    ],
)
def test_an_id_of_any_usual_shape(path: str, grouped: str) -> None:
    assert template(path) == grouped


@pytest.mark.parametrize(
    "path",
    [
        "/", "*", "shop:443", "/healthz", "/v1/users", "/api/v2.1/x", "/oauth2/token", "/sha256",
        "/s3/bucket", "/index.html", "/index2.html", "/app2.js", "/favicon.ico", "/robots.txt",
        "/shop.CartService/GetCart", "/API/USERS", "/facade", "/static/app.js", "/x.m3u8",
    ],
)  # fmt: skip
def test_what_names_a_kind_of_thing_stays(path: str) -> None:
    assert template(path) == path


def test_an_endpoint() -> None:
    request = {
        "type": "request", "timestamp": "2026-01-01T00:00:00Z", "method": "GET", "url": "/a/7",
        "headers": {"host": "shop"}, "dest_ip": "10.0.0.1", "dest_port": 80,
    }  # fmt: skip
    for more, expected in (
        ({}, "GET shop/a/{id}"),
        ({"headers": {}}, "GET 10.0.0.1:80/a/{id}"),
        ({"method": "CONNECT", "url": "db:5432"}, "CONNECT db:5432"),
        ({"url": "http://other/a/7"}, "GET shop/a/{id}"),
    ):
        exchange = Exchange(Side({**request, **more}, (), None), None)  # type: ignore[typeddict-item]
        assert endpoint(exchange) == expected
