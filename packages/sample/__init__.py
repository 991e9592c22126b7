# SPDX-License-Identifier: Apache-2.0
"""The capture file that ``--sample`` reads: a small shop, recorded in a guest."""
