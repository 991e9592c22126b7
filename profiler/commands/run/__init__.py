# SPDX-License-Identifier: Apache-2.0
"""``http-profiler run -- CMD``: traces only a command and its children.

``cgroup`` creates the cgroup that identifies them; ``command`` starts the command in it once the
probe is attached, and forwards signals; ``options`` has the arguments, and ``trace`` runs it all
and chooses the exit code.
"""
