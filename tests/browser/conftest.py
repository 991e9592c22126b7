# SPDX-License-Identifier: Apache-2.0
"""A real headless Chromium, which has no network, and pages that it opens from files.

``tox -e browser -- --pictures`` also writes the pictures of the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from profiler import cli

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --window-size=1360,1000 --lang=en"
)
SECONDS = 120


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="write the pictures of docs/")


class Browser:
    """Chromium with one page, and what it did: its console, and what it asked the network for."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in _OPTIONS.split():
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(SECONDS)

    def open(self, page: Path, dark: bool = False) -> None:
        """Open a report, and wait until all of it is drawn."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(page.as_uri())
        self.until("document.documentElement.dataset.ready === 'yes'")

    def run(self, script: str, *arguments: object) -> Any:
        """Return the value of an expression of JavaScript."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def until(self, script: str) -> None:
        """Wait until an expression of JavaScript is true."""
        WebDriverWait(self.driver, SECONDS, poll_frequency=0.02).until(lambda _: self.run(script))

    def text(self, selector: str) -> str:
        """Return the text of the first element, as it is shown."""
        return str(self.run("document.querySelector(arguments[0]).innerText", selector))

    def click(self, selector: str) -> None:
        """Click on the first element."""
        self.run(
            "void (element => { element.scrollIntoView({block: 'center'}); element.click() })"
            "(document.querySelector(arguments[0]))",
            selector,
        )

    def search(self, text: str) -> str:
        """Type into the search field; return how many exchanges match, in words."""
        self.run("void (document.getElementById('matching').textContent = '')")
        self.run(
            "void (field => {"
            "  field.value = arguments[0]; field.dispatchEvent(new Event('input')) })"
            "(document.getElementById('search'))",
            text,
        )
        self.until("/exchange/.test(document.getElementById('matching').textContent)")
        return self.text("#matching")

    def picture(self, path: Path, height: int | None = None, width: int = 1360) -> None:
        """Write a picture of the whole page, or of its beginning."""
        height = height or self.run("document.documentElement.scrollHeight")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def complaints(self) -> list[str]:
        """Messages on the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were requested since the last call."""
        events = (json.loads(entry["message"]) for entry in self.driver.get_log("performance"))
        return [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser; after each test: no messages on its console, and no request but for the file."""
    chromium.complaints()
    chromium.requests()
    yield chromium
    assert chromium.complaints() == []
    assert [url for url in chromium.requests() if not url.startswith("file://")] == []


@pytest.fixture(scope="session")
def report() -> Callable[..., Path]:
    """Make the report of a capture beside it."""

    def make(capture: Path, *options: str, code: int = 0) -> Path:
        page = capture.with_suffix(".html")
        assert cli.main(["report", str(capture), "--output", str(page), *options]) == code
        return page

    return make
