# SPDX-License-Identifier: Apache-2.0
"""The part that runs in the guest, as root: starts servers, captures and clients, and measures.

It is pushed there as it stands, so it uses the standard library only.
"""
