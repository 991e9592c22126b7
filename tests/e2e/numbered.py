# SPDX-License-Identifier: Apache-2.0
"""A WSGI application that logs each request and its response; runs in the guest.

test_load.py serves it with pre-forked gunicorn workers. Each request writes one JSON line to
the file in LOG, in a single write, so that lines of different workers do not mix.
"""

from __future__ import annotations

import hashlib
import json
import os

LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def application(environ, start_response):
    number = int(environ["HTTP_X_NUMBER"])
    asked = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    # Makes every response different, also in length.
    answer = (f"answer {number} " * (1 + number % 400)).encode()
    facts = {
        "number": number,
        "pid": os.getpid(),
        "asked": hashlib.sha256(asked).hexdigest(),
        "answered": hashlib.sha256(answer).hexdigest(),
    }
    os.write(LOG, json.dumps(facts).encode() + b"\n")
    headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(answer))),
        ("X-Number", str(number)),
    ]
    start_response("200 OK", headers)
    return [answer]
