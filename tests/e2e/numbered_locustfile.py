# SPDX-License-Identifier: Apache-2.0
"""Twenty users that number their requests and log the responses; runs in the guest."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random

from locust import HttpUser, constant, task

LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

_numbers = itertools.count(1)


class NumberedUser(HttpUser):
    host = f"{os.environ.get('SCHEME', 'http')}://127.0.0.1:{os.environ['PORT']}"
    wait_time = constant(0.1)

    def on_start(self) -> None:
        # Locust ignores the environment's REQUESTS_CA_BUNDLE.
        self.client.verify = os.environ.get("CERTIFICATE", True)

    @task
    def ask(self) -> None:
        number = next(_numbers)
        body = random.Random(number).randbytes(number * 37 % 5000)
        response = self.client.post(
            f"/{os.environ['TOKEN']}/{number}",
            body,
            headers={"X-Number": str(number)},
            name="numbered",
        )
        facts = {
            "number": number,
            "status": response.status_code,
            "asked": hashlib.sha256(body).hexdigest(),
            "answered": hashlib.sha256(response.content).hexdigest(),
        }
        os.write(LOG, json.dumps(facts).encode() + b"\n")
