# SPDX-License-Identifier: Apache-2.0
"""Secrets that their form gives away, wherever they stand in a text.

Each pattern begins with fixed letters or at the border of a word, and each repetition has a
bound or ends where it succeeds: the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from typing import Callable

_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    # JSON Web Tokens: signed ones have three parts, encrypted ones five (RFC 7515, RFC 7516).
    r"eyJ[A-Za-z0-9_-]{10,8192}(?:\.[A-Za-z0-9_-]{0,8192}){2,4}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,255}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}"
    r"|whsec_[A-Za-z0-9+/=]{16,255}|sk-[A-Za-z0-9_-]{16,255}|hf_[A-Za-z0-9]{20,255}"
    r"|npm_[A-Za-z0-9]{36}|hvs\.[A-Za-z0-9_-]{20,255}|dop_v1_[0-9a-f]{64}"
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}|ya29\.[A-Za-z0-9_-]{20,2048}"
    r"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|A[KS]IA[0-9A-Z]{16}|AIza[A-Za-z0-9_-]{35}"
    r")(?![A-Za-z0-9_-])"
    r"|(?<=/bot)[0-9]{6,12}:[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"
    r"|(?<=/services/)T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}(?![A-Za-z0-9])",
    re.ASCII,
)
# A private key that was cut off goes to the end of the text.
_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)",
    re.DOTALL,
)
# RFC 9110, 11.4: what follows a scheme in a text. Prose has no digits or is short.
_CREDENTIALS = re.compile(
    r"(?<![\w-])((?:Basic|Bearer)[ +]{1,4})"
    r"(?=[A-Za-z0-9+/=._~-]{16}|[A-Za-z+/._~-]{0,16}[0-9=])"
    r"([A-Za-z0-9+/=._~-]{8,8192})(?![A-Za-z0-9+/=._~\"-])",
    re.IGNORECASE | re.ASCII,
)
_DIGITS = re.compile(r"[2-6](?<![\w.-][2-6])(?:[ -]?[0-9]){12,18}(?![\w-])", re.ASCII)
# Every token has a run as long as this. To look for one costs a fraction.
_RUN = re.compile(r"[A-Za-z0-9_-]{13}", re.ASCII)
_SEPARATORS = re.compile(r"[ -]")
# First digits and lengths of the card networks (ISO/IEC 7812).
_CARD = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|(?:5[1-5]|2[2-7]|6[045])[0-9]{14}|3[47][0-9]{13}"
    r"|35[0-9]{14}|3[068][0-9]{12}|62[0-9]{14,17}"
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def replaced(text: str, placeholder: Callable[[str], str]) -> str:
    """Return ``text`` with a placeholder for each secret that its form gives away."""
    if "-----BEGIN " in text:
        text = _PEM.sub(lambda found: placeholder(found[0]), text)
    if _RUN.search(text):
        text = _TOKEN.sub(lambda found: placeholder(found[0]), text)
    lower = text.lower()
    if "basic" in lower or "bearer" in lower:
        text = _CREDENTIALS.sub(lambda found: found[1] + placeholder(found[2]), text)
    return _DIGITS.sub(lambda found: placeholder(found[0]) if is_card(found[0]) else found[0], text)


def is_card(text: str) -> bool:
    """Whether a text is the number of a payment card, with a valid check digit (Luhn)."""
    digits = _SEPARATORS.sub("", text)
    if _CARD.fullmatch(digits) is None:
        return False
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])) % 10 == 0
