# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, started manually; each prints a table of costs."""
