# SPDX-License-Identifier: Apache-2.0
"""An exported HAR file in the developer tools of a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profiler import cli
from tests import sample_capture
from tests.browser.conftest import Browser

# The panel Network, which is given the file as if it had been dropped there. These are names
# of Chromium's own: a new version may have others.
IMPORT = """
const [har, done] = arguments;
(async () => {
  const [panels, ui, logs] = await Promise.all(
    ['./panels/network/network.js', './ui/legacy/legacy.js', './models/logs/logs.js']
      .map(module => import(module)));
  await ui.ViewManager.ViewManager.instance().showView('network');
  const panel = panels.NetworkPanel.NetworkPanel.instance();
  await panel.networkLogView.onLoadFromFile(new File([har], 'capture.har'));
  return Promise.all(logs.NetworkLog.NetworkLog.instance().requests().map(async request => {
    const content = await request.requestContentData();
    return {
      method: request.requestMethod, url: request.url(), status: request.statusCode,
      milliseconds: request.duration * 1000,
      asked: request.requestHeaders(), answered: request.responseHeaders,
      sent: await request.requestFormData(), text: content.isTextContent ? content.text : null,
    };
  }));
})().then(done, error => done(String(error.stack)));
"""


def shown(browser: Browser, har: str) -> list[dict[str, Any]]:
    """What the developer tools make of the file, by exchange."""
    driver = browser.driver
    driver.get("devtools://devtools/bundled/devtools_app.html")
    # The page has loaded before its own programs have: they draw this when they are ready.
    browser.until("document.querySelector('.root-view')")
    answer = driver.execute_async_script(IMPORT, har)
    assert isinstance(answer, list), answer
    return answer


def fields(headers: list[dict[str, str]]) -> list[tuple[str, str]]:
    return sorted((header["name"], header["value"]) for header in headers)


@pytest.mark.parametrize("kind", ["shop", "hostile"])
def test_developer_tools_show_the_exchanges(chromium: Browser, tmp_path: Path, kind: str) -> None:
    capture, har = tmp_path / "capture.jsonl", tmp_path / "capture.har"
    if kind == "shop":
        sample_capture.write(capture, 30)
    else:
        sample_capture.hostile(capture)
    assert cli.main(["export", "--har", str(capture), "-o", str(har)]) == 0
    entries = json.loads(har.read_text())["log"]["entries"]
    requests = shown(chromium, har.read_text())
    assert len(requests) == len(entries) > 4
    for request, entry in zip(requests, entries):
        asked, answered = entry["request"], entry["response"]
        assert (request["method"], request["url"]) == (asked["method"], asked["url"])
        assert request["status"] == answered["status"]
        assert request["milliseconds"] == pytest.approx(entry["time"], abs=0.01)
        assert fields(request["asked"]) == fields(asked["headers"])
        assert fields(request["answered"]) == fields(answered["headers"])
        assert (request["sent"] or "") == asked.get("postData", {}).get("text", "")
        if request["text"] is not None:
            assert request["text"] == answered["content"].get("text", "")
    assert any(request["sent"] for request in requests)
    assert any(request["text"] for request in requests)
    # What the file names is not asked for.
    assert not [url for url in chromium.requests() if not url.startswith("devtools://")]
