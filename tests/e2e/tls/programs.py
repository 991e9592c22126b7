# SPDX-License-Identifier: Apache-2.0
"""Servers and clients with TLS that are libraries: ``programs.py FUNCTION ARGUMENT...``."""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import http.server
import os
import ssl
import sys
import time
import urllib.request
from pathlib import Path

CERTIFICATE, KEY = "/tmp/tls/certificate.pem", "/tmp/tls/key.pem"
TEXT, LARGE = Path("/tmp/tls/files/text"), Path("/tmp/tls/files/large")


def serve(port: str) -> None:
    """Echo bodies, with a blocking socket for each connection; ``/wait`` gets no answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/wait"):
                self.rfile.read()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            # The connection ends the body, without close_notify.
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            self.wfile.write(TEXT.read_bytes())

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def tunnel(port: str) -> None:
    """Serve as a proxy that only connects (CONNECT)."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        host, _, port = head.split()[1].decode().partition(":")
        others = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(copy(reader, others[1]), copy(others[0], writer))

    async def main() -> None:
        async with await asyncio.start_server(connect, "127.0.0.1", int(port)) as server:
            await server.serve_forever()

    asyncio.run(main())


def call_requests(url: str, *bodies: str) -> None:
    """Send the bodies one after the other on one connection, with a session."""
    import requests

    with requests.Session() as session:
        session.verify = CERTIFICATE
        for body in bodies:
            session.post(url, data=body.encode()).raise_for_status()


def call_bio(port: str, path: str) -> None:
    """Send a request with BIO_write(3), and read the answer with BIO_read(3), of OpenSSL 3."""
    library = ctypes.CDLL("libssl.so.3")
    crypto = ctypes.CDLL("libcrypto.so.3")
    for function in (library.TLS_client_method, library.SSL_CTX_new, library.BIO_new_ssl_connect):
        function.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_client_method())))
    bio = ctypes.c_void_p(library.BIO_new_ssl_connect(context))
    set_address = 100  # BIO_C_SET_CONNECT
    crypto.BIO_ctrl(bio, set_address, 0, f"127.0.0.1:{port}".encode())
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    if crypto.BIO_write(bio, request, len(request)) != len(request):
        sys.exit("BIO_write failed")
    buffer = ctypes.create_string_buffer(1000)
    answer = b""
    while (size := crypto.BIO_read(bio, buffer, len(buffer))) > 0:
        answer += buffer.raw[:size]
    crypto.BIO_free_all(bio)
    if not answer.startswith(b"HTTP/1.0 200 ok"):
        sys.exit(f"the answer is {answer[:100]!r}")


def call_once(url: str) -> None:
    """Request a text whose end is that of the connection."""
    host, path = url.partition("//")[2].split("/", 1)
    context = ssl.create_default_context(cafile=CERTIFICATE)
    connection = http.client.HTTPSConnection(host, context=context)
    connection.request("GET", f"/{path}")
    if connection.getresponse().read() != TEXT.read_bytes():
        sys.exit("the answer is wrong")


def call_until(url: str, end: str) -> None:
    """Send requests on one connection until the file ``end`` exists."""
    host, path = url.partition("//")[2].split("/", 1)
    context = ssl.create_default_context(cafile=CERTIFICATE)
    connection = http.client.HTTPSConnection(host, context=context)
    while not Path(end).exists():
        connection.request("POST", f"/{path}", b"x")
        connection.getresponse().read()
        time.sleep(0.2)


def call_and_run(url: str, *command: str) -> None:
    """Send a request, then run another program in this process."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    urllib.request.urlopen(url, b"x", context=context).read()
    os.execvp(command[0], command)


def call_until_wrong(url: str, file: str, end: str) -> None:
    """Request a file on one connection until ``end`` exists; print the number of right answers."""
    host, path = url.partition("//")[2].split("/", 1)
    context = ssl.create_default_context(cafile=CERTIFICATE)
    connection = http.client.HTTPSConnection(host, context=context)
    wanted = Path(file).read_bytes()
    number = 0
    while not Path(end).exists():
        connection.request("GET", f"/{path}")
        if connection.getresponse().read() != wanted:
            sys.exit(f"answer {number} is wrong")
        number += 1
    print(number)


def call_httpx(version: str, small: str, large: str, target: str) -> None:
    """Send two requests for files and one with a body on one connection."""
    import httpx

    body = LARGE.read_bytes()
    versions = {"http1": version == "1.1", "http2": version == "2"}
    with httpx.Client(verify=ssl.create_default_context(cafile=CERTIFICATE), **versions) as client:
        for answer in (client.get(small), client.get(large), client.post(target, content=body)):
            answer.raise_for_status()


def call_pycurl(small: str, large: str, target: str) -> None:
    """Send two requests for files and one with a body on one connection."""
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.CAINFO, CERTIFICATE)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.FAILONERROR, True)
    curl.setopt(pycurl.WRITEFUNCTION, len)
    for url in (small, large, target):
        curl.setopt(pycurl.URL, url)
        if url == target:
            curl.setopt(pycurl.HTTPHEADER, ["Expect:", "Content-Type: text/plain"])
            curl.setopt(pycurl.POSTFIELDS, LARGE.read_text())
        curl.perform()


def call_aiohttp(url: str, count: str) -> None:
    """Send ``count`` requests at once, each with a body of its own, and compare the answers."""
    import aiohttp

    context = ssl.create_default_context(cafile=CERTIFICATE)

    async def call(session: aiohttp.ClientSession, number: int) -> None:
        body = f"number {number} " * 100
        async with session.post(f"{url}-{number}", data=body, ssl=context) as answer:
            assert body in await answer.text()

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(call(session, number) for number in range(int(count))))

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
