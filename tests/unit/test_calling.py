# SPDX-License-Identifier: Apache-2.0
"""The calling convention matches the C code."""

from __future__ import annotations

import re

from profiler.ingest.probe.calling import LEVELS, Calling
from profiler.ingest.probe.hooks import BPF_DIRECTORY


def test_the_members_are_those_of_the_c_code_in_its_order() -> None:
    enum = (BPF_DIRECTORY / "kernel.h").read_text().split("enum calling {")[1].split("}")[0]
    assert tuple(name.lower() for name in re.findall(r"CALLING_(\w+),", enum)) == Calling._fields


def test_the_levels_are_those_of_the_c_code() -> None:
    text = (BPF_DIRECTORY / "route_socket.h").read_text()
    defined = {name.lower(): int(n) for name, n in re.findall(r"#define LEVEL_(\w+) +(\d)", text)}
    assert defined == {name: n for n, name in enumerate(LEVELS)}
