# SPDX-License-Identifier: Apache-2.0
"""The page of a product, with what the services details, reviews and ratings know of it."""

from __future__ import annotations

import itertools
import socket
from collections import defaultdict
from typing import Any

import requests
from flask import Flask, Response, abort, jsonify, render_template_string, request

PORT = 9080
PRODUCTS = [{"id": 0, "title": "The Comedy of Errors", "descriptionHtml": "By Shakespeare."}]
# What each service passes on, so that its calls can be joined to a trace.
FORWARDED = ("x-request-id", "traceparent", "tracestate", "b3", "end-user", "cookie")
FORWARDED_PREFIX = "x-b3-"
PAGE = """<!doctype html>
<title>{{ product.title }}</title>
<h1>{{ product.title }}</h1>
<p>{{ product.descriptionHtml }} {{ details.pages }} pages, {{ details.publisher }}</p>
{% for review in reviews.reviews %}
<p>{{ review.reviewer }}: {{ review.text }}
{% if review.rating %}({{ review.rating.stars }} {{ review.rating.color }} stars){% endif %}
{% endfor %}
"""

app = Flask(__name__)
_turns: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)


@app.get("/productpage")
def page() -> str:
    """Show the first product."""
    return render_template_string(
        PAGE,
        product=PRODUCTS[0],
        details=call("details", "/details/0"),
        reviews=call("reviews", "/reviews/0"),
    )


@app.get("/api/v1/products")
def products() -> Response:
    """List the products."""
    return jsonify(PRODUCTS)


@app.get("/api/v1/products/<int:number>")
def product(number: int) -> Response:
    """Return the details of a product."""
    return jsonify(call("details", f"/details/{number}"))


@app.get("/api/v1/products/<int:number>/reviews")
def reviews(number: int) -> Response:
    """Return the reviews of a product."""
    return jsonify(call("reviews", f"/reviews/{number}"))


@app.get("/api/v1/products/<int:number>/ratings")
def ratings(number: int) -> Response:
    """Return the ratings of a product."""
    return jsonify(call("ratings", f"/ratings/{number}"))


def call(service: str, path: str) -> Any:
    """Request ``path`` from a container of a service, and pass a failure on."""
    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower() in FORWARDED or name.lower().startswith(FORWARDED_PREFIX)
    }
    response = requests.get(
        f"http://{address_of(service)}:{PORT}{path}",
        headers={**headers, "Host": f"{service}:{PORT}", "User-Agent": "productpage"},
        timeout=30,
    )
    if not response.ok:
        abort(Response(response.content, response.status_code, mimetype="application/json"))
    return response.json()


def address_of(service: str) -> str:
    """Return one of the addresses of a service's containers, each in turn."""
    found = socket.getaddrinfo(service, PORT, socket.AF_INET, socket.SOCK_STREAM)
    addresses = sorted({str(address[0]) for *_, address in found})
    return addresses[next(_turns[service]) % len(addresses)]
