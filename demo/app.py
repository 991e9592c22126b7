# SPDX-License-Identifier: Apache-2.0
"""The application factory and its four views."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from flask import Blueprint, Flask, Response, abort, current_app, jsonify, request

views = Blueprint("views", __name__)


def create_app(test_config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application; ``test_config`` overrides the environment."""
    app = Flask("demo")
    app.config["SLOW_DELAY_MS"] = int(os.environ.get("SLOW_DELAY_MS", "400"))
    app.config.update(test_config or {})
    app.register_blueprint(views)
    return app


@views.get("/")
def index() -> Response:
    """Report that it works, with the time."""
    return Response(f"ok {_now()}\n", mimetype="text/plain")


@views.get("/healthz")
def healthz() -> Response:
    """Respond to a health check."""
    return jsonify(status="ok", time=_now())


@views.post("/echo")
def echo() -> Response:
    """Return the JSON ``message`` of the request; 400 if it has none."""
    document = request.get_json()
    if not isinstance(document, dict) or "message" not in document:
        abort(400, 'send a JSON object with a "message"')
    return jsonify(message=document["message"])


@views.get("/slow")
def slow() -> Response:
    """Respond after a delay."""
    delay_ms = current_app.config["SLOW_DELAY_MS"]
    time.sleep(delay_ms / 1000)
    return jsonify(status="ok", delay_ms=delay_ms)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
