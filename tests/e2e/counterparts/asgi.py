# SPDX-License-Identifier: Apache-2.0
"""An ASGI application that echoes the body it receives."""


async def app(scope, receive, send):
    """Serve lifespan and http."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    message = await receive()
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": b"asgi " + message["body"]})
