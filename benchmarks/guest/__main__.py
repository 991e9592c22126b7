# SPDX-License-Identifier: Apache-2.0
"""``tox -e bench``: boots a guest whose clock counts instructions, and measures in it.

Results are kept in ``output/bench``, by version of the product, so parts can run one after
the other: ``tox -e bench -- --workload small --capture base,socket``. The tables are
printed. When one version is measured completely, they are written to
``docs/explanation/performance.md``.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.guest.measuring import GUEST, measure
from benchmarks.guest.page import page, replaced
from benchmarks.guest.plan import CAPTURES, WORKLOADS, selected, shared_out
from benchmarks.guest.results import Results
from provisioning.capacity import side_by_side
from provisioning.catalog import find_guest
from provisioning.progress import say

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGE = REPOSITORY / "docs" / "explanation" / "performance.md"

# SIGTERM interrupts it too, so that it takes its guest down.
BOUND = ("setpriv", "--pdeathsig", "INT", "--")
MEASURE = (sys.executable, "-m", "benchmarks.guest.measuring")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.attach:
        code = measure(options.workload, options.capture, attached=True)
    else:
        code = _measure_side_by_side(options)
    return code or _tell(options)


def _measure_side_by_side(options: argparse.Namespace) -> int:
    """Measure in several guests; return the exit code.

    A workload stays in one guest, because its added cost is relative to its base there.
    """
    most = options.guests or side_by_side([find_guest(GUEST)] * len(options.workload))
    captures = ",".join(options.capture)
    # In a session of its own, so that Ctrl-C reaches it once: through this process.
    children = [
        subprocess.Popen([*BOUND, *MEASURE, ",".join(workloads), captures], start_new_session=True)
        for workloads in shared_out(options.workload, most)
    ]
    interrupted = False
    for child in children:
        while child.poll() is None:
            try:
                child.wait()
            except KeyboardInterrupt:
                interrupted = True
                for each in children:
                    each.send_signal(signal.SIGINT)
    # A killed process has a negative status.
    return 130 if interrupted else max(abs(child.returncode) for child in children)


def _tell(options: argparse.Namespace) -> int:
    """Print the results, and write the page if they are complete; return the exit code."""
    results = Results.of_product()
    wanted = selected(options.workload, options.capture)
    print(page(results))
    if results.whole:
        PAGE.write_text(replaced(PAGE.read_text() if PAGE.exists() else "", page(results)))
        print(f"written: {PAGE.relative_to(REPOSITORY)}")
    print(f"kept: {results.path.relative_to(REPOSITORY)}")
    if not set(wanted) <= set(results.runs):
        say("bench: the product was changed meanwhile, so its results are incomplete: run again")
        return 1
    failed = [str(one) for one in wanted if "error" in results.runs[one]]
    if failed:
        say(f"bench: {len(failed)} of {len(wanted)} could not be measured: {', '.join(failed)}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guest", description=__doc__)
    for name, table in (("workload", WORKLOADS), ("capture", CAPTURES)):
        parser.add_argument(
            f"--{name}",
            type=_names(table),
            default=tuple(table),
            metavar="NAME,...",
            help=f"only these (default: all, which are {', '.join(table)})",
        )
    parser.add_argument(
        "--guests",
        type=_count,
        metavar="N",
        help="how many guests measure in parallel, each with its share of the workloads"
        " (default: as many as this host has processors and memory for)",
    )
    parser.add_argument(
        "--attach",
        action="store_true",
        help="use the guest that `python -m provisioning up --icount "
        f"{GUEST}` brought up, and install the current product in it",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of guests")
    return int(text)


def _names(table: Mapping[str, object]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        for name in text.split(","):
            if name not in table:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(table)}")
        return tuple(text.split(","))

    return parse


if __name__ == "__main__":
    sys.exit(main())
