from __future__ import annotations

import json
import re

from profiler.ingest.probe.counters import FILTERED, LOST, Account, Accounts, Tally
from profiler.ingest.probe.hooks import BPF_DIRECTORY


def test_the_reasons_are_those_of_the_kernel_side() -> None:
    header = (BPF_DIRECTORY / "counters.h").read_text()
    for name, reasons in (("filtered", FILTERED), ("lost", LOST)):
        enumeration = re.search(rf"enum {name} {{(.*?)}};", header, re.DOTALL)
        assert enumeration
        members = re.findall(rf"\b{name.upper()}_(\w+),", enumeration[1])
        assert tuple(m.lower() for m in members) == (*reasons, "reasons")


def account(seen: int, forwarded: int, filtered: int, lost: int) -> Account:
    def tally(n: int) -> Tally:
        return Tally(n, n * 100)

    return Account(
        tally(seen), tally(forwarded), {"pid": tally(filtered)}, {"ring_full": tally(lost)}
    )


def test_the_equation() -> None:
    assert account(6, 3, 2, 1).balanced()
    assert not account(7, 3, 2, 1).balanced()
    right, wrong = account(1, 1, 0, 0), account(2, 1, 0, 0)
    assert Accounts(right, right).balanced()
    assert not Accounts(right, wrong).balanced()
    assert not Accounts(wrong, right).balanced()
    # Calls that add up do not make up for bytes that do not.
    assert not Account(Tally(1, 10), Tally(1, 9)).balanced()


def test_json_there_and_back() -> None:
    accounts = Accounts(account(6, 3, 2, 1), account(1, 1, 0, 0))
    document = json.loads(json.dumps(accounts.to_json()))
    assert document["send"]["lost"]["ring_full"] == {"calls": 1, "bytes": 100}
    assert Accounts.from_json(document) == accounts
