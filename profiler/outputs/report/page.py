# SPDX-License-Identifier: Apache-2.0
"""Puts style, scripts and data into one page that loads nothing from the network.

Captured data is compressed and in base64, so none of it can be markup; the scripts only set text.
The page's Content-Security-Policy allows its one script and one style, by their hashes, and nothing
else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from profiler import __version__
from profiler.accounting import Account
from profiler.exchanges.model import Exchange
from profiler.exchanges.read import Capture
from profiler.outputs.report.data import Data

_FILES = Path(__file__).parent / "page"
# In the order in which they run: a script that others use at the top level comes first.
_SCRIPTS = [
    "elements.js",
    "data.js",
    "values.js",
    "fields.js",
    "query.js",
    "figures.js",
    "charts.js",
    "map.js",
    "table.js",
    "detail.js",
    "main.js",
]
_MARK = "@data@"


def page(
    exchanges: Iterable[Exchange],
    capture: Capture,
    max_body: int,
    redacted: bool,
    account: Account,
) -> Iterator[bytes]:
    """Yield the page in pieces; ``account`` covers the whole capture."""
    style = (_FILES / "style.css").read_text("utf-8")
    script = "".join((_FILES / name).read_text("utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    environment = Environment(
        loader=FileSystemLoader(_FILES), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("page.html").render(
        name=capture.name,
        version=__version__,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        mark=_MARK,
    )
    head, tail = text.split(_MARK)
    yield head.encode("utf-8", "replace")
    data = Data(max_body)
    for block in data.blocks(exchanges):
        yield _element("block", block)
    about = {
        "name": capture.name,
        "version": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "lines": capture.lines,
        "damaged": capture.damage.lines,
        "damage": capture.damage.examples,
        "redacted": redacted,
        "maxBody": max_body,
        "counts": account.to_report(),
    }
    yield _element("summary", data.summary(about))
    yield tail.encode("utf-8", "replace")


def _element(kind: str, data: bytes) -> bytes:
    # A type that browsers do not run.
    start = f'<script type="application/octet-stream" class="{kind}">'.encode()
    return start + b64encode(data) + b"</script>\n"


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
