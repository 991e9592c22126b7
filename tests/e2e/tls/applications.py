# SPDX-License-Identifier: Apache-2.0
"""Applications that return a file, or the body they received (POST)."""

from __future__ import annotations

from pathlib import Path

FILES = Path("/tmp/tls/files")


def wsgi(environ, start_response):
    """Run in gunicorn."""
    if environ["REQUEST_METHOD"] == "POST":
        body = environ["wsgi.input"].read()
    else:
        body = (FILES / environ["PATH_INFO"].lstrip("/")).read_bytes()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


async def asgi(scope, receive, send) -> None:
    """Run in hypercorn."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    if scope["method"] == "GET":
        body = (FILES / scope["path"].lstrip("/")).read_bytes()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
