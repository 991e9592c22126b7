# SPDX-License-Identifier: Apache-2.0
"""Stores results, in one file for each version of the product and the benchmark.

Figures of different versions never appear in one table.
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
from provisioning.sources import FASTPATH_SOURCES, WHEEL_SOURCES

REPOSITORY = Path(__file__).resolve().parent.parent.parent
KEPT = REPOSITORY / "output" / "bench"

Run = dict[str, Any]


@dataclass
class Results:
    """The runs of one version, and the facts about the guest they were made in."""

    path: Path
    facts: dict[str, str]
    runs: dict[Measurement, Run]

    @staticmethod
    def of_product() -> Results:
        """Return the results for the current product and benchmark."""
        sources = [REPOSITORY / name for name in WHEEL_SOURCES + FASTPATH_SOURCES]
        inside = Path(__file__).with_name("inside")
        version = digest(digest_files(REPOSITORY, [*sources, inside]))
        return Results.read(KEPT / f"{version}.json")

    @staticmethod
    def read(path: Path) -> Results:
        """Read a file; no results if it does not exist."""
        if not path.exists():
            return Results(path, {}, {})
        document = json.loads(path.read_text("utf-8"))
        runs = {Measurement(*name.split()): run for name, run in document["runs"].items()}
        return Results(path, document["facts"], runs)

    def keep(self, measurement: Measurement, run: Run) -> None:
        """Store a run, replacing an earlier one; those of other processes stay."""
        with self._latest():
            self.runs[measurement] = run

    def keep_facts(self, facts: dict[str, str]) -> None:
        """Store the facts; runs from a guest with different facts are discarded."""
        self.facts = facts
        with self._latest():
            pass

    @contextmanager
    def _latest(self) -> Iterator[None]:
        """Change the content of the file, starting from what other processes stored there."""
        with locked(self.path.with_suffix(".lock")):
            there = Results.read(self.path)
            self.runs = there.runs if there.facts == self.facts else {}
            yield
            runs = {str(measurement): run for measurement, run in self.runs.items()}
            document = {"facts": self.facts, "runs": runs}
            write_whole(self.path, json.dumps(document, indent=1) + "\n")

    @property
    def whole(self) -> bool:
        """Is every result present, without a failure?"""
        return all("error" not in self.runs.get(one, {"error": ""}) for one in selected())
