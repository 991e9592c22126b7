# SPDX-License-Identifier: Apache-2.0
"""Everything that works on records alone, from any source.

``model`` defines an exchange and when it failed, ``pair`` pairs records, ``query`` is the language
of conditions, ``read`` opens capture files, ``redact`` hides secrets, ``summary`` describes an
exchange in one line.
"""
