# SPDX-License-Identifier: Apache-2.0
"""Packages of the profiler for distributions, and what belongs into one.

``python -m packages.deb`` makes a package for Debian and Ubuntu; ``packages.man`` prints
the manual page, and ``packages.completion`` what completes commands in a shell. Their
rule is that of ``profiler/configuration``: options are the argument parser's, and none
is named here. ``files/`` has what is installed as it is.
"""
