# SPDX-License-Identifier: Apache-2.0
"""One HTML page of a capture, which needs no network.

``data`` makes columns for the page's computations, and compressed blocks with the details of
exchanges; ``page`` puts them into ``page/page.html``, with ``page/style.css`` and the scripts
beside it. The browser computes all figures, for the exchanges that pass its filter.
"""
