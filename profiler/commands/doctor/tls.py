# SPDX-License-Identifier: Apache-2.0
"""HTTPS, encrypted in the process: both ends of a connection by Python and by programs.

The canary is the server, and the client too unless a case names a program. A program is started
before the profiler, which gets its process id as a filter, so the plain text of no other process is
read. It connects when the case is played. The certificate is made by openssl(1), and is deleted
with the doctor's directory.

``ssl`` and ``asyncio`` are imported late: the plain cases need neither.
"""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple

from profiler.commands.doctor.scenario import (
    CanaryError,
    Scenario,
    end_of,
    listening,
    receive_with,
    tcp_pair,
    thread,
)
from profiler.commands.doctor.script import BODY_SIZE, End, body

if TYPE_CHECKING:
    import asyncio
    import ssl

NUMBERS = (1, 2)

_HOST = "127.0.0.1"
_CERTIFICATE, _KEY = "certificate.pem", "key.pem"
_receive = receive_with(lambda sock, size: sock.recv(size))

# Connects once there is a line to read, and writes to standard output what it receives. Arguments:
# port, certificate, then pairs of a request in hexadecimal and the response's size.
_NODE = """
const [port, certificate, ...exchanges] = process.argv.slice(1);
process.stdin.once("data", () => {
  process.stdin.destroy();
  let left = 0;
  const ask = () => {
    if (!exchanges.length) return link.end();
    const request = Buffer.from(exchanges.shift(), "hex");
    left = Number(exchanges.shift());
    link.write(request);
  };
  const ca = require("fs").readFileSync(certificate);
  const link = require("tls").connect({ host: "127.0.0.1", port: Number(port), ca }, ask);
  link.on("data", (data) => {
    process.stdout.write(data);
    left -= data.length;
    if (!left) ask();
  });
});
"""


def _contexts(directory: Path, newest: str | None = None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the server's and the client's settings, up to the version ``newest``."""
    import ssl

    _make_certificate(directory)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / _CERTIFICATE, directory / _KEY)
    client = ssl.create_default_context(cafile=str(directory / _CERTIFICATE))
    if newest is not None:
        client.maximum_version = ssl.TLSVersion[newest]
    return server, client


def _make_certificate(directory: Path) -> None:
    """Make a self-signed certificate for this machine's own address, if there is none yet."""
    if (directory / _CERTIFICATE).exists():
        return
    command = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=canary"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", f"subjectAltName=IP:{_HOST}"]
    command += ["-keyout", str(directory / _KEY), "-out", str(directory / _CERTIFICATE)]
    _installed("openssl")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CanaryError(f"openssl made no certificate: {last}")


def _installed(program: str) -> None:
    if shutil.which(program) is None:
        raise CanaryError(f"{program} is not installed")


# ---- Python at both ends


def connect(scenario: Scenario, newest: str | None = None) -> tuple[socket.socket, socket.socket]:
    """Return the client's and the server's end of a new connection after its handshake."""
    server_context, client_context = _contexts(scenario.directory, newest)
    plain_client, plain_server = tcp_pair(_HOST)
    client = client_context.wrap_socket(
        plain_client, server_hostname=_HOST, do_handshake_on_connect=False
    )
    server = server_context.wrap_socket(
        plain_server, server_side=True, do_handshake_on_connect=False
    )
    with thread(server.do_handshake):
        client.do_handshake()
    return client, server


def over(newest: str | None = None, size: int = BODY_SIZE) -> Callable[[Scenario], None]:
    """Two exchanges over a connection of Python's ``ssl``, which encrypts at the socket."""

    def play(scenario: Scenario) -> None:
        client, server = connect(scenario, newest)
        with client, server:
            for number in NUMBERS:
                scenario.exchange(number, client, server, receive=_receive, size=size)

    return play


def before(scenario: Scenario) -> None:
    """The handshake was before the profiler started."""
    client, server = scenario.prepared
    with client, server:
        for number in NUMBERS:
            scenario.exchange(number, client, server, receive=_receive)


def in_memory(scenario: Scenario) -> None:
    """Both ends by ``asyncio``, which encrypts in memory and writes to the socket later."""
    import asyncio

    server_context, client_context = _contexts(scenario.directory)

    async def transfer(
        source: asyncio.StreamWriter, target: asyncio.StreamReader, data: bytes
    ) -> None:
        source.write(data)
        if await target.readexactly(len(data)) != data:
            raise CanaryError("the bytes received differ from those sent")

    async def play() -> None:
        accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        accepted = asyncio.get_running_loop().create_future()
        listener = await asyncio.start_server(
            lambda *streams: accepted.set_result(streams), _HOST, 0, ssl=server_context
        )
        port = listener.sockets[0].getsockname()[1]
        client = await asyncio.open_connection(_HOST, port, ssl=client_context)
        server = await accepted
        for number in NUMBERS:
            scenario.note(number, _end(client[1]), _end(server[1]))
            await transfer(client[1], server[0], scenario.request(number))
            await transfer(server[1], client[0], scenario.response(number))
        for _, writer in (client, server):
            writer.transport.abort()
        listener.close()

    asyncio.run(play())


def _end(writer: asyncio.StreamWriter) -> End:
    return end_of(writer.get_extra_info("socket"))


# ---- a program as the client


class Client(NamedTuple):
    """A program that waits for a line on its standard input, and where it will connect."""

    listener: socket.socket
    process: subprocess.Popen[bytes]


def _start(scenario: Scenario, listener: socket.socket, *command: str) -> Client:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    scenario.pids.append(process.pid)
    return Client(listener, process)


def _start_waiting(scenario: Scenario, listener: socket.socket, *command: str) -> Client:
    """Start a program that connects at once: a shell waits, and becomes the program."""
    return _start(scenario, listener, "sh", "-c", 'read -r go && exec "$@"', "sh", *command)


def start_curl(scenario: Scenario) -> Client:
    """Start curl(1), without the user's configuration and proxies."""
    _installed("curl")
    listener = listening(_HOST)
    words = ["curl", "--disable"]
    for number in NUMBERS:
        request, _, _ = scenario.request(number).partition(b"\r\n")
        target = request.split()[1].decode()
        # Without the header fields that the script does not have.
        for field in ("User-Agent:", "Accept:", "Content-Type:", "Host: canary"):
            words += ["--header", field]
        words += ["--http1.1", "--include", "--silent", "--noproxy", "*"]
        words += ["--cacert", str(scenario.directory / _CERTIFICATE)]
        words += ["--data-binary", body(scenario.case, "request", number, BODY_SIZE).decode()]
        words += [f"https://{_HOST}:{listener.getsockname()[1]}{target}", "--next"]
    return _start_waiting(scenario, listener, *words[:-1])


def start_openssl(scenario: Scenario) -> Client:
    """Start ``openssl s_client``, which sends what it reads."""
    listener = listening(_HOST)
    words = ["openssl", "s_client", "-quiet", "-verify_return_error"]
    words += ["-CAfile", str(scenario.directory / _CERTIFICATE)]
    words += ["-connect", f"{_HOST}:{listener.getsockname()[1]}"]
    return _start_waiting(scenario, listener, *words)


def start_node(scenario: Scenario) -> Client:
    """Start Node.js, which may contain its own OpenSSL: then it must run before the profiler."""
    _installed("node")
    listener = listening(_HOST)
    exchanges = [
        word
        for number in NUMBERS
        for word in (scenario.request(number).hex(), str(len(scenario.response(number))))
    ]
    port = str(listener.getsockname()[1])
    certificate = str(scenario.directory / _CERTIFICATE)
    return _start(scenario, listener, "node", "-e", _NODE, port, certificate, *exchanges)


def program(scenario: Scenario, feeds: bool = False) -> None:
    """Two exchanges with a program; ``feeds``: it sends what its standard input has."""
    listener, process = scenario.prepared
    output = process.stdout
    assert output
    with listener, process:
        try:
            server_context, _ = _contexts(scenario.directory)
            _feed(process, b"\n")
            _wait_for_connection(listener, process)
            plain, peer = listener.accept()
            with server_context.wrap_socket(plain, server_side=True) as server:
                client = _end_of_peer(peer, server.getsockname(), process.pid)
                for number in NUMBERS:
                    scenario.note(number, client, end_of(server))
                    if feeds:
                        _feed(process, scenario.request(number))
                    _receive(server, scenario.request(number))
                    server.sendall(scenario.response(number))
                expected = b"".join(map(scenario.response, NUMBERS))
                if output.read(len(expected)) != expected:
                    raise CanaryError("the bytes received differ from those sent")
            process.communicate()
        except BaseException:
            process.kill()
            raise


openssl = partial(program, feeds=True)


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin
    process.stdin.write(data)
    process.stdin.flush()


def _wait_for_connection(listener: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Wait for the program to connect. Raises CanaryError if it ends instead."""
    assert process.stdout
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(process.stdout, 0)  # POLLHUP when it ends
    if listener.fileno() not in dict(poll.poll()):
        raise CanaryError(f"the program ended with status {process.wait()}")


def _end_of_peer(peer: tuple[str, int], here: tuple[str, int], pid: int) -> End:
    """Return the end of another process of this machine: its socket is in proc_net(5)."""
    wanted = [peer[1], here[1]]
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(address.rpartition(":")[2], 16) for address in fields[1:3]] == wanted:
            netns = Path("/proc/self/ns/net").stat().st_ino
            return End(pid, int(fields[9]), netns, ip=peer[0], port=peer[1])
    raise CanaryError("the client's socket is not in /proc/net/tcp")
