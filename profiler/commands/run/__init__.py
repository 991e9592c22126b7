# SPDX-License-Identifier: Apache-2.0
"""``http-profiler run -- CMD``: traces only a command and its children.

``cgroup`` creates the cgroup that identifies them; ``child`` starts the command in it, and needs
privileges; ``command`` has it started once the probe is attached, waits and forwards signals;
``options`` has the arguments, and ``trace`` runs it all and chooses the exit code.
"""
