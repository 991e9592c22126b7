"""The argument parser: an error is one line."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any, NoReturn

from profiler.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, and keeps the lines of a text that has several."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        text = text if "\n" in text else textwrap.fill(text, width)
        return super()._fill_text(text, width, indent)
