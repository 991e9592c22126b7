# SPDX-License-Identifier: Apache-2.0
"""Tests of the native fast path."""

import pytest

# Its failures show the lines that differ.
pytest.register_assert_rewrite("tests.fastpath.compare")
