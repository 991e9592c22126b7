# SPDX-License-Identifier: Apache-2.0
"""A table of workloads: servers, and clients that load them.

A client does a number of rounds and exits. The cost of a round is the difference between
many rounds and few, so starting the client does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

PORT = 8080
"""A port on which tshark expects HTTP by default."""

ADDED, OWN, START, MEMORY = "added", "own", "start", "memory"
"""The metrics of a workload under a capture; ``measure.py`` has a function for each."""

TLS_PORT = 8443

CONNECTIONS = 1000

NGINX_FILE = "{directory}/nginx.conf"
NGINX = ("nginx", "-c", NGINX_FILE)

NGINX_CONFIGURATION = """\
daemon off;
pid {directory}/nginx.pid;
error_log stderr error;
user root;
worker_processes 1;
worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
    access_log off;
    # What sendfile sends no process has in its memory: read, so that there is a body to capture.
    sendfile off;
    keepalive_requests 1000000;
    client_max_body_size 10m;
    client_body_temp_path {directory}/body;
    root {directory}/www;
    server {
        listen 127.0.0.1:8080 backlog=2048;
        location = /small {
            default_type application/json;
            return 200 '{"id":4711,"name":"a small answer","tags":["64 bytes"],"n":1234}';
        }
        location /upload/ { dav_methods PUT; }
    }
    server {
        listen 127.0.0.1:8443 ssl backlog=2048;
        ssl_certificate {directory}/certificate.pem;
        ssl_certificate_key {directory}/key.pem;
        location = /small {
            default_type application/json;
            return 200 '{"id":4711,"name":"a small answer","tags":["64 bytes"],"n":1234}';
        }
    }
}
"""

GUNICORN = (
    *("/opt/http-profiler-demo/bin/gunicorn", "demo:create_app()"),
    *("--chdir", "/opt/http-profiler-demo/src", "--worker-class", "gthread"),
    *("--workers", "2", "--threads", "4", "--keep-alive", "30", "--bind", f"127.0.0.1:{PORT}"),
)

AB = ("ab", "-q", "-l", "-k", "-n", "{rounds}")


def _ab(
    path: str, *options: str, connections: int = 4, to: str = f"http://127.0.0.1:{PORT}"
) -> tuple[str, ...]:
    return (*AB, "-c", str(connections), *options, f"{to}{path}")


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return ("python3", "-m", f"benchmarks.guest.inside.{module}", *arguments)


@dataclass(frozen=True)
class Workload:
    """A server and a client of it.

    ``rounds`` is the client's smallest number of rounds, ``unit`` the name of a round;
    ``messages`` are the HTTP messages of a round, each sent once and received once.
    ``pairs`` is how often few rounds are compared with many. ``metrics`` are the metrics to
    measure. With ``has_tls``, only some captures see its messages. ``{directory}`` and
    ``{rounds}`` are replaced in ``server`` and ``client``.
    """

    name: str
    what: str
    unit: str
    rounds: int
    client: tuple[str, ...]
    server: tuple[str, ...] = ()
    port: int = PORT
    messages: int = 0
    pairs: int = 3
    metrics: tuple[str, ...] = (ADDED, OWN)
    has_tls: bool = False


EXCHANGE = 2

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "small",
            "nginx, answers of 64 bytes, `ab -k -c 4`",
            "request",
            rounds=500,
            client=_ab("/small"),
            server=NGINX,
            messages=EXCHANGE,
        ),
        Workload(
            "https",
            "the same over TLS 1.3",
            "request",
            rounds=500,
            client=_ab("/small", to=f"https://127.0.0.1:{TLS_PORT}"),
            server=NGINX,
            port=TLS_PORT,
            messages=EXCHANGE,
            has_tls=True,
        ),
        Workload(
            "20k",
            "nginx, answers of 20 KB, `ab -k -c 4`",
            "request",
            rounds=200,
            client=_ab("/20k"),
            server=NGINX,
            messages=EXCHANGE,
        ),
        Workload(
            "1m",
            "the same, answers of 1 MB",
            "request",
            rounds=16,
            client=_ab("/1m"),
            server=NGINX,
            messages=EXCHANGE,
        ),
        Workload(
            "demo",
            "the Flask demo behind gunicorn, `ab -k -c 4`",
            "request",
            rounds=60,
            client=_ab("/healthz"),
            server=GUNICORN,
            messages=EXCHANGE,
        ),
        Workload(
            "upload",
            "nginx, PUT of 100 KB, `ab -k -c 4`",
            "request",
            rounds=60,
            client=_ab("/upload/file", "-u", "{directory}/upload"),
            server=NGINX,
            messages=EXCHANGE,
        ),
        Workload(
            "byte",
            "a Python server that receives one byte at a time, `ab -k -c 1`",
            "request",
            rounds=60,
            client=_ab("/", connections=1),
            server=_python("byte_server", str(PORT)),
            messages=EXCHANGE,
        ),
        Workload(
            "file-write",
            "`dd bs=500` from /dev/zero over a file in memory",
            "block",
            rounds=20_000,
            client=(
                *("dd", "if=/dev/zero", "of={directory}/zeros", "bs=500", "count={rounds}"),
                *("conv=notrunc", "status=none"),
            ),
            metrics=(ADDED,),  # it gives no output, so it costs the capture nothing
        ),
        Workload(
            "file-read",
            "`dd bs=500` from a file in memory to /dev/null",
            "block",
            rounds=20_000,
            client=(
                *("dd", "if={directory}/zeros", "of=/dev/null", "bs=500", "count={rounds}"),
                "status=none",
            ),
            metrics=(ADDED,),
        ),
        Workload(
            "tls",
            "records as of TLS over TCP: 1 KB there, 4 KB back, in Python",
            "exchange",
            rounds=500,
            client=_python("tls_like", "client", str(PORT), "{rounds}"),
            server=_python("tls_like", "server", str(PORT)),
        ),
        Workload(
            "redis",
            "Redis, `redis-benchmark -t get -c 4`",
            "command",
            rounds=2000,
            client=("redis-benchmark", "-p", "6390", "-c", "4", "-t", "get", "-n", "{rounds}"),
            server=("redis-server", "--port", "6390", "--save", "", "--appendonly", "no"),
            port=6390,
        ),
        Workload(
            "saturation",
            "as small, more of them than the ring holds",
            "request",
            rounds=8000,
            client=_ab("/small"),
            server=NGINX,
            messages=EXCHANGE,
            pairs=1,  # workload small shows its cost
            metrics=(OWN,),
        ),
        Workload(
            "connections",
            f"nginx, {CONNECTIONS} connections open, a request on each",
            "request",
            rounds=CONNECTIONS,
            client=_python("connections", str(PORT), "{rounds}"),
            server=NGINX,
            messages=EXCHANGE,
            metrics=(MEMORY,),
        ),
        Workload(
            "start",
            "nothing: the capture is started twice",
            "start",
            rounds=0,
            client=(),
            metrics=(START,),
        ),
    )
}
