# SPDX-License-Identifier: Apache-2.0
"""A small Flask application whose traffic the profiler is shown on.

======================  =====================================================
``GET  /``              ``ok <RFC 3339 time>``
``GET  /healthz``       ``{"status": "ok", "time": "..."}``
``POST /echo``          the JSON ``message`` it was sent
``GET  /slow``          waits ``SLOW_DELAY_MS`` (default 400), and says so
======================  =====================================================

``flask --app demo run`` serves it for a look; ``gunicorn 'demo:create_app()'``
is how the guests run it.
"""

from demo.app import create_app

__all__ = ["create_app"]
