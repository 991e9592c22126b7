# SPDX-License-Identifier: Apache-2.0
"""The shop of the sample: ``shop.py ROLE``, with ROLE one of frontend, catalog, cart, payments,
customers and monitor.

frontend calls catalog and cart by HTTP, cart calls payments by gRPC. Two things are wrong with
it, for a newcomer to find: one item is slow, and payments declines one card. Customers then get
a status of 502.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORTS = {"frontend": 8080, "catalog": 8081, "cart": 8082, "payments": 8083}
ITEMS = {7: "Samovar", 12: "Teapot", 31: "Cup", 44: "Kettle"}
CHARGE = "/shop.v1.Payments/Charge"
SLOW_ITEM, SLOW_SECONDS = 7, 0.8
DECLINED = "4000000000000002"
CARDS = ("4242424242424242", "5555555555554444", DECLINED)
VISITS = 24


def call(service: str, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
    """Send one request to a service of the shop; return the status and the document."""
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers = {**headers, "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{PORTS[service]}{path}"
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class Service(BaseHTTPRequestHandler):
    """An HTTP service. A subclass implements ``answer()``."""

    protocol_version = "HTTP/1.1"

    def answer(self, path: str, body: Any, headers: dict[str, str]) -> Any:
        """Return status and document."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Respond with a JSON document."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        passed_on = {
            name: self.headers[name]
            for name in ("traceparent", "Authorization")
            if name in self.headers
        }
        status, document = (
            (200, {"status": "ok"})
            if self.path == "/healthz"
            else self.answer(self.path, body, passed_on)
        )
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Write no log."""


class Frontend(Service):
    """What customers see."""

    def answer(self, path: str, body: Any, headers: dict[str, str]) -> Any:
        """Return status and document."""
        if path == "/":
            return 200, {"items": sorted(ITEMS)}
        if path.startswith("/items/"):
            return call("catalog", "GET", f"/v1{path}", headers)
        if path == "/checkout":
            status, document = call("cart", "POST", f"/v1/carts/{body['user']}/pay", headers, body)
            return (200, document) if status == 200 else (502, {"error": document["error"]})
        return 404, {"error": f"no page {path}"}


class Catalog(Service):
    """The items."""

    def answer(self, path: str, body: Any, headers: dict[str, str]) -> Any:
        """Return status and document."""
        number = int(path.rpartition("/")[2])
        if number == SLOW_ITEM:
            time.sleep(SLOW_SECONDS)
        if number not in ITEMS:
            return 404, {"error": f"no item {number}"}
        return 200, {"id": number, "name": ITEMS[number], "price": 24.5}


class Cart(Service):
    """Carts, and paying for them."""

    def answer(self, path: str, body: Any, headers: dict[str, str]) -> Any:
        """Return status and document."""
        return asyncio.run(_charge(body, headers))


async def _charge(body: Any, headers: dict[str, str]) -> Any:
    from grpclib.client import Channel, UnaryUnaryMethod
    from grpclib.exceptions import GRPCError

    channel = Channel("127.0.0.1", PORTS["payments"], codec=_json_codec())
    metadata = {name.lower(): value for name, value in headers.items()}
    try:
        charge = UnaryUnaryMethod(channel, CHARGE, dict, dict)
        return 200, await charge(body, metadata=metadata)
    except GRPCError as error:
        return 500, {"error": f"payments: {error.status.name}: {error.message}"}
    finally:
        channel.close()


def _json_codec() -> Any:
    from grpclib.encoding.base import CodecBase

    class Json(CodecBase):  # type: ignore[misc]
        __content_subtype__ = "json"

        def encode(self, message: Any, message_type: type) -> bytes:
            return json.dumps(message).encode()

        def decode(self, data: bytes, message_type: type) -> Any:
            return json.loads(data)

    return Json()


async def payments() -> None:
    """Serve one gRPC method, which declines one card."""
    from grpclib.const import Cardinality, Handler, Status
    from grpclib.exceptions import GRPCError
    from grpclib.server import Server

    async def charge(stream: Any) -> None:
        card = (await stream.recv_message())["card"]
        if card == DECLINED:
            raise GRPCError(Status.FAILED_PRECONDITION, "the card was declined")
        await stream.send_message({"receipt": f"r-{card[-4:]}"})

    class Payments:
        def __mapping__(self) -> dict[str, Any]:
            return {CHARGE: Handler(charge, Cardinality.UNARY_UNARY, dict, dict)}

    server = Server([Payments()], codec=_json_codec())
    await server.start("127.0.0.1", PORTS["payments"])
    await server.wait_closed()


def customers() -> None:
    """Visit the shop, one customer after the other: the same requests in each run."""
    chance = random.Random(1)

    def visit(method: str, path: str, body: Any = None) -> None:
        parent = f"00-{chance.getrandbits(128):032x}-{chance.getrandbits(64):016x}-01"
        token = f"{chance.getrandbits(96):024x}"
        headers = {"traceparent": parent, "Authorization": f"Bearer {token}"}
        call("frontend", method, path, headers, body)

    for number in range(VISITS):
        visit("GET", "/")
        for item in chance.sample(sorted(ITEMS), 2):
            visit("GET", f"/items/{item}")
        if number == VISITS // 2:
            visit("GET", "/items/99")
        if number % 2:
            visit("POST", "/checkout", {"user": f"u-{number}", "card": CARDS[number // 2 % 3]})


def monitor() -> None:
    """Request /healthz of each HTTP service every five seconds, until terminated."""
    while True:
        for service in ("frontend", "catalog", "cart"):
            call(service, "GET", "/healthz", {})
        time.sleep(5)


def main(role: str) -> None:
    """Play one part of the shop."""
    if role in ("cart", "payments"):
        # Else the first request would include the time of the import.
        import grpclib.client
        import grpclib.server  # noqa: F401
    services = {"frontend": Frontend, "catalog": Catalog, "cart": Cart}
    if role in services:
        ThreadingHTTPServer(("127.0.0.1", PORTS[role]), services[role]).serve_forever()
    else:
        parts = {
            "payments": lambda: asyncio.run(payments()),
            "customers": customers,
            "monitor": monitor,
        }
        parts[role]()


if __name__ == "__main__":
    main(sys.argv[1])
