# SPDX-License-Identifier: Apache-2.0
"""The built site in Chromium: it loads nothing from other hosts, fits a phone, and finds words."""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser.conftest import Browser
from tests.terminal import ROOT

PHONE, DESKTOP = 400, 1280
# Elements that load what their attribute names. Of `link` only some do: see loads().
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Loads(HTMLParser):
    """Collects the addresses that a page loads, also those that a browser may load later."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        if tag == "link" and LOADING_LINKS & set(of.get("rel", "").split()):
            self.addresses.append(of.get("href", ""))
        elif of.get(LOADING.get(tag, "")):
            self.addresses.append(of[LOADING[tag]])


def loads(html: str) -> list[str]:
    parser = Loads()
    parser.feed(html)
    return parser.addresses


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True)
    return directory


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def visitor(chromium: Browser, address: str) -> Iterator[Browser]:
    """The browser; after each test it has complained of nothing and loaded from the site alone."""
    chromium.complaints()
    chromium.requests()
    yield chromium
    chromium.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert chromium.complaints() == []
    foreign = [url for url in chromium.requests() if not url.startswith((address, "data:"))]
    assert foreign == []


def pages(site: Path) -> list[str]:
    found = [path.relative_to(site).as_posix() for path in site.rglob("index.html")]
    assert len(found) > 20
    return sorted(path.removesuffix("index.html") for path in found)


def resize(driver: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def test_no_page_names_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        found = loads(page.read_text("utf-8"))
        assert any(address.endswith(".css") for address in found)
        assert [one for one in found if "//" in one and not one.startswith("data:")] == [], page
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8")
        assert "url(http" not in text and "url(//" not in text and "@import" not in text, style


def test_no_markdown_is_left(site: Path) -> None:
    """GitHub shows a list or a table right after a paragraph; here it needs an empty line."""
    for page in site.rglob("index.html"):
        for text in re.findall(r"<p>(.*?)</p>", page.read_text("utf-8"), re.DOTALL):
            assert not re.search(r"^\s*([-*] |\||```)", text, re.MULTILINE), (page, text)


def test_each_page_fits_a_phone(visitor: Browser, site: Path, address: str) -> None:
    resize(visitor.driver, PHONE)
    for page in pages(site):
        visitor.driver.get(address + page)
        assert visitor.run("document.documentElement.scrollWidth") <= PHONE, page
        broken = "[...document.images].filter(image => !image.naturalWidth).map(one => one.src)"
        assert visitor.run(broken) == [], page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_palette_is_the_one_of_the_system(visitor: Browser, address: str, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    visitor.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    visitor.driver.get(address)
    background = visitor.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
    assert (sum(map(int, background)) > 3 * 128) == (scheme == "light")


def test_search_finds_a_page(visitor: Browser, address: str) -> None:
    resize(visitor.driver, DESKTOP)
    visitor.driver.get(address)
    field = visitor.driver.find_element("css selector", ".md-search__input")
    field.click()
    field.send_keys("verifier")
    visitor.until("document.querySelector('.md-search-result__item a') !== null")
    assert "notes/probe/" in visitor.run("document.querySelector('.md-search-result__item a').href")


def test_a_foreign_address_is_found() -> None:
    html = '<link rel="canonical" href="https://a/"><link rel="icon" href="//b/i.png"><img src=c>'
    assert loads(html) == ["//b/i.png", "c"]
