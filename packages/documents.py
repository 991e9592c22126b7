# SPDX-License-Identifier: Apache-2.0
"""Generates parts of the documents: ``python -m packages.documents`` writes them anew.

The JSON Schema is a file of its own. In a page, a generated part stands between a comment that
names it and ``<!-- end -->``. A test fails if a part differs from what it is generated from: the
record's fields, the argument parser, and ``packages/command_line.py``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from packages.command_line import (
    ENVIRONMENT,
    FILES,
    SIGNALS,
    Group,
    Option,
    exit_codes,
    groups_of,
)
from profiler import cli
from profiler.commands.parser import commands_of
from profiler.commands.schema import document
from profiler.schema import Record, Row, markdown

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
SCHEMA = DOCS / "reference" / "record.schema.json"
OPTIONS = DOCS / "reference" / "options.md"
PAGES = (DOCS / "reference" / "record.md", DOCS / "how-to" / "reports.md", OPTIONS)

# The lines of a recorded capture, which a test compares with those of the pipeline.
_LINES = REPOSITORY / "tests" / "replay" / "cases" / "demo" / "expected.jsonl"

_PART = re.compile(
    r"(?P<begin><!-- (?P<name>[^\n]+?): made by `python -m packages\.documents` -->\n)"
    r".*?(?P<end><!-- end -->\n)",
    re.DOTALL,
)


def renewed() -> dict[Path, str]:
    """Return what the files must contain."""
    parts = {name: "".join(f"{line}\n" for line in lines) for name, lines in _parts()}
    return {
        SCHEMA: document(),
        **{
            path: _PART.sub(
                lambda found: f"{found['begin']}\n{parts[found['name']]}\n{found['end']}",
                path.read_text("utf-8"),
            )
            for path in PAGES
        },
    }


def _parts() -> Iterator[tuple[str, Iterator[str]]]:
    """The name and lines of each part that a page may contain."""
    for fields in (Record, Row):
        yield f"fields of {fields.__name__}", markdown(fields)
    yield "example", _example()
    parser = cli.build_parser()
    yield "commands", _commands(parser)
    yield f"options of {parser.prog}", _capture(parser)
    for name, command in commands_of(parser).items():
        yield f"options of {name}", _command(command, tuple(groups_of(parser)))
    yield "exit codes", _table("exit code", exit_codes())
    yield "environment", _table("variable", ENVIRONMENT)
    yield "files", _table("path", FILES)
    yield "signals", _table("signal", SIGNALS)


def _example() -> Iterator[str]:
    """A response as its server sent it."""
    records = map(json.loads, _LINES.read_text("utf-8").splitlines())
    record = next(one for one in records if (one["type"], one["role"]) == ("response", "server"))
    yield from ("```json", json.dumps(record, indent=2, ensure_ascii=False), "```")


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from ("| command | does |", "| --- | --- |")
    yield f"| [`{parser.prog}`](#{parser.prog}) | capture on this machine |"
    for command in cli.COMMANDS:
        if command.help:
            yield f"| [`{command.name}`](#{command.name}) | {command.help} |"


def _capture(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield parser.description or ""
    for group in groups_of(parser):
        yield from ("", f"### {_title(group)}", "")
        if group.description:
            yield from (_marked(group.description), "")
        yield from _options(group.options)


def _command(parser: argparse.ArgumentParser, general: tuple[Group, ...]) -> Iterator[str]:
    """Its own options in a table, and links to those that it shares with the capture."""
    yield _marked(" ".join((parser.description or "").split()))
    options = [option for group in groups_of(parser) for option in group.options]
    own = [one for one in options if not any(one in group.options for group in general)]
    if own:
        yield ""
        yield from _options(own)
    shared = [_link(group, options) for group in general if set(group.options) & set(options)]
    if shared:
        yield from ("", "Also takes:", "", *(f"- {one}" for one in shared))


def _link(group: Group, options: list[Option]) -> str:
    title = _title(group)
    link = f"[{title}](#{title.lower().replace(' ', '-')})"
    if set(group.options) <= set(options):
        return f"{link}: all"
    words = (f"`{option.words[-1]}`" for option in group.options if option in options)
    return f"{link}: {', '.join(words)}"


def _title(group: Group) -> str:
    return group.title.capitalize() or "General"


def _options(options: tuple[Option, ...] | list[Option]) -> Iterator[str]:
    rows = [("option", "meaning", "default"), ("---", "---", "---")]
    for words, value, help_ in options:
        meaning, _, default = help_.partition(" (default")
        name = ", ".join(f"{word} {value}".strip() for word in words) or value
        shown = default.lstrip(": ").removesuffix(")") or ("yes" if default else "")
        rows.append((f"`{name}`", _marked(meaning), _marked(shown)))
    has_defaults = any(default for _, _, default in rows[2:])
    for row in rows:
        yield f"| {' | '.join(row if has_defaults else row[:2])} |"


def _table(of: str, rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield from (f"| {of} | meaning |", "| --- | --- |")
    for name, meaning in rows:
        yield f"| `{name}` | {_marked(meaning)} |"


def _marked(text: str) -> str:
    """Mark options and quoted examples as code, and link what is named."""
    text = re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"`\g<0>`", text)
    text = re.sub(r"(?<!\w)'([^']+)'(?!\w)", r"`\1`", text)
    text = text.replace("see CONFIGURATION", "see [configuration](configuration.md)")
    return re.sub(r"docs/reference/(\w+)\.md", r"[\1](\1.md)", text)


if __name__ == "__main__":
    for path, text in renewed().items():
        path.write_text(text, "utf-8")
