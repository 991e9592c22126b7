# SPDX-License-Identifier: Apache-2.0
"""Visits the mesh: each visit sends one request, the pages in turn, with the headers of a trace.

``VISITS`` is the number of requests (40). The first waits until every container of the mesh accepts
connections.
"""

from __future__ import annotations

import itertools
import os
import socket
import time

import gevent
from locust import HttpUser, constant, events, task
from locust.env import Environment

VISITS = int(os.environ.get("VISITS", "40"))
PAGES = (
    "/productpage?u=normal",
    "/api/v1/products",
    "/productpage?u=test",
    "/api/v1/products/0",
    "/api/v1/products/0/reviews",
    "/api/v1/products/0/ratings",
    "/productpage",
    "/api/v1/products/unknown",
)
PLACES = {
    "gateway": 8080,
    "productpage": 9443,
    "details": 9080,
    "reviews": 9080,
    "ratings": 9080,
}

_numbers = itertools.count(1)
_ended = itertools.count(1)


class Visitor(HttpUser):
    """Visits the pages in turn."""

    host = "http://gateway:8080"
    wait_time = constant(0)

    @task
    def visit(self) -> None:
        """Send the next request; when the last one ends, the run ends."""
        number = next(_numbers)
        if number > VISITS:
            self.stop()
            return
        page = PAGES[(number - 1) % len(PAGES)]
        trace = f"{number:032x}"
        headers = {
            "User-Agent": "visitor",
            "traceparent": f"00-{trace}-{number:016x}-01",
            "tracestate": "mesh=1",
            "x-b3-traceid": trace,
            "x-b3-sampled": "1",
            "end-user": "jason",
        }
        expected = 404 if page.endswith("unknown") else 200
        try:
            with self.client.get(page, headers=headers, catch_response=True) as response:
                if response.status_code == expected:
                    response.success()
                else:
                    response.failure(f"status {response.status_code}, not {expected}")
        finally:
            if next(_ended) == VISITS:
                # In a separate greenlet: quitting stops this user's.
                gevent.spawn(self.environment.runner.quit)


@events.test_start.add_listener
def wait_for_the_mesh(**_: object) -> None:
    """Connect to each container; a connection without a request produces no line."""
    for name, port in PLACES.items():
        found = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)
        for address in {address for *_, address in found}:
            while True:
                try:
                    socket.create_connection(address, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)


@events.quitting.add_listener
def fail_on_errors(environment: Environment, **_: object) -> None:
    """Exit with 1 if a request failed."""
    if environment.stats.total.num_failures:
        environment.process_exit_code = 1
