"""The playbook describes a state: run on a machine that is in it, it changes nothing."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from provisioning.catalog import find_guest
from provisioning.host import run
from provisioning.image import ensure_image, play, system_tree
from provisioning.sources import build_wheel, copy_product

RECAP = re.compile(r"ok=(\d+)\s+changed=(\d+).*failed=(\d+)")
GUEST = "debian-12"


@pytest.mark.skipif(os.geteuid() != 0, reason="running the playbook in a tree needs root")
@pytest.mark.xdist_group(GUEST)
def test_a_second_run_changes_nothing() -> None:
    spec = find_guest(GUEST)
    ensure_image(spec)
    # Beside the tree, so that copying it stays on one file system.
    with tempfile.TemporaryDirectory(dir=system_tree(spec).parent) as name:
        scratch = Path(name)
        tree, log = scratch / "tree", scratch / "log"
        copy = ["cp", "--archive", "--reflink=auto", str(system_tree(spec)), str(tree)]
        run(copy, doing="copying the system", log=log)
        sources = copy_product(scratch / "sources")
        wheel = build_wheel(sources, scratch, log)
        product = {"profiler_wheel": str(wheel), "demo_sources": str(sources)}
        play(spec, tree, "system", {}, log)
        play(spec, tree, "product", product, log)
        play(spec, tree, "product", product, log)
        recaps = [tuple(map(int, found)) for found in RECAP.findall(log.read_text())]
    system, first, second = recaps
    assert system[0] > 10
    assert system[1:] == (0, 0)
    assert first[1] > 0
    assert second[1:] == (0, 0)
