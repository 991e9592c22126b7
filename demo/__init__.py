# SPDX-License-Identifier: Apache-2.0
"""A small Flask application that demonstrates the profiler.

======================  =====================================================
``GET  /``              ``ok <RFC 3339 time>``
``GET  /healthz``       ``{"status": "ok", "time": "..."}``
``POST /echo``          returns the JSON ``message`` that it received
``GET  /slow``          responds after ``SLOW_DELAY_MS`` (default 400)
======================  =====================================================

``flask --app demo run`` serves it for a quick look; the guests run
``gunicorn 'demo:create_app()'``.
"""

from demo.app import create_app

__all__ = ["create_app"]
