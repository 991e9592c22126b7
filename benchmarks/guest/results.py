# SPDX-License-Identifier: Apache-2.0
"""What was measured, kept by the version of what was measured: a file for each.

Figures of different versions never stand in one table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.guest.plan import Measurement, selected
from provisioning.cache import digest, digest_files, locked, write_whole
from provisioning.sources import WHEEL_SOURCES

REPOSITORY = Path(__file__).resolve().parent.parent.parent
KEPT = REPOSITORY / "output" / "bench"

Run = dict[str, Any]


@dataclass
class Results:
    """The runs of one version, and the facts of the guest they were made in."""

    path: Path
    facts: dict[str, str]
    runs: dict[Measurement, Run]

    @staticmethod
    def of_product() -> Results:
        """Return what was measured of the product, and by the benchmark, as they are now."""
        sources = [REPOSITORY / name for name in WHEEL_SOURCES]
        inside = Path(__file__).with_name("inside")
        version = digest(digest_files(REPOSITORY, [*sources, inside]))
        return Results.read(KEPT / f"{version}.json")

    @staticmethod
    def read(path: Path) -> Results:
        """Return what is in a file; nothing if it is not there."""
        if not path.exists():
            return Results(path, {}, {})
        document = json.loads(path.read_text("utf-8"))
        runs = {Measurement(*name.split()): run for name, run in document["runs"].items()}
        return Results(path, document["facts"], runs)

    def keep(self, measurement: Measurement, run: Run) -> None:
        """Keep a run, instead of one that was made before, beside those of other processes."""
        with self._latest():
            self.runs[measurement] = run

    def keep_facts(self, facts: dict[str, str]) -> None:
        """Keep the facts; runs of a guest with others are forgotten."""
        self.facts = facts
        with self._latest():
            pass

    @contextmanager
    def _latest(self) -> Iterator[None]:
        """Change what is in the file; what another process has put there counts."""
        with locked(self.path.with_suffix(".lock")):
            there = Results.read(self.path)
            self.runs = there.runs if there.facts == self.facts else {}
            yield
            runs = {str(measurement): run for measurement, run in self.runs.items()}
            document = {"facts": self.facts, "runs": runs}
            write_whole(self.path, json.dumps(document, indent=1) + "\n")

    @property
    def whole(self) -> bool:
        """Is everything there, and nothing failed?"""
        return all("error" not in self.runs.get(one, {"error": ""}) for one in selected())
