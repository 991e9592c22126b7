# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: what it shows, by mouse, keyboard and screen reader."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from profiler import cli
from profiler.exchanges.endpoint import endpoint
from profiler.exchanges.model import Exchange, failed, host
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.read import read
from tests import sample_capture
from tests.browser.conftest import Browser

Make = Callable[..., Path]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_capture.write(tmp_path_factory.mktemp("shop") / "shop.jsonl", 3000)


@pytest.fixture(scope="session")
def page(capture: Path, report: Make) -> Path:
    stats = sample_capture.write_stats(capture.with_suffix(".stats"))
    return report(capture, "--stats", str(stats))


@pytest.fixture(scope="session")
def exchanges(capture: Path) -> list[Exchange]:
    return list(Exchanges(read(capture)))


def press(browser: Browser, *keys: str) -> None:
    ActionChains(browser.driver).send_keys(*keys).perform()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_drawn(
    browser: Browser, page: Path, dark: bool, request: pytest.FixtureRequest
) -> None:
    browser.open(page, dark)
    name = "dark" if dark else "light"
    browser.picture(ROOT / "output" / "browser" / f"report-{name}.png")
    assert "3,001 exchanges in 9,629 messages" in browser.text("#about")
    assert browser.run("document.querySelectorAll('#map .node').length") == 9
    background = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(background) == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")
    if request.config.getoption("--pictures"):
        browser.picture(ROOT / "docs" / "pictures" / f"report-{name}.png", height=1180)


@pytest.mark.parametrize("name", ["shop", "sample"])
def test_no_label_of_the_map_covers_another(
    browser: Browser, page: Path, tmp_path: Path, name: str
) -> None:
    if name == "sample":
        page = tmp_path / "sample.html"
        assert cli.main(["report", "--sample", "--output", str(page)]) == 0
    browser.open(page)
    covered = browser.run(
        "(labels => labels.flatMap((one, index) => labels.slice(index + 1)"
        ".filter(other => one.x < other.x + other.width && other.x < one.x + one.width"
        "  && one.y < other.y + other.height && other.y < one.y + one.height)"
        ".map(other => one.text + ' and ' + other.text)))"
        "([...document.querySelectorAll('#map .edge-text')].map(label => {"
        "  const {x, y, width, height} = label.getBBox();"
        # A letter is lower than the box of its font.
        "  return {x, y: y + 1, width, height: height - 2, text: label.textContent} }))"
    )
    assert covered == []


def test_figures_are_those_of_the_capture(
    browser: Browser, page: Path, exchanges: list[Exchange]
) -> None:
    latencies: dict[str, list[float]] = {}
    for exchange in exchanges:
        response = exchange.response or {}
        if "latency_ms" in response:
            latencies.setdefault(endpoint(exchange), []).append(response["latency_ms"])
    number = sum(map(failed, exchanges))
    browser.open(page)
    share = f"{100 * number / len(exchanges):.1f} %"
    assert f"Failed\n{share}\n{number}" in browser.text("#tiles")
    rows = browser.run(
        "[...document.querySelectorAll('#endpoints tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.innerText))"
    )
    assert len(rows) == min(15, len(latencies))
    for name, _count, _rate, _failed, p50, _p90, p95, *_ in rows:
        values = sorted(latencies[name])
        for shown, share in ((p50, 0.5), (p95, 0.95)):
            # Nearest rank: the smallest that this share of all does not exceed.
            rank = -(-len(values) * int(share * 100) // 100)
            assert milliseconds(shown) == pytest.approx(values[rank - 1], rel=0.06), name


def milliseconds(text: str) -> float:
    number, unit = text.split()
    return float(number.replace(",", "")) * {"µs": 0.001, "ms": 1, "s": 1000}[unit]


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("checkout", lambda row: "/checkout" in row["url"]),
        ("post 502", lambda row: row["method"] == "POST" and row["status"] == 502),
        ("5xx", lambda row: row["status"] >= 500),
        ("-get", lambda row: row["method"] != "GET"),
        ("shop.example/items/12", lambda row: row["full"].startswith("shop.example/items/12")),
        ("status>=500 and pid=1320", lambda row: row["status"] >= 500 and 1320 in row["pids"]),
        ("nothing has this", lambda row: False),
    ],
)
def test_search(
    browser: Browser,
    page: Path,
    exchanges: list[Exchange],
    text: str,
    test: Callable[[dict[str, Any]], bool],
) -> None:
    rows = [
        {
            "url": exchange.asked["url"],
            "method": exchange.asked["method"],
            "status": (exchange.response or {}).get("status_code", 0),
            "full": host(exchange) + exchange.asked["url"],
            "pids": [side.records[0]["pid"] for side in exchange.sides],
        }
        for exchange in exchanges
    ]
    browser.open(page)
    assert browser.search(text) == f"{sum(map(test, rows)):,} of {len(rows):,} exchanges"


def test_a_search_that_is_not_understood(browser: Browser, page: Path) -> None:
    browser.open(page)
    found = browser.search("status>=500")
    assert browser.search("status>=5oo") == found
    assert browser.text("#mistake") == (
        "Column 9: '5oo' is not a status, such as 404, 5xx or 400-499"
    )
    invalid = "document.getElementById('search').ariaInvalid"
    assert browser.run(invalid) == "true"
    browser.search("user=root")
    assert browser.text("#mistake") == ("Column 6: a report knows users only by number, not 'root'")
    assert browser.search("status>=500") == found
    assert (browser.text("#mistake"), browser.run(invalid)) == ("", "false")


def test_search_in_headers_and_bodies(
    browser: Browser, page: Path, exchanges: list[Exchange]
) -> None:
    teapots = sum("Teapot" in (one.response or {}).get("body", "") for one in exchanges)
    browser.open(page)
    browser.click("#deep")
    words = """'"name": "teapot"' status=200"""
    assert browser.search(words) == f"{teapots:,} of {len(exchanges):,} exchanges"


def test_a_failure_without_a_response_and_one_of_grpc(
    browser: Browser, report: Make, tmp_path: Path
) -> None:
    capture = tmp_path / "failures.jsonl"
    shutil.copy(ROOT / "tests" / "queries" / "capture.jsonl", capture)
    browser.open(report(capture))
    assert "Failed\n50 %\n5" in browser.text("#tiles")
    assert "No response\n1\n" in browser.text("#tiles")
    shown = []
    for query in ("incomplete=no_response", "header.grpc-status!=none"):
        assert browser.search(query) == "1 of 10 exchanges"
        browser.click(".grid-view .grid-row")
        browser.until("document.getElementById('detail').open")
        shown.append(browser.text("#detail"))
        browser.run("void document.getElementById('detail').close()")
    assert "The connection ended without a response response, missing, client" in shown[0]
    assert shown[0].count("No body.") == 1  # the request's
    assert "200 · gRPC status 4 ·" in shown[1]


def test_https_has_its_scheme(browser: Browser, report: Make, tmp_path: Path) -> None:
    capture = tmp_path / "tls.jsonl"
    shutil.copy(ROOT / "tests" / "queries" / "capture.jsonl", capture)
    browser.open(report(capture))
    urls = (
        "[...document.querySelectorAll('.grid-view .grid-row')].map(row => row.children[4].title)"
    )
    assert browser.search("tls") == "2 of 10 exchanges"
    assert browser.run(urls) == [
        "https://Shop.Example/search?q=a=b",
        "https://static.example/img/p356.jpg",
    ]
    browser.click(".grid-view .grid-row")
    browser.until("document.getElementById('detail').open")
    assert "GET https://Shop.Example/search?q=a=b" in browser.text("#detail")
    assert "TLS 1.3 \u00b7 openssl" in browser.text("#detail")
    browser.run("void document.getElementById('detail').close()")
    assert browser.search("not tls") == "8 of 10 exchanges"
    assert not any("https:" in url for url in browser.run(urls))


def test_filters_are_shown_and_taken_away(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#classes button:nth-child(4)")
    assert " of 3,001" in browser.text("#matching")
    browser.click("#classes button:nth-child(4)")
    browser.run(
        "void [...document.querySelectorAll('#map .node')]"
        ".find(node => node.textContent.startsWith('server.js'))"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert browser.text("#chips button").startswith("with server.js")
    assert browser.run("document.querySelectorAll('#map .edge').length") == 1
    browser.click("#chips button")
    assert browser.text("#matching") == "3,001 exchanges"
    # A stretch of time, by dragging.
    chart = browser.driver.find_element(By.CSS_SELECTOR, "#time svg")
    browser.run("void arguments[0].scrollIntoView({block: 'center'})", chart)
    drag = ActionChains(browser.driver).move_to_element_with_offset(chart, -200, 0)
    drag.click_and_hold().move_by_offset(150, 0).release().perform()
    assert re.fullmatch(r"09:30:\d\d\.\d+ to 09:30:\d\d\.\d+ ✕", browser.text("#chips button"))


def test_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    press(browser, "/")
    assert browser.run("document.activeElement.id") == "search"
    press(browser, "checkout")
    browser.until("/ of /.test(document.getElementById('matching').textContent)")
    # A tab out of the grid's head comes to its active row.
    browser.run("void document.querySelector('.grid-head > :nth-child(8) button').focus()")
    press(browser, Keys.TAB)
    assert browser.run("document.activeElement.getAttribute('aria-rowindex')") == "2"
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert browser.run("document.activeElement.getAttribute('aria-rowindex')") == "4"
    press(browser, Keys.END)
    last = browser.run("document.querySelector('.grid').getAttribute('aria-rowcount')")
    assert browser.run("document.activeElement.getAttribute('aria-rowindex')") == last
    press(browser, Keys.HOME, Keys.ENTER)
    browser.until("document.getElementById('detail').open")
    first = browser.text("#detail-title")
    assert first.startswith("POST shop")
    assert browser.run("document.getElementById('detail').contains(document.activeElement)")
    press(browser, Keys.ARROW_RIGHT)
    browser.until(
        "document.querySelector('.detail-head p').innerText !== '' && "
        "document.querySelector('.grid-row[tabindex=\"0\"]').ariaRowIndex === '3'"
    )
    press(browser, Keys.ESCAPE)
    # The dialog tells that it was closed a moment after it is.
    browser.until("document.activeElement.getAttribute('aria-rowindex') === '3'")
    assert not browser.run("document.getElementById('detail').open")


def test_one_exchange(browser: Browser, page: Path, request: pytest.FixtureRequest) -> None:
    browser.open(page)
    browser.search("charges 503")
    browser.click(".grid-view .grid-row")
    browser.until("document.getElementById('detail').open")
    shown = browser.text("#detail")
    assert "POST pay.example/charges?api_key=redacted-" in shown
    assert "503 Service Unavailable" in shown
    assert "authorization\tBearer redacted-" in shown
    assert '"password": "redacted-' in shown
    # Equal values are equal still.
    assert len(set(re.findall(r"redacted-\w+", shown))) == 2  # the secret, and a theme
    assert sample_capture.SECRET not in shown
    browser.picture(ROOT / "output" / "browser" / "exchange.png", height=900)
    if request.config.getoption("--pictures"):
        browser.picture(ROOT / "docs" / "pictures" / "report-exchange.png", height=900)


def test_what_the_serving_thread_asked_is_told(browser: Browser, page: Path) -> None:
    browser.open(page)
    inner = browser.run(
        "[...document.querySelectorAll('.fall.inner-call')].map(one => one.innerText)"
    )
    assert inner and all("/charges" in one for one in inner)


def test_nothing_hostile_runs(browser: Browser, report: Make, tmp_path: Path) -> None:
    # Redaction would remove the body that is not text.
    page = report(sample_capture.hostile(tmp_path / "hostile.jsonl"), "--no-redact")
    browser.open(page)
    assert browser.driver.title == "hostile.jsonl · http-profiler"
    everything = ""
    for row in range(5):
        browser.click(f".grid-view .grid-row:nth-child({row + 1})")
        browser.until("document.getElementById('detail').open")
        browser.run("void document.querySelectorAll('details').forEach(one => one.open = true)")
        everything += browser.text("#detail")
        browser.run("void document.getElementById('detail').close()")
    everything += browser.text("main")
    assert sample_capture.HOSTILE in everything
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+001B⟩[31mred" in everything
    assert "000010  10 11 12" in everything
    assert not set(everything) & set("\u202e\u2066\u200b\x1b\x00\x85")
    assert browser.driver.title == "hostile.jsonl · http-profiler"
    assert (
        browser.run("document.querySelectorAll('img, iframe, main script, dialog script').length")
        == 0
    )
    source = page.read_text()
    assert "onerror" not in re.sub(r"<script>.*?</script>", "", source, flags=re.S)


def test_the_name_of_the_file_is_text(browser: Browser, report: Make, tmp_path: Path) -> None:
    capture = sample_capture.write(tmp_path / "<img src=x onerror=alert(1)>.jsonl", 5)
    browser.open(report(capture))
    assert browser.text("h1") == "<img src=x onerror=alert(1)>.jsonl"


def test_of_an_empty_capture(browser: Browser, report: Make, tmp_path: Path) -> None:
    capture = tmp_path / "empty.jsonl"
    capture.touch()
    browser.open(report(capture))
    assert browser.text("#about") == "No messages in this capture."
    assert browser.text("#matching") == "0 exchanges"


def test_of_a_damaged_capture(browser: Browser, report: Make, tmp_path: Path) -> None:
    capture = sample_capture.write(tmp_path / "damaged.jsonl", 50)
    whole = capture.read_bytes()
    capture.write_bytes(b"\xff\xfe\n" + whole + b'{"timestamp":"2026-11-')
    browser.open(report(capture, code=3))
    lines = whole.count(b"\n")
    assert browser.text("#notice") == (
        f"2 lines of {lines + 2} could not be read and are not shown: "
        f"line 1 is not a JSON object, line {lines + 2} is cut off."
    )
    assert "damaged lines\t2" in browser.text("#lost")


def test_what_the_kernel_could_not_hand_over(
    browser: Browser, report: Make, tmp_path: Path
) -> None:
    capture = sample_capture.write(tmp_path / "c.jsonl", 5)
    browser.open(report(capture))
    assert "--stats PATH" in browser.text("#lost")
    stats = sample_capture.write_stats(tmp_path / "c.stats", final=False)
    browser.open(report(capture, "--stats", str(stats)))
    text = browser.text("#lost")
    for words in (
        "Something was lost. The kernel skipped the probe for 2 calls. The capture had not ended.",
        "seen\t104\t104 kB\t100\t100 kB",
        "filtered: not_http\t1\t928 B\t0\t0 B",
        "lost: ring_full\t3\t3.1 kB\t0\t0 B",
    ):
        assert words in text
    assert "unreadable" not in text


def test_a_long_body_is_cut_and_says_so(browser: Browser, report: Make, tmp_path: Path) -> None:
    record = {**next(sample_capture.records(1)), "body": "x" * 20_000}
    capture = tmp_path / "long.jsonl"
    capture.write_text(json.dumps(record) + "\n")
    browser.open(report(capture))
    assert "shortened here\t1" in browser.text("#lost")
    browser.click(".grid-view .grid-row")
    browser.until("document.getElementById('detail').open")
    assert "Shortened in this report: the first 16,384 of 20,000 characters." in browser.text(
        "#detail"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("inside", [False, True], ids=["page", "exchange"])
def test_accessibility(browser: Browser, page: Path, dark: bool, inside: bool) -> None:
    """No rule of axe is broken: names, roles, contrast, order."""
    browser.open(page, dark)
    if inside:
        browser.click(".grid-view .grid-row")
        browser.until("document.getElementById('detail').open")
    browser.run("void document.querySelectorAll('details').forEach(one => one.open = true)")
    # Given to the page by the debugger, which its policy does not bind.
    axe = files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
    browser.driver.execute_script(axe)
    found = browser.driver.execute_async_script(
        "axe.run(document).then(arguments[0], error => arguments[0]({violations: [String(error)]}))"
    )
    told = [
        (one["id"], [node["html"][:200] for node in one["nodes"]][:3])
        for one in found["violations"]
    ]
    assert told == []
    assert len(found["passes"]) > 20


def test_a_hundred_thousand_exchanges(browser: Browser, report: Make, tmp_path: Path) -> None:
    page = report(sample_capture.write(tmp_path / "large.jsonl", 100_000))
    browser.open(page)
    assert browser.text("#matching") == "100,000 exchanges"
    assert re.fullmatch(r"[\d,]+ of 100,000 exchanges", browser.search("checkout"))
    browser.search("")
    browser.click(".grid-head > :nth-child(8) button")
    assert browser.run("document.querySelector('.grid').getAttribute('aria-rowcount')") == "100001"
    # Only what is in sight is there.
    assert browser.run("document.querySelectorAll('.grid-row').length") < 80
    assert browser.run("performance.memory.usedJSHeapSize") < 500e6
    browser.run("void document.querySelector('.grid-view .grid-row').focus()")
    press(browser, Keys.END, Keys.ENTER)
    browser.until("document.getElementById('detail').open")
