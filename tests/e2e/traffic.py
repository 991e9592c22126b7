# SPDX-License-Identifier: Apache-2.0
"""Traffic for the end-to-end tests; runs in the guest, with the standard library only.

``python3 traffic.py SCENARIO [ARGUMENTS]``. The facts a test needs (process ids, ports,
times) are printed as one line of JSON.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import mmap
import os
import socket
import struct
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


def say(**facts):
    cgroups = Path("/proc/self/cgroup").read_text().splitlines()
    who = {
        "pid": os.getpid(),
        "tid": threading.get_native_id(),
        "uid": os.getuid(),
        "cgroup": next((line[3:] for line in cgroups if line.startswith("0::")), None),
    }
    print(json.dumps({**who, **facts}), flush=True)


class Handler(BaseHTTPRequestHandler):
    """GET responds with ``size`` bytes (query); POST echoes the body."""

    protocol_version = "HTTP/1.1"
    # With a timeout Python waits in poll(). The profiler cannot see a recv that already
    # waits in the kernel when it attaches.
    timeout = 600

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        self.answer(b"x" * int(query.get("size", ["2"])[0]))

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # dual-stack
    daemon_threads = True


def serve():
    server = Server(("::", 0), Handler)
    say(port=server.server_port)
    server.serve_forever()


def requests(host, port, *specs):
    """Use one connection; each spec is ``METHOD:PATH`` or ``METHOD:PATH:BODY-SIZE``."""
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    before = time.time_ns()
    connection.connect()
    local_port = connection.sock.getsockname()[1]
    for spec in specs:
        method, path, *size = spec.split(":")
        body = bytes(97 + i % 26 for i in range(int(size[0]))) if size else None
        connection.request(method, path, body, {"X-Test": "yes"})
        connection.getresponse().read()
    connection.close()
    say(port=local_port, before=before, after=time.time_ns())


def bodies(token, size, *kinds):
    """Use one connection, in calls of 8 KiB; ``kinds`` describes the response of each exchange."""
    client, server = pair()
    length, whole = b"Content-Length: %d\r\n" % int(size), b"b" * int(size)
    # Looks like a message, at the beginning of a call and of an HTTP chunk.
    inner = b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + whole
    # More lines than the kernel examines, in the same call as the head.
    lines = b"x\r\n" * 70 + b"Content-Length: 900000\r\n\r\n"
    answers = {
        "lines": (b"200 OK\r\nContent-Length: %d\r\n" % len(lines), lines),
        "length": (b"200 OK\r\n" + length, whole),
        # More than the kernel first copies of a head.
        "long": (b"200 OK\r\nX-Long: " + b"x" * 700 + b"\r\n" + length, whole),
        "upload": (b"200 OK\r\nContent-Length: 3\r\n", b"abc"),
        "HEAD": (b"200 OK\r\n" + length, b""),
        "304": (b"304 Not Modified\r\n" + length, b""),
        "chunked": (
            b"200 OK\r\nTransfer-Encoding: chunked\r\n",
            b"%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n",
        ),
    }
    for number, kind in enumerate(kinds):
        method = {"HEAD": b"HEAD", "upload": b"POST"}.get(kind, b"GET")
        head = b"%s /%s/%d HTTP/1.1\r\nHost: x\r\n" % (method, token.encode(), number)
        upload = whole if kind == "upload" else b""
        head += length + b"\r\n" if upload else b"\r\n"
        in_calls(client, server, head, upload)
        status, body = answers[kind]
        cut = {"chunked": body.find(inner), "lines": len(body)}.get(kind, 0)
        head = b"HTTP/1.1 " + status + b"\r\n" + body[:cut]
        in_calls(server, client, head, body[cut:])
    say()


def in_calls(sender, receiver, head, body):
    """Send and receive a message: its head, then its body in pieces."""
    for piece in [head, *(body[at : at + 8192] for at in range(0, len(body), 8192))]:
        sender.sendall(piece)
        read_all(receiver.recv, len(piece))


def exec_between(host, port, first, second):
    """Request ``first``, then become ``requests`` for ``second``."""
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("GET", first)
    connection.getresponse().read()
    connection.close()
    program = ["python3", __file__, "requests", host, port, f"GET:{second}"]
    os.execvp("python3", program)


def pipeline(token, count):
    """``count`` requests in one call; then the responses, one by one."""
    client, server = pair()
    requests_ = [
        b"GET /%s/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (token.encode(), number)
        for number in range(int(count))
    ]
    client.sendall(b"".join(requests_))
    read_all(server.recv, sum(map(len, requests_)))
    for number in range(int(count)):
        body = b"answer %d" % number
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        server.sendall(answer)
        read_all(client.recv, len(answer))
    client.close()
    server.close()
    say()


def flood(token, count, size):
    """Make ``count`` exchanges, one after the other, with responses of ``size`` bytes."""
    client, server = pair()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % size.encode() + b"f" * int(size)
    for number in range(int(count)):
        in_calls(client, server, b"GET /%s/%d HTTP/1.1\r\n\r\n" % (token.encode(), number), b"")
        in_calls(server, client, answer, b"")
    client.close()
    server.close()
    say()


def methods(token, *names):
    """Send a request with each method on its own connection; the first byte is read separately."""
    for name in names:
        client, server = pair()
        target = "example.test:443" if name == "CONNECT" else f"/{token}/{name}"
        request = f"{name} {target} HTTP/1.1\r\nHost: {token}.{name}\r\n\r\n".encode()
        client.sendall(request)
        read_all(server.recv, 1)
        read_all(server.recv, len(request) - 1)
        server.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
        read_all(client.recv, 54)
        client.close()
        server.close()
    say()


def early(host, port, first, second):
    """Request ``first``; after a line on standard input, ``second`` on the same connection."""
    connection = http.client.HTTPConnection(host, int(port), timeout=600)
    connection.request("GET", first)
    connection.getresponse().read()
    say(port=connection.sock.getsockname()[1])
    sys.stdin.readline()
    connection.request("GET", second)
    connection.getresponse().read()


def read_all(receive, size):
    got = b""
    while len(got) < size:
        piece = receive(size - len(got))
        assert piece, "the peer has closed the connection"
        got += piece
    return got


def receive_vector(sock, size, call):
    first, second = bytearray(10), bytearray(size)
    if call == "readv":
        count = os.readv(sock.fileno(), [first, second])
    else:
        count = sock.recvmsg_into([first, second])[0]
    return (bytes(first) + bytes(second))[:count]


SENDERS = {
    "write": lambda sock, parts: os.write(sock.fileno(), b"".join(parts)),
    "writev": lambda sock, parts: os.writev(sock.fileno(), parts),
    "sendto": lambda sock, parts: sock.send(b"".join(parts)),
    "sendmsg": lambda sock, parts: sock.sendmsg(parts),
}
RECEIVERS = {
    "read": lambda sock, size: os.read(sock.fileno(), size),
    "readv": lambda sock, size: receive_vector(sock, size, "readv"),
    "recvfrom": lambda sock, size: sock.recv(size),
    "recvmsg": lambda sock, size: receive_vector(sock, size, "recvmsg"),
}


def pair():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    return client, server


def syscalls(token):
    """Make an exchange with each pair of calls, in pieces: empty segments, a split start line."""
    for send, receive in zip(SENDERS, RECEIVERS):
        client, server = pair()
        body = b"b" * 300
        request = [b"", b"PO", b"ST /%s/%s HTTP/1.1\r\n" % (token.encode(), send.encode()),
                   b"Host: x\r\nContent-Length: 300\r\n\r\n", b"", body]  # fmt: skip
        response = [b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n", b"\r\n", body]
        SENDERS[send](client, request)
        read_all(partial(RECEIVERS[receive], server), sum(map(len, request)))
        SENDERS[send](server, response)
        read_all(partial(RECEIVERS[receive], client), sum(map(len, response)))
        client.close()
        server.close()
    say()


def bytewise(token):
    """Send and receive a request one byte at a time."""
    client, server = pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % token.encode()
    for i in range(len(request)):
        client.send(request[i : i + 1])
        read_all(server.recv, 1)
    server.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    read_all(client.recv, 27)
    say()


def peek(token):
    """Have the server peek at the request before it reads it."""
    client, server = pair()
    request = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % token.encode()
    client.send(request)
    for _ in range(3):
        assert server.recv(1000, socket.MSG_PEEK) == request
    assert server.recv(1000) == request
    server.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    read_all(client.recv, 27)
    say()


def narrow(token):
    """In each message make a 32-bit call: number 20 is getpid there, but writev on x86_64."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov $20, %eax; int $0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    getpid = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(address)
    client, server = pair()
    for sender, receiver, message in (
        (client, server, b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % token.encode()),
        (server, client, b"HTTP/1.1 204 No Content\r\n\r\n"),
    ):
        sender.send(message[:10])
        # The argument at the position of the other call's descriptor.
        assert getpid(sender.fileno()) == os.getpid()
        sender.send(message[10:])
        read_all(receiver.recv, len(message))
    say()


def every_byte(token):
    """Send a body of all byte values, and of text that some printers use for bytes."""
    client, server = pair()
    body = bytes(range(256)) + rb"\x00\xff\\x41"
    head = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        token.encode(),
        len(body),
    )
    client.send(head + body)
    read_all(server.recv, len(head + body))
    server.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    read_all(client.recv, 27)
    say()


def noise(token):
    """Send what is not HTTP: other protocols over TCP, look-alikes, and HTTP over UDP."""
    marker = token.encode()
    conversations = [
        [b"\x16\x03\x01\x02\x00" + marker, b"\x16\x03\x03\x00\x7a" + bytes(100)],
        [b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(marker), marker), b"$-1\r\n"],
        [b"220 mail ready " + marker, b"EHLO client\r\n", b"250 ok\r\n"],
        [b"LIST /" + marker + b"\r\n", b"200 done\r\n"],
        [b"cd /" + marker + b"\n" + b"y" * 5000, b"ok\n" * 1000],
        [bytes(range(256)) + marker] * 4,
    ]
    for turns in conversations:
        conversation(*turns)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    sender.sendto(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % marker, receiver.getsockname())
    assert marker in receiver.recv(1000)
    say()


def conversation(*turns):
    """Exchange bytes on a connection, in turns that the client begins."""
    client, server = pair()
    for number, data in enumerate(turns):
        sender, receiver = (client, server) if number % 2 == 0 else (server, client)
        sender.sendall(data)
        read_all(receiver.recv, len(data))
    client.close()
    server.close()


def refused(token):
    """Send TLS to a plain HTTP server, which answers in plain text."""
    hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(range(194))
    body = b"plain HTTP only: " + token.encode()
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    conversation(hello, answer)
    say()


def proxied(token):
    """Begin connections with a PROXY protocol header, of version 1 and 2."""
    first = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n"
    addresses = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1")
    second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + addresses + struct.pack("!HH", 4711, 80)
    for number, header in enumerate((first, second), 1):
        request = b"GET /%s/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (token.encode(), number)
        conversation(header + request, b"HTTP/1.1 204 No Content\r\n\r\n")
    say()


def cut_off(token):
    """Send a request shorter than it declares, and a response that ends with the connection."""
    client, server = pair()
    head = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" % token.encode()
    client.sendall(head + b"only this")
    read_all(server.recv, len(head) + 9)
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
    server.close()
    while client.recv(1000):
        pass
    client.close()
    say()


def reset(token):
    """Break off a response with a reset."""
    client, server = pair()
    client.sendall(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % token.encode())
    server.recv(1000)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
    client.recv(1000)
    # With no time to linger, close(2) resets the connection.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    try:
        client.recv(1000)
    except ConnectionResetError:
        client.close()
        say()


def gone(token):
    """Break off a response by ending the server's process."""
    client, server = pair()
    child = os.fork()
    if child == 0:
        client.close()
        server.recv(1000)
        server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
        os._exit(0)
    server.close()
    client.sendall(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % token.encode())
    while client.recv(1000):
        pass
    os.waitpid(child, 0)
    client.close()
    say()


def shared(token):
    """Have a process and its child take turns at both ends of one connection, after a line."""
    client, server = pair()
    turn, taken = os.pipe(), os.pipe()

    def exchange(who, number):
        request = b"GET /%s/%s/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (token.encode(), who, number)
        client.sendall(request)
        read_all(server.recv, len(request))
        server.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        read_all(client.recv, 27)

    child = os.fork()
    if child == 0:
        for number in range(2):
            os.read(turn[0], 1)
            exchange(b"child", number)
            os.write(taken[1], b".")
        os._exit(0)
    say(child=child)
    sys.stdin.readline()
    for number in range(2):
        exchange(b"parent", number)
        os.write(turn[1], b".")
        os.read(taken[0], 1)
    os.waitpid(child, 0)
    say()


def frame(kind, flags, stream, payload=b""):
    """RFC 9113, 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def move(sender, receiver, sent):
    sender.sendall(sent)
    read_all(receiver.recv, len(sent))


def http2(token, *wait):
    """Make three exchanges on a connection whose server speaks first.

    ``wait``: after the first exchange wait for a line on standard input.
    """
    data, headers, settings, end_stream, end_headers = 0, 1, 4, 1, 4
    client, server = pair()

    def text(value):
        return bytes([len(value)]) + value

    move(server, client, frame(settings, 0, 0))
    move(client, server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings, 0, 0))
    # RFC 7541: 82, 86, 88 are entries of the static table; 41 adds an entry of the name
    # :authority to the dynamic table, where BE is the last; 04 and 01 leave it alone.
    for number, host in enumerate((b"\x41" + text(b"one"), b"\xbe", b"\x01" + text(b"three"))):
        stream = 2 * number + 1
        path = text(b"/%s/%d" % (token.encode(), number))
        asked = b"\x82\x86\x04" + path + host
        move(client, server, frame(headers, end_headers | end_stream, stream, asked))
        answer = frame(headers, end_headers, stream, b"\x88")
        move(server, client, answer + frame(data, end_stream, stream, b"answer %d" % number))
        if wait and number == 0:
            say(port=client.getsockname()[1])
            sys.stdin.readline()
    client.close()
    server.close()
    say()


def threads(token, count):
    """Run ``count`` threads at the same time, each with its own connection to one server."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def answer():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer_one, args=(connection,), daemon=True).start()

    def answer_one(connection):
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1000)
        name = data.split(b" ")[1].rpartition(b"/")[2]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
        connection.close()

    def ask(number):
        with socket.create_connection(listener.getsockname()) as connection:
            connection.sendall(b"GET /%s/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (token.encode(), number))
            while connection.recv(1000):
                pass

    threading.Thread(target=answer, daemon=True).start()
    askers = [threading.Thread(target=ask, args=(n,)) for n in range(int(count))]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    say()


def crowded(token, count, places):
    """Open ``count`` connections at once whose inodes are equal modulo ``places``.

    Make two exchanges on each, in turns.
    """
    # Each processor counts inodes separately, in batches.
    os.sched_setaffinity(0, {0})
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    clients = [socket.socket()]
    first = os.fstat(clients[0].fileno()).st_ino
    for _ in range(10000):
        client = socket.socket()
        missing = (first - os.fstat(client.fileno()).st_ino) % int(places)
        if not missing:
            clients.append(client)
            if len(clients) == int(count):
                break
            continue
        client.close()
        for _ in range(missing // 4):
            for end in socket.socketpair():
                end.close()
    pairs = []
    for client in clients:
        client.connect(listener.getsockname())
        pairs.append((client, listener.accept()[0]))
    for turn in range(2):
        for number, (client, server) in enumerate(pairs):
            path = b"/%s/%d/%d" % (token.encode(), turn, number)
            move(client, server, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
            move(server, client, answer % (len(path), path))
    say(places=[os.fstat(client.fileno()).st_ino % int(places) for client in clients])


if __name__ == "__main__":
    scenario, *arguments = sys.argv[1:]
    {
        f.__name__: f
        for f in (
            *(serve, requests, exec_between, early, syscalls, bytewise, peek, narrow, every_byte),
            *(bodies, pipeline, methods, noise, cut_off, reset, gone, shared, http2, threads),
            *(flood, crowded, refused, proxied),
        )
    }[scenario](*arguments)
