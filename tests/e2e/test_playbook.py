# SPDX-License-Identifier: Apache-2.0
"""The playbook is idempotent: a second run changes nothing."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from provisioning import GuestSpec
from provisioning.host import run
from provisioning.image import play, system_tree
from provisioning.playbook import product_variables
from provisioning.sources import copy_product

RECAP = re.compile(r"ok=(\d+)\s+changed=(\d+).*failed=(\d+)")


@pytest.mark.skipif(os.geteuid() != 0, reason="running the playbook in a tree needs root")
def test_a_second_run_changes_nothing(system: GuestSpec) -> None:
    # Beside the tree, so that the copy stays on one file system.
    with tempfile.TemporaryDirectory(dir=system_tree(system).parent) as name:
        scratch = Path(name)
        tree, log = scratch / "tree", scratch / "log"
        copy = ["cp", "--archive", "--reflink=auto", str(system_tree(system)), str(tree)]
        run(copy, doing="copying the system", log=log)
        sources = copy_product(scratch / "sources")
        product = product_variables(sources, log)
        play(system, tree, "system", {}, log)
        play(system, tree, "product", product, log)
        play(system, tree, "product", product, log)
        recaps = [tuple(map(int, found)) for found in RECAP.findall(log.read_text())]
    again, first, second = recaps
    assert again[0] > 10
    assert again[1:] == (0, 0)
    assert first[1] > 0
    assert second[1:] == (0, 0)
