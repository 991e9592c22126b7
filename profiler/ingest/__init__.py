# SPDX-License-Identifier: Apache-2.0
"""From the kernel's bytes to records, one module or package per stage.

``probe``, ``wire``, ``stream``, ``http``, ``process``, ``record``, ``pipeline``, ``session``: data
flows in this order, and a stage may import an earlier one, never a later one. (Not called
``capture``: that is the public function :func:`profiler.capture`.)
"""
