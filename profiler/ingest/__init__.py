# SPDX-License-Identifier: Apache-2.0
"""Turns the kernel's bytes into records, with one module or package per stage.

Data flows through ``probe``, ``wire``, ``stream``, ``http``, ``process``, ``record``,
``pipeline`` and ``session``. A stage imports only earlier stages. (The package is not named
``capture`` because :func:`profiler.capture` is the public function.)
"""
