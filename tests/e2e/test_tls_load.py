# SPDX-License-Identifier: Apache-2.0
"""Under load over TLS nothing is missing, duplicated or mixed up, and each line has its ends."""

from __future__ import annotations

from collections import defaultdict

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture, skipped_calls
from tests.e2e.test_ending import accounts
from tests.e2e.test_load import PORT, check_lines, check_logs, load, number_of, numbered, server
from tests.e2e.test_tls import CERTIFICATE, KEY, prepare

pytestmark = pytest.mark.one_guest("debian-13")

SECONDS = 60


def test_twenty_users_for_a_minute(guest: Guest, token: str) -> None:
    prepare(guest)
    options = f"--certfile {CERTIFICATE} --keyfile {KEY}"
    with (
        server(guest, token, options) as server_log,
        Capture(guest, "--tls", "--no-redact") as capture,
    ):
        client_log = load(guest, token, SECONDS, f"SCHEME=https CERTIFICATE={CERTIFICATE}")
        client, served = numbered(guest, client_log), numbered(guest, server_log)
        # The profiler drains the ring buffer before it ends.
        said = capture.stop()
        records = [record for record in capture.records() if "tls" in record]
    check_logs(client, served)

    hidden = skipped_calls(said)
    check_lines(records, client, served, hidden)
    connections = defaultdict(set)
    for record in records:
        assert record["tls"]["library"] == "openssl"
        assert record["dest_port" if record["type"] == "request" else "source_port"] == PORT
        if "incomplete" not in record:
            connections[number_of(record)].add(record["connection"])
    assert all(len(each) == 1 for each in connections.values())
    # The users have connections of their own.
    assert len(set.union(*connections.values())) >= 20

    assert set(accounts(said)) >= {"TLS send", "TLS recv"}
    for calls, size, *fates in accounts(said).values():
        assert (calls, size) == (sum(fates[::2]), sum(fates[1::2]))
        assert fates[4] <= hidden
