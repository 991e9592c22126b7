# SPDX-License-Identifier: Apache-2.0
"""What the documents have of the schema; ``python -m packages.documents`` renews it.

These are ``docs/reference/record.schema.json`` and, in Markdown, each table of fields between its
two comments.
"""

from __future__ import annotations

from pathlib import Path

from profiler.commands.schema import document
from profiler.schema import Record, Row, markdown

DOCS = Path(__file__).parents[1] / "docs"
SCHEMA = DOCS / "reference" / "record.schema.json"
TABLES = {DOCS / "reference" / "record.md": Record, DOCS / "how-to" / "reports.md": Row}


def renewed() -> dict[Path, str]:
    """Return what the files must contain."""
    texts = {path: _with_table(path.read_text("utf-8"), of) for path, of in TABLES.items()}
    return {SCHEMA: document(), **texts}


def _with_table(text: str, of: type) -> str:
    begin = f"<!-- fields of {of.__name__}: made by `python -m packages.documents` -->\n"
    end = "<!-- end of the fields -->\n"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"there is no table between {begin}and {end}")
    table = "".join(f"{line}\n" for line in markdown(of))
    return f"{before}{begin}{table}{end}{after}"


if __name__ == "__main__":
    for path, text in renewed().items():
        path.write_text(text, "utf-8")
