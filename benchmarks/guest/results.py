"""What was measured, kept by the version of what was measured: a file for each.

Figures of different versions never stand in one table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.guest.plan import Measurement, selected
from provisioning.cache import digest, digest_files, write_whole
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
        """Keep a run, instead of one that was made before, beside those of another process."""
        there = Results.read(self.path)
        others = there.runs if there.facts == self.facts else {}
        self.runs = {**self.runs, **others, measurement: run}
        self._write()

    def keep_facts(self, facts: dict[str, str]) -> None:
        """Keep the facts; runs of a guest with others are forgotten."""
        if self.facts != facts:
            self.facts, self.runs = facts, {}
            self._write()

    @property
    def whole(self) -> bool:
        """Is everything there, and nothing failed?"""
        return all("error" not in self.runs.get(one, {"error": ""}) for one in selected())

    def _write(self) -> None:
        runs = {str(measurement): run for measurement, run in self.runs.items()}
        write_whole(self.path, json.dumps({"facts": self.facts, "runs": runs}, indent=1) + "\n")
