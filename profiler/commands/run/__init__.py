# SPDX-License-Identifier: Apache-2.0
"""``http-profiler run -- CMD``: a command and its children are traced, and nothing else.

``cgroup`` makes the cgroup that they are known by; ``command`` starts the command in it once
the probe is attached, and passes signals on; ``options`` is what a user types, and the exit
code.
"""
