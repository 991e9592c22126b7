# SPDX-License-Identifier: Apache-2.0
"""TLS between two endpoints in memory, by Python's ssl: the bytes and the keys."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

CLIENT, SERVER = 0, 1
REQUEST = b"GET /secret HTTP/1.1\r\nHost: example.org\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Talk(NamedTuple):
    """What passed: (sender, bytes) in order, and the lines of the key log."""

    moved: list[tuple[int, bytes]]
    keys: list[bytes]

    def bytes_of(self, sender: int) -> bytes:
        return b"".join(data for each, data in self.moved if each == sender)


@cache
def certificate(kind: str = "ec") -> Path:
    """Return a file with a key and its certificate, made by openssl."""
    path = Path(tempfile.mkdtemp()) / "pair.pem"
    key = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if kind == "ec" else ["rsa:2048"]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", *key, "-nodes", "-days", "9"),
            *("-subj", "/CN=localhost", "-keyout", str(path), "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def contexts(
    version: ssl.TLSVersion, ciphers: str = "", kind: str = "ec", protocols: tuple[str, ...] = ()
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of client and server."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server.load_cert_chain(certificate(kind))
    for context in (client, server):
        context.minimum_version = context.maximum_version = version
        if ciphers:
            context.set_ciphers(ciphers)
        if protocols:
            context.set_alpn_protocols(list(protocols))
    return client, server


def talk(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    exchanges: list[tuple[bytes, bytes]] | None = None,
    session: ssl.SSLSession | None = None,
    after: Callable[[ssl.SSLObject], None] = lambda client: None,
) -> Talk:
    """Let a client and a server exchange messages; the client logs its keys, and both close."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "keys"
        client_context.keylog_filename = str(log)
        wires = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
        client = client_context.wrap_bio(
            *wires[CLIENT], server_hostname="example.org", session=session
        )
        server = server_context.wrap_bio(*wires[SERVER], server_side=True)
        ends = (client, server)
        moved: list[tuple[int, bytes]] = []

        def pump(sender: int) -> None:
            data = wires[sender][1].read()
            if data:
                moved.append((sender, data))
                wires[1 - sender][0].write(data)

        def step(end: int, call: Callable[[ssl.SSLObject], object]) -> object:
            try:
                return call(ends[end])
            except ssl.SSLWantReadError:
                return None
            finally:
                pump(end)

        for _ in range(3):
            for end in (CLIENT, SERVER):
                step(end, ssl.SSLObject.do_handshake)
        for request, response in exchanges or [(REQUEST, RESPONSE)]:
            for sender, data in ((CLIENT, request), (SERVER, response)):
                ends[sender].write(data)
                pump(sender)
                received = 0
                while received < len(data):  # A record at a time.
                    received += len(ends[1 - sender].read(len(data)))
        after(client)
        for end in (CLIENT, SERVER):
            step(end, ssl.SSLObject.unwrap)
        return Talk(moved, log.read_bytes().splitlines())


class Step(NamedTuple):
    """A line that the client reads, and what one end's output has once that has its effect."""

    line: bytes
    effect: bytes
    end: int = CLIENT


class Programs:
    """openssl's server, and clients that reach it through a relay that notes what passes.

    They can do what Python's ssl cannot: select ciphers of TLS 1.3, update keys, send early data.
    """

    def __init__(self, server: subprocess.Popen[bytes], port: int, directory: Path) -> None:
        self._server = server
        self._port = port
        self._log = directory / "keys"

    def talk(
        self, options: str, steps: list[Step], until: Callable[[], bool] = lambda: True
    ) -> Talk:
        """Connect a client with ``options``; take each step once the one before has its effect.

        The client ends once ``until`` returns true.
        """
        self._log.write_bytes(b"")
        moved: list[tuple[int, bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            relay = threading.Thread(target=self._relay, args=(listener, moved))
            relay.start()
            client = subprocess.Popen(
                [
                    *("openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"),
                    *("-keylogfile", str(self._log), *options.split()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert client.stdin and client.stdout and self._server.stdout
            with client:
                for line, effect, end in steps:
                    client.stdin.write(line)
                    client.stdin.flush()
                    output = client.stdout if end == CLIENT else self._server.stdout
                    while effect not in output.readline():
                        assert client.poll() is None
                while not until():
                    time.sleep(0.01)
                client.terminate()
            relay.join()
        return Talk(moved, self._log.read_bytes().splitlines())

    def _relay(self, listener: socket.socket, moved: list[tuple[int, bytes]]) -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            ends = [client, server]
            while True:
                for end in select.select(ends, [], [])[0]:
                    try:
                        data = end.recv(1 << 16)
                    except ConnectionResetError:
                        return
                    if not data:
                        return
                    sender = ends.index(end)
                    moved.append((sender, data))
                    ends[1 - sender].sendall(data)


@contextlib.contextmanager
def openssl(options: str) -> Iterator[Programs]:
    """Run openssl's server with ``options``."""
    with tempfile.TemporaryDirectory() as directory:
        pair = str(certificate())
        server = subprocess.Popen(
            [
                *("openssl", "s_server", "-accept", "127.0.0.1:0"),
                *("-cert", pair, "-key", pair, *options.split()),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL if "-rev" in options else subprocess.PIPE,
        )
        assert server.stdout
        with server:
            try:
                line = b""
                while not line.startswith(b"ACCEPT"):
                    line = server.stdout.readline()
                yield Programs(server, int(line.split(b":")[-1]), Path(directory))
            finally:
                server.terminate()
