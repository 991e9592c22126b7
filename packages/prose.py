# SPDX-License-Identifier: Apache-2.0
"""Checks the English of documents, docstrings and comments: ``python -m packages.prose [PATH...]``.

``prose.toml`` has the rules. Phrases are checked everywhere, the length of sentences in Markdown
only. Code blocks, inline code, tables and HTML are skipped. Exit code 1 if a rule is violated.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RULES = Path(__file__).with_name("prose.toml")

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
_SKIPPED = re.compile(r"^---\n.*?^---\n|<!--.*?-->|<[^>\n]+>|^ *\|.*?$|^ {4,}\S.*?$", re.M | re.S)
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_CODE = re.compile(r"`+[^`]*`+")
# Where one block of text ends: an empty line, a heading, an item of a list.
_BLOCK = re.compile(r"\n\s*\n|\n(?= *(?:[-*+]|\d+\.) )|\n(?=#)|(?<=\n)#[^\n]*\n|\n(?=!!! |\?\?\? )")
_END = re.compile(r"(?<=[.!?:;])[\"')*]*\s+(?=[\"'(*]*[A-Z0-9`x])")


class Finding(NamedTuple):
    """One violation: the line it is on, counted from 1, and what is wrong."""

    line: int
    problem: str


def check(path: Path, text: str, rules: dict[str, Any]) -> list[Finding]:
    """Return what is wrong with the text of a Markdown or Python file."""
    if path.suffix == ".md":
        plain = _plain(text)
        return [*_phrases(plain, 1, rules), *_sentences(plain, rules)]
    return [
        finding for line, part in _python(text) for finding in _phrases(_code(part), line, rules)
    ]


def _plain(markdown: str) -> str:
    """The text without what is not prose; the numbers of lines stay."""
    for pattern in (_FENCE, _SKIPPED):
        markdown = pattern.sub(lambda found: "\n" * found[0].count("\n"), markdown)
    return _code(_LINK.sub(lambda found: found[1], markdown))


def _code(text: str) -> str:
    return _CODE.sub(lambda found: "x" + "\n" * found[0].count("\n"), text)


def _phrases(text: str, first: int, rules: dict[str, Any]) -> Iterator[Finding]:
    for rule in rules["rules"]:
        for found in re.finditer(rule["pattern"].replace(" ", r"[\s#]+"), text, re.IGNORECASE):
            line = first + text.count("\n", 0, found.start())
            phrase = " ".join(found[0].replace("#", " ").split())
            yield Finding(line, f"{phrase!r}: {rule['instead']}")


def _sentences(text: str, rules: dict[str, Any]) -> Iterator[Finding]:
    lengths = []
    position = 0
    for block in _BLOCK.split(text):
        start = text.find(block, position)
        position = start + len(block)
        for sentence in _END.split(block):
            words = len(re.findall(r"\w[\w'./-]*", sentence))
            # Labels, headings and lone words are no sentences.
            if words < 3:
                continue
            lengths.append(words)
            if words > rules["longest_sentence"]:
                line = 1 + text.count("\n", 0, text.find(sentence.strip(), start))
                beginning = " ".join(sentence.split()[:6])
                yield Finding(line, f"a sentence of {words} words: {beginning!r} ...")
    if lengths and sum(lengths) / len(lengths) > rules["average_sentence"]:
        yield Finding(1, f"{sum(lengths) / len(lengths):.1f} words in an average sentence")


def _python(text: str) -> Iterator[tuple[int, str]]:
    """The docstrings and comments, each with its first line."""
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.value
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if comments and comments[-1][0] + comments[-1][1].count("\n") + 1 == line:
                comments[-1] = (comments[-1][0], f"{comments[-1][1]}\n{token.string}")
            else:
                comments.append((line, token.string))
    yield from comments


def main(arguments: list[str] | None = None) -> int:
    """Check the named files, by default those of the repository; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m packages.prose", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="files (default: all of git)")
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.py"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.split()
    paths = parser.parse_args(arguments).paths or [Path(name) for name in listed]
    for path in paths:
        if path.suffix not in (".md", ".py"):
            parser.error(f"{path} is neither Markdown nor Python")
    rules = tomllib.loads(RULES.read_text("utf-8"))
    found = [(path, one) for path in paths for one in check(path, path.read_text("utf-8"), rules)]
    for path, finding in found:
        print(f"{path}:{finding.line}: {finding.problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
