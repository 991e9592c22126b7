# SPDX-License-Identifier: Apache-2.0
"""Screenshots of `top` in a terminal emulator, for the documents: two pictures, and a film."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from tests import sample_capture
from tests.browser.conftest import Browser
from tests.terminal import PROFILER, ROOT, Terminal


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_capture.write(tmp_path_factory.mktemp("shop") / "shop.jsonl", 3000)


PALETTE_SIZE = 128
"""Colours of the film: the few of the screen, each with its shades at the edges of letters."""


class Camera:
    """Takes screenshots of a terminal; the documents get them with ``--pictures``."""

    def __init__(self, browser: Browser, scratch: Path, for_documents: bool) -> None:
        self._browser = browser
        self._scratch = scratch
        self.directories = [ROOT / "output" / "browser"]
        if for_documents:
            self.directories.append(ROOT / "docs" / "pictures")

    def frame(self, terminal: Terminal) -> Image.Image:
        """Return the screen as it is when nothing changes any more."""
        terminal.still()
        page, picture = self._scratch / "screen.html", self._scratch / "screen.png"
        page.write_text(terminal.page())
        self._browser.open(page)
        width, height = (
            int(self._browser.run(f"document.body.getBoundingClientRect().{side}"))
            for side in ("width", "height")
        )
        # The whole screen.
        assert width > terminal.screen.columns * 8 and height > terminal.screen.lines * 15
        self._browser.picture(picture, height, width)
        with Image.open(picture) as image:
            return image.convert("RGB")

    def still(self, name: str, terminal: Terminal) -> None:
        """Write a picture of the screen."""
        frame = self.frame(terminal)
        for directory in self.directories:
            directory.mkdir(parents=True, exist_ok=True)
            frame.save(directory / f"{name}.png", optimize=True)

    def film(self, name: str, frames: list[tuple[Image.Image, int]]) -> None:
        """Write a GIF that repeats: each frame with its milliseconds."""
        # One palette for all frames: with its own, a frame without much red shows it as grey.
        width, height = frames[0][0].size
        strip = Image.new("RGB", (width, height * len(frames)))
        for number, (frame, _) in enumerate(frames):
            strip.paste(frame, (0, height * number))
        palette = strip.quantize(PALETTE_SIZE)
        pictures = [
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in frames
        ]
        for directory in self.directories:
            directory.mkdir(parents=True, exist_ok=True)
            pictures[0].save(
                directory / f"{name}.gif",
                save_all=True,
                append_images=pictures[1:],
                duration=[milliseconds for _, milliseconds in frames],
                loop=0,
            )


@pytest.fixture
def camera(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Camera:
    return Camera(browser, tmp_path, request.config.getoption("--pictures"))


def test_a_film_of_finding_a_failure(camera: Camera) -> None:
    """What README begins with: from the endpoints of the sample to the body of a failed request."""
    frames: list[tuple[Image.Image, int]] = []
    with Terminal([*PROFILER, "top", "--sample"], lines=24, columns=110) as terminal:

        def shoot(milliseconds: int) -> None:
            frames.append((camera.frame(terminal), milliseconds))

        def select(row: str) -> None:
            """Press `down` until the cursor is on a row with this text."""
            for _ in range(terminal.screen.lines):
                if row in selected(terminal):
                    return
                terminal.press("down")
                shoot(250)
            raise AssertionError(f"no row with {row}\n{terminal.text}")

        terminal.until("lines of sample.jsonl.gz")
        shoot(2500)
        select("/checkout")
        shoot(1200)
        terminal.press("\r")
        terminal.until("time▼")
        shoot(1500)
        select("502")
        shoot(1000)
        terminal.press("\r")
        terminal.until("POST /checkout HTTP/1.1")
        shoot(2000)
        terminal.press("end")
        terminal.until("502 Bad Gateway")
        terminal.until("FAILED_PRECONDITION: the card was declined")
        shoot(5000)
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0
    assert {frame.size for frame, _ in frames} == {frames[0][0].size}
    camera.film("top", frames)
    film = camera.directories[0] / "top.gif"
    # Pages that show it are opened by telephone, too.
    assert film.stat().st_size < 1_000_000
    with Image.open(film) as picture:
        assert all(has_red(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture))


def has_red(frame: Image.Image) -> bool:
    """Whether the share that failed, on top of each screen, is red."""
    colours = frame.getcolors(frame.width * frame.height) or []
    return any(red > 240 and green < 140 for _, (red, green, _) in colours)


def selected(terminal: Terminal) -> str:
    """Return the row with the cursor, the only one in reverse video below the heading."""
    screen = terminal.screen
    rows = [
        screen.display[number]
        for number in range(1, screen.lines)
        if all(screen.buffer[number][column].reverse for column in range(2, 20))
    ]
    return rows[-1] if rows else ""


def test_a_picture_of_each_level(camera: Camera, shop: Path) -> None:
    command = [*PROFILER, "top", "--from", str(shop)]
    with Terminal(command, lines=20, columns=110) as terminal:
        terminal.until("lines of shop.jsonl")
        terminal.press(*["down"] * 10)
        terminal.until(lambda _: "POST shop.example/checkout" in selected(terminal))
        camera.still("top", terminal)
        terminal.press("/", *"shop.internal/checkout", "\r", "\r")
        terminal.until("time▼")
        terminal.press("/", *"502", "\r")
        terminal.until("filter: 502")
        terminal.resize(38, 110)
        terminal.press("\r")
        terminal.until("502 Bad Gateway")
        assert sample_capture.SECRET not in terminal.text
        camera.still("top-exchange", terminal)
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0
