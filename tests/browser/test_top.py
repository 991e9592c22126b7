# SPDX-License-Identifier: Apache-2.0
"""The screen of `top`, as an emulator has it, photographed: it is looked at, and in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import sample_capture
from tests.browser.conftest import Browser
from tests.terminal import PROFILER, ROOT, Terminal


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_capture.write(tmp_path_factory.mktemp("shop") / "shop.jsonl", 3000)


def test_a_picture_of_each_level(
    browser: Browser, shop: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def photograph(name: str) -> None:
        terminal.still()
        page = tmp_path / f"{name}.html"
        page.write_text(terminal.page())
        browser.open(page)
        width, height = (
            int(browser.run(f"document.body.getBoundingClientRect().{side}"))
            for side in ("width", "height")
        )
        # The whole screen.
        assert width > terminal.screen.columns * 8 and height > terminal.screen.lines * 15
        directories = [ROOT / "output" / "browser"]
        if request.config.getoption("--pictures"):
            directories.append(ROOT / "docs" / "pictures")
        for directory in directories:
            browser.picture(directory / f"{name}.png", height, width)

    command = [*PROFILER, "top", "--from", str(shop)]
    with Terminal(command, lines=26, columns=110) as terminal:
        terminal.until("lines of shop.jsonl")
        terminal.press(*["down"] * 8)
        terminal.until("POST shop.example/checkout")
        photograph("top")
        terminal.press("/", *"shop.internal/checkout", "\r", "\r")
        terminal.until("time▼")
        terminal.press("/", *"502", "\r")
        terminal.until("filter: 502")
        terminal.resize(38, 110)
        terminal.press("\r")
        terminal.until("502 Bad Gateway")
        assert sample_capture.SECRET not in terminal.text
        photograph("top-exchange")
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0
