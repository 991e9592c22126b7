# SPDX-License-Identifier: Apache-2.0
"""The state and views of `top`, without a terminal."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.commands.top import model as bounds
from profiler.commands.top.model import KINDS, Model
from profiler.commands.top.view import View
from profiler.exchanges.latencies import Latencies
from profiler.exchanges.pair import Pairing
from profiler.exchanges.redact import Redactor
from profiler.outputs.terminal import cells
from tests import sample_capture

SECOND = 1_000_000_000


def fed(records: Any, redactor: Redactor | None = None, is_live: bool = False) -> Model:
    model = Model(redactor, is_live)
    feed(model, records)
    return model


def feed(model: Model, records: Any) -> None:
    pairing = Pairing(2000)
    for record in records:
        for told in pairing.add(record):
            model.add(told)
    for told in pairing.finish():
        model.add(told)


def shop(exchanges: int = 300) -> list[dict[str, Any]]:
    return sorted(sample_capture.records(exchanges), key=lambda record: record["timestamp"])


def exchange(number: int, at: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    """A client's request on one connection, and its response."""
    both = {
        "timestamp": f"2026-01-01T00:00:{at:012.9f}Z",
        "role": "client",
        "comm": "curl",
        "pid": 1,
        "exchange": f"{number}-1",
        "connection": f"1:{number}",
        "source_ip": "192.0.2.1",
        "dest_ip": "192.0.2.2",
        "bytes": 100,
    }
    asked = {"method": "GET", "url": more.pop("url", "/"), "headers": {"host": "shop"}}
    answered = {"status_code": 200, "request": asked, "latency_ms": 1.0, **more}
    return [
        {**both, "type": "request", **asked, "body": more.get("body", "")},
        {**both, "type": "response", **answered},
    ]


def screen(view: View, height: int = 30, width: int = 120) -> list[str]:
    frame = view.frame(height, width)
    lines = ["".join(span.text for span in line) for line in frame]
    assert len(lines) <= height and all(cells(line) <= width for line in lines)
    return lines


def press(view: View, *keys: str) -> None:
    for key in keys:
        assert view.key(key)


@given(st.lists(st.floats(0.002, 1e7), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_are_right_within_a_bin(values: list[float], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    found = latencies.percentile(share)
    assert found is not None and abs(found / exact - 1) < 0.012


def test_a_histogram_is_bounded() -> None:
    latencies = Latencies()
    for value in (0.0, -1.0, 1e300, *(random.lognormvariate(3, 9) for _ in range(20_000))):
        latencies.add(value)
    assert len(latencies._bins) <= 1321
    assert Latencies().percentile(0.5) is None


def test_figures_are_those_of_the_exchanges() -> None:
    records = [
        record
        for number, status in enumerate([200] * 6 + [404, 404, 500])
        for record in exchange(number, 1 + number, status_code=status, latency_ms=number + 1.0)
    ]
    records += exchange(99, 20)[:1]  # not answered yet, which is no failure
    model = fed(records)
    [group] = model.groups["endpoint"].values()
    assert (group.name, group.count, group.refused, group.failed) == ("GET shop/", 10, 2, 1)
    assert group.bytes == 1900
    assert round(group.latencies.percentile(0.5) or 0) == 5
    assert model.rate(group) == pytest.approx(10 / 19)
    assert [g.count for g in model.groups["process"].values()] == [10]
    assert len(model.groups["connection"]) == 10


def test_the_rate_of_a_live_capture_is_that_of_the_last_seconds() -> None:
    model = fed([], is_live=True)
    for second in range(30):
        feed(model, exchange(second, second))
    group = model.all
    assert model.rate(group) == 1.0
    model.now += 5 * SECOND
    assert model.rate(group) == pytest.approx(0.6)
    model.now += 100 * SECOND
    assert model.rate(group) == 0.0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HELD_MAX", 1_000_000)
    model = fed(
        record
        for number in range(3000)
        for record in exchange(number, url=f"/{'x' * (number % 1500)}", body="b" * 500)
    )
    assert model.all.count == 3000
    for kind in KINDS:
        assert len(model.groups[kind]) <= bounds.GROUPS_MAX
        assert all(len(group.latest) <= bounds.LATEST for group in model.groups[kind].values())
    assert model.left_out["connection"] == 2000
    assert model._held <= 1_000_000
    assert model._held == sum(entry.held for entry in model._kept.values())
    assert all(entry.exchange for entry in model._kept.values())
    # An exchange that is only listed takes little memory.
    listed = [e for group in model.groups["endpoint"].values() for e in group.latest]
    assert any(entry.exchange is None for entry in listed)
    model.clear()
    assert model._held == 0 and not model._kept


def test_unlisted_exchanges_are_dropped() -> None:
    model = fed(record for number in range(5000) for record in exchange(number))
    listed = {
        entry.number
        for kind in KINDS
        for group in model.groups[kind].values()
        for entry in group.latest
    }
    assert set(model._kept) == listed


def test_every_kind_and_every_level() -> None:
    view = View(fed(shop(), Redactor()))
    text = screen(view)
    assert text[0].startswith("http-profiler top  300 exchanges")
    assert text[2].startswith("requests▼") and "GET shop.example/items/{id}" in text[3]
    press(view, "\t")
    assert any("nginx (server) pid 812" in line for line in screen(view))
    press(view, "\t")
    assert any("shop 127.0.0.1:" in line and "→" in line for line in screen(view))
    press(view, "\t", "enter")
    assert screen(view)[1].startswith("GET shop.")
    press(view, "enter")
    text = screen(view, 60)
    assert any(line.startswith("authorization: Bearer redacted-") for line in text)
    assert any(line.startswith("HTTP/1.1 200 OK") for line in text)
    assert sample_capture.SECRET not in "".join(text)
    press(view, "escape")
    assert screen(view)[2].startswith("time▼")
    press(view, "escape")
    assert screen(view)[2].startswith("requests▼")
    assert not view.key("q")


def test_secrets_are_shown_on_request() -> None:
    view = View(fed(shop(), None))
    press(view, "enter", "enter")
    assert sample_capture.SECRET in "".join(screen(view, 60))


def column(view: View, name: str) -> list[str]:
    lines = screen(view, 40)
    end = re_end(lines[2], name)
    return [line[:end].split()[-1] for line in lines[3:-1] if line.strip()]


def re_end(head: str, name: str) -> int:
    at = head.index(name) + len(name)
    return at + 1 if head[at : at + 1] in "▼▲" else at


def test_sorting() -> None:
    view = View(fed(shop()))
    counts = [int(text) for text in column(view, "requests")]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 3
    press(view, "r")
    assert [int(text) for text in column(view, "requests")] == counts[::-1]
    press(view, "<")
    names = [line[73:] for line in screen(view, 40)[3:-1] if line.strip()]
    assert "endpoint▼" in screen(view)[2] and names == sorted(names)
    press(view, ">", ">")
    assert "rate/s▼" in screen(view)[2]
    # A name that another kind does not have.
    press(view, "<", "<", "\t")
    assert "nginx" in screen(view)[4]


def test_a_filter_is_typed_and_removed() -> None:
    view = View(fed(shop()))
    press(view, "/", *"CHECKOUT q")
    assert "filter: CHECKOUT q_" in screen(view)[-1]
    press(view, "backspace", "backspace", "enter")
    rows = [line for line in screen(view)[3:-1] if line.strip()]
    assert len(rows) == 2 and all("checkout" in line for line in rows)
    press(view, "enter", "/", *"502", "enter")
    rows = [line for line in screen(view)[3:-1] if line.strip()]
    assert len(rows) == 1 and " 502 " in rows[0]
    press(view, "/", *"no", "enter")
    assert "nothing matches" in screen(view)[3]
    press(view, "escape", "/", "escape")
    assert len([line for line in screen(view)[3:-1] if line.strip()]) > 10


def test_pause_holds_the_screen_and_what_it_leads_to() -> None:
    model = fed(record for number in range(3) for record in exchange(number, body="body"))
    view = View(model)
    press(view, "p")
    before = screen(view)
    assert "PAUSED" in before[0]
    for number in range(100, 300):
        feed(model, exchange(number, 5))
    assert screen(view) == before
    press(view, "enter", "enter")
    assert "body" in screen(view, 50)  # not one that newer ones have replaced
    press(view, "escape", "escape", "p")
    assert screen(view)[0].startswith("http-profiler top  203 exchanges")


def test_the_cursor_stays_with_its_row() -> None:
    model = fed(exchange(1, url="/a") + exchange(2, url="/b") + exchange(3, url="/c"))
    view = View(model)
    press(view, "down", "down")
    cursor = [line[0].text for line in view.frame(20, 100) if line and line[0].style == "cursor"]
    assert cursor[0].rstrip().endswith("GET shop/c")
    for number in range(10, 20):
        feed(model, exchange(number, 5, url="/c"))
    cursor = [line[0].text for line in view.frame(20, 100) if line and line[0].style == "cursor"]
    assert cursor[0].rstrip().endswith("/c")


def test_a_selected_exchange_is_kept() -> None:
    model = fed(exchange(1, body="look at me"))
    view = View(model)
    press(view, "enter", "enter")
    for number in range(10, 200):
        feed(model, exchange(number, 5))
    assert "look at me" in screen(view)


def test_a_removed_group_leads_back() -> None:
    model = fed(exchange(1))
    view = View(model)
    press(view, "enter", "c")
    assert "no exchanges yet" in screen(view)[3]
    press(view, "enter", "down", "escape")


@pytest.mark.parametrize("keys", [[], ["enter"], ["enter", "enter"], ["\t", "\t"]])
def test_every_size_and_hostile_bytes(keys: list[str], tmp_path: Any) -> None:
    from profiler.exchanges.read import Capture

    records = list(Capture(sample_capture.hostile(tmp_path / "c")).records())
    view = View(fed(records, Redactor()))
    press(view, *keys)
    for height in (0, 1, 2, 3, 4, 5, 24, 80):
        for width in (0, 1, 2, 3, 10, 39, 80, 300):
            text = "".join(screen(view, height, width))
            assert not set(text) & set("\x1b\x00\x85\u202e\u2066\u200b\r\n")
            press(view, "down", "pagedown", "end", "up", "pageup", "home")


def test_a_long_exchange_is_scrolled() -> None:
    body = "\n".join(f"line {number}" for number in range(100))
    view = View(fed(exchange(1, body=body)))
    press(view, "enter", "enter")
    assert "line 99" not in screen(view, 20)
    press(view, "end")
    assert screen(view, 20)[-2] == "line 99"
    press(view, "up")
    assert screen(view, 20)[-2] == "line 98"
    press(view, "home")
    assert screen(view, 20)[2].startswith("client")


def test_shows_which_exchanges_have_tls() -> None:
    tls = {"library": "openssl", "version": "1.3", "alpn": "h2"}
    plain, encrypted = exchange(1), [{**one, "tls": tls} for one in exchange(2, at=2.0)]
    view = View(fed(plain + encrypted))
    press(view, "enter")
    assert [line.split()[-1] for line in screen(view)[3:5]] == ["https://shop/", "shop/"]
    press(view, "/", *"https", "enter")
    assert "shop/" not in screen(view)[4]
    press(view, "enter")
    assert "  tls        openssl  1.3  h2" in screen(view)


def test_shows_the_container_and_the_service() -> None:
    more = {"container": {"id": "0a", "name": "web"}, "pod": {"name": "web-0"}, "service": "shop"}
    view = View(fed([{**one, **more} for one in exchange(1)]))
    press(view, "enter", "enter")
    for line in ("  container  0a  web", "  pod        web-0", "  service    shop"):
        assert line in screen(view)


def test_reports_incomplete_messages() -> None:
    view = View(fed(exchange(1, incomplete=["lost"])))
    assert "incomplete: lost 1" in screen(view)[0]
    press(view, "enter")
    assert "! lost GET shop/" in screen(view)[3]
    press(view, "enter")
    assert "incomplete   lost" in screen(view)


def test_long_targets_are_counted_and_then_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HELD_MAX", 1_000_000)
    model = fed(
        record
        for number in range(400)
        for record in exchange(number, url=f"/{number}\N{GRINNING FACE}{'x' * 20_000}")
    )
    assert model._held <= 1_000_000
    entries = {e.number: e for group in model.groups["connection"].values() for e in group.latest}
    left = [entry for entry in entries.values() if entry.exchange is None]
    assert len(left) > 300
    assert all(len(entry.seen.target) == bounds._NAME_MAX for entry in left)
