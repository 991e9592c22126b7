# SPDX-License-Identifier: Apache-2.0
"""What things cost, and where: run by hand, each with a table as its answer."""
