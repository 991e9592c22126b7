# SPDX-License-Identifier: Apache-2.0
"""A synthetic capture of a shop: lines as the profiler writes them, in any number.

Customers and a monitor call nginx; nginx calls the shop, which calls a catalog, a payment
service elsewhere, and a container engine on a Unix socket. The same number and seed give the
same lines.
"""

from __future__ import annotations

import json
import random
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from profiler.accounting import Account, Count, Direction, KernelAccount
from profiler.ingest.stats import Stats

Record = dict[str, Any]

BEGIN = datetime(2026, 11, 22, 9, 30, tzinfo=timezone.utc)
SECRET = "s3cr3t-of-a-customer"

_PROGRAMS = {
    "nginx": ("nginx: worker process", 812),
    "shop": ("/srv/shop/bin/python3 /srv/shop/bin/shop --workers 4", 1320),
    "catalog": ("node /srv/catalog/server.js", 1544),
    "monitor": ("/usr/bin/monitor --interval 5s", 990),
}
_PEOPLE = [f"198.51.100.{n}" for n in (7, 19, 23, 54)]


def write(path: Path, exchanges: int, seed: int = 1) -> Path:
    """Write a capture of about ``exchanges`` exchanges; return the path."""
    with path.open("w") as file:
        for record in records(exchanges, seed):
            file.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
    return path


def records(exchanges: int, seed: int = 1) -> Iterator[Record]:
    """Yield the lines of about ``exchanges`` exchanges, in the order in which they are complete."""
    shop = _Shop(random.Random(seed), exchanges)
    while shop.made < exchanges:
        yield from shop.visit()


class _Shop:
    def __init__(self, chance: random.Random, exchanges: int) -> None:
        self.chance = chance
        self.made = 0
        self.time = 0.0
        self.numbers: dict[int, int] = {}
        self.busy: dict[int, float] = {}
        self.links: dict[tuple[object, ...], int] = {}
        self.total = exchanges

    def visit(self) -> list[Record]:
        """One visit of a customer, or of the monitor, and what it causes."""
        chance = self.chance
        # Traffic swells and falls, and for a while the payment service is slow.
        part = self.made / self.total
        self.time += chance.expovariate(1 / 60) * (0.5 if 0.35 < part < 0.6 else 1)
        trouble = 0.42 < part < 0.55
        if chance.random() < 0.06:
            return self.call("monitor", "nginx", "GET", "/healthz", 0.3, body={"ok": True})
        kind = chance.random()
        thread = self.idle_thread()
        worker = 812 + chance.randrange(0, 2)
        item = chance.randrange(1, 400)
        lines: list[Record] = []
        at = self.time
        if kind < 0.45:
            target, method, status = f"/items/{item}", "GET", 200
            self.time = at + 2
            took = chance.lognormvariate(1.6, 0.5)
            lines += self.call(
                "shop",
                "catalog",
                "GET",
                f"/v1/items/{item}",
                took,
                thread=thread,
                body={"id": item, "name": "Teapot", "price": 24.5},
            )
            took += 6
        elif kind < 0.7:
            target, method, status = f"/search?q=teapot&page={chance.randrange(1, 9)}", "GET", 200
            self.time = at + 2
            took = chance.lognormvariate(3.0, 0.7)
            lines += self.call(
                "shop",
                "catalog",
                "GET",
                "/v1/search?q=teapot",
                took,
                thread=thread,
                body=[{"id": n} for n in range(12)],
            )
            took += 9
        elif kind < 0.82:
            target, method, status = "/basket", "POST", 303
            took = chance.lognormvariate(1.8, 0.4)
        elif kind < 0.9:
            target, method = "/checkout", "POST"
            self.time = at + 3
            slow = chance.lognormvariate(6.6 if trouble else 4.4, 0.5)
            status = 502 if trouble and chance.random() < 0.4 else 200
            lines += self.call(
                "shop",
                None,
                "POST",
                f"/charges?api_key={SECRET}",
                slow,
                thread=thread,
                status=503 if status == 502 else 201,
                body={"charge": item, "access_token": SECRET},
            )
            took = slow + 11
        elif kind < 0.97:
            target, method, status = f"/static/{item % 7}.css", "GET", 304 if item % 3 else 200
            took = 0.4
        else:
            target, method, status = f"/items/{item}000", "GET", 404
            took = 3.0
        self.time = at + 0.8
        upstream = took + 1.4
        if not target.startswith("/static"):
            lines += self.call(
                "nginx",
                "shop",
                method,
                target,
                took,
                thread=worker,
                serving=thread,
                status=status,
                body={"page": "x" * 40},
            )
        self.time = at
        person = chance.choice(_PEOPLE)
        lines += self.call(
            person,
            "nginx",
            method,
            target,
            upstream,
            serving=worker,
            status=status,
            body="<!doctype html><title>Shop</title>",
        )
        self.busy[thread] = at + took * 1.1 + 5
        self.time = at
        return lines

    def idle_thread(self) -> int:
        """A thread of the shop that has no request; each serves one at a time."""
        thread = 1321
        while self.busy.get(thread, -1.0) >= self.time:
            thread += 1
        return thread

    def link(self, *ends: object) -> int:
        """The number of a connection; with 4,000 requests it is a new one."""
        turn = self.made // 4000
        return self.links.setdefault((*ends, turn), len(self.links) + 1)

    def call(
        self,
        client: str,
        server: str | None,
        method: str,
        target: str,
        took: float,
        thread: int = 0,
        serving: int = 0,
        status: int = 200,
        body: object = None,
    ) -> list[Record]:
        """One exchange, as the ends that are on this machine saw it."""
        chance = self.chance
        self.made += 1
        host, port = {
            "nginx": ("shop.example", 80),
            "shop": ("shop.internal", 8000),
            "catalog": ("catalog.internal", 8080),
            None: ("pay.example", 8443),
        }[server]
        address = {None: "203.0.113.20", "nginx": "192.0.2.10"}.get(server, "127.0.0.1")
        came = (
            client
            if client not in _PROGRAMS
            else "192.0.2.10"
            if address != "127.0.0.1"
            else "127.0.0.1"
        )
        link = self.link(client, server, thread or chance.randrange(6))
        number = self.numbers[link] = self.numbers.get(link, 0) + 1
        request = {
            "host": host,
            "user-agent": "shop/2.1" if client in _PROGRAMS else "Mozilla/5.0 (X11; Linux x86_64)",
            "accept": "*/*",
            "authorization": f"Bearer {SECRET}",
            "cookie": f"session={SECRET}; theme=dark",
        }
        asked = json.dumps({"item": link, "password": SECRET}) if method == "POST" else ""
        if asked:
            request |= {"content-type": "application/json", "content-length": str(len(asked))}
        content = body if isinstance(body, str) else json.dumps(body)
        if status == 304:
            content = ""
        answer = {
            "server": server or "pay",
            "content-type": "text/html; charset=utf-8"
            if isinstance(body, str)
            else "application/json",
            "content-length": str(len(content)),
            "set-cookie": [f"session={SECRET}; Path=/; HttpOnly", "theme=dark; Path=/"],
        }
        lines: list[Record] = []
        lost = chance.random()
        for role in ("client", "server"):
            program = client if role == "client" else server
            if program not in _PROGRAMS:
                continue
            cmdline, pid = _PROGRAMS[program]
            tid = (thread if role == "client" else serving) or pid
            late = 0.0 if role == "client" else 0.15
            last = took if role == "client" else max(0.05, took - 0.4)
            base = {
                "pid": pid,
                "comm": program,
                "cmdline": cmdline,
                "socket": link * 2 + (role == "server"),
                "netns": 4026531840,
                "tid": tid,
                "connection": f"1:{link}",
                "role": role,
                "http_version": "1.1",
                "exchange": f"{link * 2 + (role == 'server')}-{number}",
                "uid": 33,
                "process_start": _timestamp(-3600_000),
                "cgroup": f"/system.slice/{program}.service",
                "syscall": "sendto",
            }
            here = {
                "source_ip": came,
                "source_port": 40000 + link,
                "dest_ip": address,
                "dest_port": port,
            }
            there = {
                "source_ip": address,
                "source_port": port,
                "dest_ip": came,
                "dest_port": 40000 + link,
            }
            raw = f"{method} {target} HTTP/1.1\r\n" + _head(request) + asked
            lines.append(
                {
                    "timestamp": _timestamp(self.time + late),
                    **base,
                    **here,
                    "direction": "send" if role == "client" else "recv",
                    "bytes": len(raw),
                    "method": method,
                    "url": target,
                    "headers": request,
                    "body": asked,
                    "raw_payload": raw,
                    "type": "request",
                    "sequence": number * 1000 % 2**32,
                    "captured": len(raw),
                }
            )
            if lost < 0.004:
                continue  # no response
            raw = f"HTTP/1.1 {status} X\r\n" + _head(answer) + content
            response = {
                "timestamp": _timestamp(self.time + late + last),
                **base,
                **there,
                "direction": "recv" if role == "client" else "send",
                "bytes": len(raw),
                "status_code": status,
                "reason": _REASONS[status],
                "headers": answer,
                "body": content,
                "raw_payload": raw,
                "type": "response",
                "request": {"method": method, "url": target},
                "latency_ms": round(last, 5),
                "duration_ms": round(last + took * 0.06, 5),
                "sequence": number * 1000 % 2**32 + 7,
                "captured": len(raw),
            }
            if lost > 0.997:
                response |= {"incomplete": ["lost"], "body": content[:5]}
            lines.append(response)
        return lines


_REASONS = {
    200: "OK",
    201: "Created",
    303: "See Other",
    304: "Not Modified",
    404: "Not Found",
    502: "Bad Gateway",
    503: "Service Unavailable",
}

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
)
UNSEEN = "\u202egnp.exe\u202c \x1b[31mred\x1b[0m \x00 \u200b \x85 \u2066"


def hostile(path: Path) -> Path:
    """Write a capture in which everything that can be said by others would like to be run."""
    base = next(records(1))
    lines = []
    for number, text in enumerate(
        (HOSTILE, UNSEEN, "a\r\nSet-Cookie: injected=1", "\N{GRINNING FACE}" * 3)
    ):
        name = {
            "exchange": f"{number}-1",
            "connection": f"1:h{number}",
            "sequence": number + 1,
            "socket": number,
        }
        request = {
            **base,
            **name,
            "url": f"/{text}",
            "method": "GET",
            "comm": text[:15],
            "cmdline": text,
            "headers": {text.lower(): text, "host": text},
            "body": text,
            "cgroup": f"/{text}",
            "type": "request",
            "role": "client",
        }
        lines.append(request)
        lines.append(
            {
                **request,
                "type": "response",
                "status_code": 200,
                "reason": text,
                "headers": {"content-type": "text/html", text.lower(): [text, text]},
                "body": text,
                "latency_ms": 1.0,
                "duration_ms": 2.0,
                "incomplete": [text],
                "error_code": text,
                "future_field": text,
            }
        )
    lines.append(
        {
            **lines[0],
            "exchange": "9-1",
            "sequence": 99,
            "url": "/bytes",
            "body": b64encode(bytes(range(256))).decode(),
            "body_encoding": "base64",
        }
    )
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def write_stats(path: Path, final: bool = True) -> Path:
    """Write the counts of a capture that lost 3 calls and left out one that was not HTTP."""
    lost = {"ring_full": Count(3, 3072), "unreadable": Count()}
    send = Direction(Count(104, 104_000), Count(100, 100_000), {"not_http": Count(1, 928)}, lost)
    recv = Direction(Count(100, 100_000), Count(100, 100_000), {}, {"unreadable": Count()})
    kernel = KernelAccount(send, recv, skipped=2)
    assert kernel.balanced()
    stats = Stats(path, 10)
    stats.write(Account(kernel=kernel, final=final))
    stats.close()
    return path


def _head(headers: dict[str, Any]) -> str:
    fields = (
        (name, one)
        for name, value in headers.items()
        for one in (value if isinstance(value, list) else [value])
    )
    return "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"


def _timestamp(milliseconds: float) -> str:
    at = BEGIN + timedelta(milliseconds=milliseconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
