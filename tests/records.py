# SPDX-License-Identifier: Apache-2.0
"""Validates lines against the JSON Schema that the profiler publishes."""

from __future__ import annotations

import json

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from profiler.schema import Record, json_schema

# Readers must accept fields of a later version. The schema lists all that this version writes.
_VALIDATOR = Draft202012Validator({**json_schema(), "additionalProperties": False})


def read_record(line: str) -> Record:
    """Parse a line of output. AssertionError, with line and reason, if it breaks the schema."""
    record: Record = json.loads(line)
    error = best_match(_VALIDATOR.iter_errors(record))
    assert error is None, f"{error.json_path}: {error.message}, in the line {line}"
    return record


def read_records(text: str) -> list[Record]:
    """Parse every line of a text."""
    return [read_record(line) for line in text.splitlines()]
