# SPDX-License-Identifier: Apache-2.0
"""The part of the tutorial that needs a kernel: every command that needs no terminal.

`tests/unit/test_readme.py` runs the first part.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provisioning import Guest
from provisioning.capture import START_TIMEOUT
from tests.records import read_records

pytestmark = pytest.mark.one_guest("debian-13")

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# tests/e2e/test_live.py covers `top`; captures without an end wait for a reader.
NEEDS_A_READER = ("http-profiler top", "--duration")


def test_the_tutorial(guest: Guest) -> None:
    _, _, second_part = TUTORIAL.read_text("utf-8").partition("\n## Capture on a real kernel\n")
    on_the_host, *in_the_guest = BLOCK.findall(second_part)
    assert "provisioning up debian-12" in on_the_host
    blocks = [b for b in in_the_guest if not any(word in b for word in NEEDS_A_READER)]
    assert len(blocks) == len(in_the_guest) - len(NEEDS_A_READER)
    script = "\n".join(["set -e", "trap 'kill $(jobs -p) || :' EXIT", *blocks])
    done = guest.exec(["bash", "-c", script], timeout=2 * START_TIMEOUT)
    try:
        # curl's own output, and the line about it.
        assert '"status":"ok"' in done.stdout.replace(" ", "")
        assert "GET http://127.0.0.1:8080/healthz 200" in done.stderr
        # The commands to repeat the three failed requests.
        assert done.stdout.count("\ncurl ") == done.stdout.count("127.0.0.1:8080/missing") == 3
        assert "2 of 2 assertions hold" in done.stderr
        assert read_records(guest.exec("sudo cat http.jsonl").stdout)
        assert "<title>" in guest.exec("cat report.html").stdout
    finally:
        guest.exec("rm -f http.jsonl report.html")
