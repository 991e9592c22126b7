# SPDX-License-Identifier: Apache-2.0
"""The part that runs in the guest, as root: starts servers, captures and clients, and measures.

The host copies only this package into the guest, so it uses the standard library only.
"""
