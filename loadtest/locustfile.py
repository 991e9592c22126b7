# SPDX-License-Identifier: Apache-2.0
"""Calls the demo's four endpoints in a loop, with GET and POST.

``locust -f loadtest/`` serves Locust's web page; with ``--headless`` it runs until
``TOTAL_REQUESTS`` have been answered.

==================  =======================================  ===========
``TARGET_HOST``     the demo's address                        127.0.0.1
``HTTP_PORT``       the demo's port                                 8080
``TOTAL_REQUESTS``  stop after this many; 0 never stops        50
``REQUEST_DELAY_MS``  each user's pause between requests    500
==================  =======================================  ===========
"""

from __future__ import annotations

import itertools
import os

import gevent
from locust import HttpUser, constant, events, task
from locust.env import Environment

TARGET_HOST = os.environ.get("TARGET_HOST", "127.0.0.1")
HTTP_PORT = int(os.environ.get("HTTP_PORT", "8080"))
TOTAL_REQUESTS = int(os.environ.get("TOTAL_REQUESTS", "50"))
REQUEST_DELAY_MS = int(os.environ.get("REQUEST_DELAY_MS", "500"))

# One counter for all users of this process: requests are numbered, and none follows the last.
_numbers = itertools.count(1)

# The number of finished requests: a user that finds all requests sent must not end the run
# while another user still waits for a response.
_ended = itertools.count(1)


class DemoUser(HttpUser):
    """Calls each endpoint in turn."""

    host = f"http://{TARGET_HOST}:{HTTP_PORT}"
    wait_time = constant(REQUEST_DELAY_MS / 1000)

    @task
    def next_request(self) -> None:
        """Send the next request of the loop; when the last one ends, the run ends."""
        number = next(_numbers)
        if TOTAL_REQUESTS and number > TOTAL_REQUESTS:
            self.stop()
            return
        send = (self.index, self.healthz, self.echo, self.slow)[(number - 1) % 4]
        try:
            send(number)
        finally:
            if next(_ended) == TOTAL_REQUESTS:
                # In a separate greenlet: quitting stops this user's.
                gevent.spawn(self.environment.runner.quit)

    def index(self, number: int) -> None:
        """GET /."""
        self.client.get("/", headers={"X-Request-Number": str(number)})

    def healthz(self, number: int) -> None:
        """GET /healthz."""
        self.client.get("/healthz", headers={"X-Request-Number": str(number)})

    def echo(self, number: int) -> None:
        """POST /echo with JSON, and check that it comes back."""
        message = f"hello {number}"
        with self.client.post(
            "/echo",
            json={"message": message},
            headers={"X-Request-Number": str(number)},
            catch_response=True,
        ) as response:
            if response.ok and response.json().get("message") != message:
                response.failure(f"sent {message!r}, got {response.text!r}")

    def slow(self, number: int) -> None:
        """GET /slow."""
        self.client.get("/slow", headers={"X-Request-Number": str(number)})


@events.quitting.add_listener
def fail_on_errors(environment: Environment, **_: object) -> None:
    """Exit with 1 if a request failed."""
    if environment.stats.total.num_failures:
        environment.process_exit_code = 1
