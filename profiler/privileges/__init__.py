# SPDX-License-Identifier: Apache-2.0
"""Separates privileges: what parses captured bytes does not hold the rights that load programs.

A capture starts as one process with root's privileges. Once the probe is attached, it splits.
A *helper* (``helper.py``) keeps the privileges and serves the few functions that were offered
before the split. The process that reads the ring, parses and writes gives its privileges up
(``confinement.py``): it runs as an unprivileged user, without capabilities, and a system call
filter (``seccomp.py``) leaves it what reading and writing open files takes.
"""
