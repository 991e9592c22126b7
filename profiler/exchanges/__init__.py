# SPDX-License-Identifier: Apache-2.0
"""Everything that works on records alone, wherever they came from.

``model`` says what an exchange is and when it failed, ``pair`` puts records together, ``query``
is the one language of conditions, ``read`` opens capture files, ``redact`` hides secrets,
``summary`` describes an exchange in one line.
"""
