"""What a start leaves for the next one."""

from __future__ import annotations

import re

import pytest

from provisioning import Guest
from provisioning.capture import Capture
from tests.e2e.conftest import ROUTES, background, traffic
from tests.e2e.test_capture import url_of

KEPT = "/var/cache/http-profiler"


@pytest.mark.parametrize("route", ROUTES)
def test_the_second_start_does_not_load_the_compiler(guest: Guest, token: str, route: str) -> None:
    guest.exec(f"sudo rm -rf {KEPT}")
    peaks = []
    with background(guest, "serve") as (_, server):
        for number in range(2):
            url = f"/{token}/{number}"
            with Capture(guest, "--route", route) as capture:
                traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:{url}")
                assert len(capture.wait_for(lambda r, url=url: url_of(r) == url, 4)) == 4
                said = capture.stop()
            peaks.append(int(re.findall(r"peak resident memory (\d+) MiB", said)[0]))
    # LLVM takes more than all else.
    assert peaks[1] < peaks[0] / 2
    assert guest.exec(f"stat -c '%U %a' {KEPT}").stdout == "root 755\n"
