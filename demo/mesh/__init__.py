# SPDX-License-Identifier: Apache-2.0
"""A mesh of services in containers, made like Istio's Bookinfo: see ``compose.yaml``."""
