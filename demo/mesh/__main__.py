# SPDX-License-Identifier: Apache-2.0
"""``make mesh``: a map of ten containers in four languages, checked against their access logs.

Boots a guest, starts the profiler in it and then the mesh, lets Locust visit it, and saves lines,
report and inventory in ``output/``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from demo.mesh.mesh import Call, Mesh, captured_calls, drawn_edges, edges_of
from profiler import read
from profiler.cli import main as http_profiler
from profiler.exchanges.inventory import Inventory
from profiler.exchanges.model import Exchange
from profiler.exchanges.pair import Exchanges
from provisioning import Guest, ProvisioningError, load_catalog, machine
from provisioning.capture import Capture
from provisioning.progress import say, step

OUTPUT = Path(__file__).resolve().parent.parent.parent / "output"


def main() -> int:
    """Run the mesh; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.mesh", description=__doc__)
    parser.add_argument("--visits", type=int, default=40, help="number of requests to the gateway")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        name = next(spec.name for spec in load_catalog().values() if spec.mesh)
        with machine(name) as guest:
            said, logged = run(guest, arguments.visits)
    except ProvisioningError as error:
        if error.details:
            say(error.details)
        say(f"mesh: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("mesh: interrupted")
        return 130
    lines = str(OUTPUT / "mesh.jsonl")
    for command in (
        ["report", lines, "-o", str(OUTPUT / "mesh.html")],
        ["inventory", lines, "-o", str(OUTPUT / "mesh.json")],
        ["inventory", lines, "--mermaid", "-o", str(OUTPUT / "mesh.mmd")],
    ):
        if http_profiler(command) != 0:
            return 1
    print(f"\nThe profiler's own messages:\n\n{said}\nWho calls whom, by the capture:\n")
    print((OUTPUT / "mesh.mmd").read_text("utf-8"))
    agree = compare(logged, list(Exchanges(read(lines))))
    print(f"\nmesh.jsonl, .html, .json and .mmd are in {OUTPUT}")
    print(f"It took {time.monotonic() - started:.0f} s.")
    if not agree:
        say("mesh: the capture differs from the access logs, see above")
    return 0 if agree else 1


def run(guest: Guest, visits: int) -> tuple[str, Counter[Call]]:
    """Capture visits of the mesh; return what the profiler said and the calls that were logged."""
    mesh = Mesh(guest)
    with step("building images from the guest's own files"):
        # A machine of Vagrant or Lima may have one of an earlier run.
        mesh.remove()
        mesh.build()
    with Capture(guest, "--tls") as capture:
        with step("starting nine containers"):
            mesh.start()
        with step(f"Locust visits the mesh {visits} times"):
            mesh.visit(visits)
        said = capture.stop()
    with step("stopping the mesh"):
        mesh.stop()
    capture.fetch(OUTPUT / "mesh.jsonl")
    return said, mesh.calls()


def compare(logged: Counter[Call], exchanges: Sequence[Exchange]) -> bool:
    """Print each edge of the map with both counts; return whether the access logs agree."""
    edges = edges_of(logged)
    drawn = drawn_edges(Inventory(exchanges))
    print(f"  {'caller':12} {'called':12} {'access logs':>11} {'map':>5}")
    for edge in sorted(edges.keys() | drawn.keys()):
        print(f"  {edge[0]:12} {edge[1]:12} {edges[edge]:11} {drawn[edge]:5}")
    captured = captured_calls(exchanges)
    for call in sorted(logged.keys() | captured.keys()):
        if logged[call] != captured[call]:
            say(f"mesh: {logged[call]} in the access log, but {captured[call]} captured: {call}")
    return edges == drawn and logged == captured


if __name__ == "__main__":
    sys.exit(main())
