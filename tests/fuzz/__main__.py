# SPDX-License-Identifier: Apache-2.0
"""Fuzzes each target for a while: ``python -m tests.fuzz [SECONDS] [TARGET ...]``.

It starts from the cases of ``tests/cases``, or from small ELF files. ``output/fuzz`` keeps the
interesting inputs and those that fail. The name of a failing input is printed: replay it with
``python -m tests.fuzz.TARGET FILE``. The exit code is 1 if there is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from profiler.accounting import KernelAccount
from profiler.ingest import wire
from profiler.ingest.wire import RECV, SEND
from tests.floods import CLIENT, FLOODS
from tests.fuzz import actions
from tests.replay.script import CASES, Call, read, records
from tests.unit.elf_files import AARCH64, BUILDINFO, Elf, Part, pclntab
from tests.unit.wires import SOCKET

OUTPUT = Path("output/fuzz")
TARGETS = ("fuzz_http", "fuzz_fastpath", "fuzz_wire", "fuzz_elf", "fuzz_memory")
# Floods need room for a head that fills an HPACK table, or one of wide characters.
MAX_LENGTH = {"fuzz_memory": 16_384}
SECONDS = 120

# Kinds that no case contains.
OTHERS = [
    wire.encode(item)
    for item in (
        wire.Clock(1, 2),
        wire.Process(100, 7, 3, 0, b"a\0b\0"),
        wire.Cgroup(3, b"/system.slice"),
        wire.Names(SOCKET, 0, b"/run/a", b"\0b"),
        wire.Counters(json.dumps(KernelAccount().to_json()).encode()),
    )
]


def framed(record: bytes) -> bytes:
    """Prefix a record with its length."""
    return len(record).to_bytes(2, "little") + record


def cases(target: str) -> Iterator[tuple[str, bytes]]:
    """Yield the cases as inputs of a target, with a name for each."""
    for path in CASES.glob("*/stream.txt"):
        script = read(path)
        name = path.parent.name
        if target == "fuzz_http":
            unwanted = actions.encode(script.steps, script.joined, passed_over=True)
            yield f"{name}-passed-over", unwanted
            yield name, actions.encode(script.steps, script.joined)
        elif target == "fuzz_fastpath":
            yield name, b"\0" + actions.encode(script.steps, script.joined)
        else:
            yield name, b"".join(map(framed, [*OTHERS, *records(script.steps, script.joined)]))


def conversations() -> Iterator[tuple[str, bytes]]:
    """Yield few seeds, because the target plays an input many times: floods and HTTP/2 cases."""
    for name, flood in FLOODS.items():
        if flood.holds:
            talk = flood.talk(0)
            steps = [Call(SOCKET, SEND if end == CLIENT else RECV, 0, data) for end, data in talk]
            yield f"flood-{name}", actions.encode(steps, joined=False)[: MAX_LENGTH["fuzz_memory"]]
    yield from ((name, seed) for name, seed in cases("fuzz_http") if name.startswith("http2-"))


def programs() -> Iterator[tuple[str, bytes]]:
    """Yield ELF files with the libraries that are recognised."""
    leave = b"\xe9\x0b\0\0\0"
    functions = ("SSL_read", "SSL_write", "BIO_read", "BIO_write", "gnutls_record_recv")
    x86 = {"gnutls_record_send": leave, **dict.fromkeys(functions, b"\x31\xc0\xc3")}
    arm = dict.fromkeys(("SSL_read", "SSL_write"), b"\0\0\x80\x52\xc0\x03\x5f\xd6")
    yield "openssl-and-gnutls", Elf(x86, soname="libssl.so.3", constants=b"OpenSSL 3.0.1").build()
    yield "aarch64", Elf(arm, machine=AARCH64, table=".symtab").build()
    for name, text in (("go", 0x10_0000), ("go-pie", 0)):
        conn = "crypto/tls.(*Conn)"
        table = pclntab({f"{conn}.Read": 0, f"{conn}.Write": 16}, 32, text=text)
        info = Part(".go.buildinfo", BUILDINFO + b"\x06go1.24")
        yield name, Elf(extra=[Part(".gopclntab", table), info]).build()


def main(seconds: str = str(SECONDS), *targets: str) -> int:
    """Divide ``seconds`` between the targets."""
    if find_spec("atheris") is None:
        print("not fuzzed: there is no atheris for this machine", file=sys.stderr)
        return 0
    names = targets or TARGETS
    for name in names:
        seeds = OUTPUT / name
        seeds.mkdir(parents=True, exist_ok=True)
        inputs = {"fuzz_elf": programs, "fuzz_memory": conversations}.get(
            name, partial(cases, name)
        )
        for seed, content in inputs():
            (seeds / seed).write_bytes(content)
        options = [
            f"-max_total_time={int(seconds) // len(names)}",
            f"-artifact_prefix={OUTPUT}/{name}-",
            *(f"-max_len={MAX_LENGTH.get(name, 8192)}", "-timeout=30", "-rss_limit_mb=1024"),
            *("-verbosity=0", "-print_final_stats=1"),
        ]
        command = [sys.executable, "-m", f"tests.fuzz.{name}", *options, str(seeds)]
        if subprocess.run(command, check=False).returncode:
            print(f"{name} failed; the input is the last of {OUTPUT}/{name}-*", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
