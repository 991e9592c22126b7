# SPDX-License-Identifier: Apache-2.0
"""Finds out what runs in a control group: a container, a pod, a service."""
