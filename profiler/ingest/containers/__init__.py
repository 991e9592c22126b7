# SPDX-License-Identifier: Apache-2.0
"""Finds out what runs in a control group: a container, a pod, a service.

``paths`` parses the path of the control group. ``files`` opens what the container's manager wrote
about it, in the privileged helper. ``metadata`` parses that, without privileges.
"""

from profiler.ingest.containers.files import Files
from profiler.ingest.containers.workload import Workload, Workloads

__all__ = ["Files", "Workload", "Workloads"]
