# SPDX-License-Identifier: Apache-2.0
"""Finds TLS libraries in the files of processes, and where in them to place probes.

These modules need the extra ``tls``. They only read files: nothing here uses the kernel's BPF.
"""
