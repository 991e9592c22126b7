# SPDX-License-Identifier: Apache-2.0
"""The guest of the end-to-end tests, without their reruns."""

from tests.e2e.conftest import guest, pytest_generate_tests, pytest_runtest_makereport, token

__all__ = ["guest", "pytest_generate_tests", "pytest_runtest_makereport", "token"]
