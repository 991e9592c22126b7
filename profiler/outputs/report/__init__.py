# SPDX-License-Identifier: Apache-2.0
"""One HTML page of a capture, for a browser and no network.

``data`` makes columns of what a page computes with, and compressed blocks of what it shows
of one exchange; ``page`` puts them into ``page/page.html``, with ``page/style.css`` and the
scripts beside it. All figures are computed in the browser, for what is filtered there.
"""
