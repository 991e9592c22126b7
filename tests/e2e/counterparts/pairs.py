# SPDX-License-Identifier: Apache-2.0
"""Servers and clients that are libraries: ``pairs.py FUNCTION ARGUMENT...``."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

GRPC, WEBSOCKET = 9007, 9008


def serve_grpc() -> None:
    """A unary method that echoes its request; bytes are their own serialization."""
    import grpc

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method == "/echo.Echo/Fail":
                return grpc.unary_unary_rpc_method_handler(fail)
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    def fail(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    server = grpc.server(ThreadPoolExecutor(2), handlers=(Handler(),))
    server.add_insecure_port(f"127.0.0.1:{GRPC}")
    server.start()
    server.wait_for_termination()


def call_grpc(method: str, token: str) -> None:
    """Make one call, with a header that identifies it."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{GRPC}") as channel:
        call = channel.unary_unary(f"/echo.Echo/{method}")
        try:
            call(b"hello", metadata=[("x-token", token)])
        except grpc.RpcError as error:
            print(error.code())


def serve_websocket() -> None:
    """Echo every message."""
    import websockets

    async def echo(connection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with websockets.serve(echo, "127.0.0.1", WEBSOCKET):
            await asyncio.Future()

    asyncio.run(main())


def call_websocket(path: str) -> None:
    """Send a message, and wait for the echo."""
    import websockets

    async def main() -> None:
        async with websockets.connect(f"ws://127.0.0.1:{WEBSOCKET}{path}") as connection:
            await connection.send("GET / HTTP/1.1\r\n\r\n")
            await connection.recv()

    asyncio.run(main())


def call_requests(url: str) -> None:
    """Send two requests on one connection, with a session."""
    import requests

    with requests.Session() as session:
        session.post(url, data=b"one").raise_for_status()
        session.post(url, data=b"two").raise_for_status()


def call_aiohttp(url: str) -> None:
    """Send a chunked upload."""
    import aiohttp

    async def parts():
        yield b"one"
        yield b"two"

    async def main() -> None:
        async with aiohttp.ClientSession() as session, session.post(url, data=parts()) as answer:
            await answer.read()

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
