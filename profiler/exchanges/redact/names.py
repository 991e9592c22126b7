# SPDX-License-Identifier: Apache-2.0
"""Which names denote a secret: of a header, a parameter, a JSON member, an XML element, an option.

A name is split into words: ``X-Vault-Token``, ``vault_token`` and ``vaultToken`` are the words
*vault token*. A name with a secret word denotes a secret, unless its last word shows that the
value only describes one (``token_type``). Words match as a whole, so ``monkey``, ``author`` and
``company`` stay. Names without borders between words match by known endings (``accesstoken``).
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from urllib.parse import unquote_plus


class Secrecy(enum.Enum):
    """Which values of a name are secrets."""

    NEVER = enum.auto()
    ALWAYS = enum.auto()
    NO_NUMBER = enum.auto()
    """Any but a number: ``tokens`` are counted as often as listed."""
    RANDOM = enum.auto()
    """One that looks random: ``key`` and ``code`` have many harmless values."""


_WORDS = frozenset(
    [
        "apikey",
        "assertion",
        "auth",
        "authentication",
        "authorization",
        "authtoken",
        "bearer",
        "cookie",
        "cookie2",
        "cred",
        "credential",
        "credentials",
        "creds",
        "csrf",
        "cvc",
        "cvv",
        "jwt",
        "key",
        "mfa",
        "otp",
        "pan",
        "pass",
        "passcode",
        "passin",
        "passout",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "phpsessid",
        "pin",
        "pw",
        "pwd",
        "samlresponse",
        "secret",
        "secrets",
        "session",
        "sessid",
        "sid",
        "sig",
        "signature",
        "ssn",
        "token",
        "totp",
        "xsrf",
    ]
)
# Names are also written without borders. No English word has one of these endings.
_ENDINGS = (
    "accesskey", "apikey", "authkey", "authorization", "cookie", "credential", "credentials",
    "passphrase", "passwd", "password", "privatekey", "pwd", "secret", "secretkey", "sessid",
    "sessionid", "signature", "token", "amzcredential", "awsaccesskeyid", "cardnumber",
)  # fmt: skip
_BEGINNINGS = ("password", "passwd")
# Words that are a secret only side by side.
_PAIRS = frozenset([("card", "number"), ("cc", "number"), ("credit", "card")])
# The last word of a name that describes a secret and does not contain one.
_DESCRIPTIONS = frozenset(
    [
        "alg",
        "algorithm",
        "allowed",
        "count",
        "enabled",
        "endpoint",
        "expires",
        "expiration",
        "expired",
        "expiry",
        "in",
        "kind",
        "length",
        "limit",
        "max",
        "method",
        "methods",
        "min",
        "mode",
        "name",
        "policy",
        "required",
        "scheme",
        "size",
        "status",
        "supported",
        "time",
        "timeout",
        "ttl",
        "type",
        "types",
        "uri",
        "url",
        "version",
    ]
)
# `sort_key` and `Idempotency-Key` are no keys to anything.
_HARMLESS_KEYS = frozenset(
    [
        "cache",
        "foreign",
        "idempotency",
        "partition",
        "primary",
        "public",
        "range",
        "routing",
        "shard",
        "sort",
        "surrogate",
    ]
)
_HARMLESS = frozenset(["sec-websocket-key", "session-affinity"])
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")
_NUMBER = re.compile(r"\s*-?[0-9][0-9.eE+-]*\s*", re.ASCII)
_RANDOM = re.compile(
    r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])[A-Za-z0-9_+/=.~-]{24,4096}"
    r"|[0-9a-fA-F]{32,4096}",
    re.ASCII,
)
_SEGMENT = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9_-]{16,4096}", re.ASCII)
_FILE = re.compile(r"[^/]*/.*\.[A-Za-z]{2,5}", re.ASCII)
_NAME_MAX = 256


def hides(secrecy: Secrecy, value: str) -> bool:
    """Whether ``value`` is a secret under a name of that secrecy."""
    if secrecy is Secrecy.ALWAYS:
        return True
    if secrecy is Secrecy.NO_NUMBER:
        return _NUMBER.fullmatch(value[:_NAME_MAX]) is None
    return secrecy is Secrecy.RANDOM and _looks_random(value)


def is_random_segment(segment: str) -> bool:
    """Whether a segment of a path is no word."""
    return _SEGMENT.fullmatch(segment) is not None


def _looks_random(value: str) -> bool:
    """Whether a value is neither a word, nor the path of a file, nor a UUID."""
    return _RANDOM.fullmatch(value) is not None and _FILE.fullmatch(value) is None


def secrecy(name: str) -> Secrecy:
    """Return which values of ``name`` are secrets; it may be percent-encoded."""
    # A name this long is none: not worth the memory of a cache.
    return _secrecy(name) if len(name) <= _NAME_MAX else _decide(name[-_NAME_MAX:])


@lru_cache(maxsize=4096)
def _secrecy(name: str) -> Secrecy:
    return _decide(name)


def _decide(name: str) -> Secrecy:
    if "%" in name or "+" in name:
        name = unquote_plus(unquote_plus(name))
    lower = name.lower()
    if lower.startswith("access-control-") or lower in _HARMLESS:
        return Secrecy.NEVER
    words = [word.lower() for word in _WORD.findall(name)]
    # x2, oauth2: a number belongs to no word.
    words = [word for word in words if not word.isdigit()]
    if not words or (len(words) > 1 and words[-1] in _DESCRIPTIONS):
        return Secrecy.NEVER
    if words in (["key"], ["keys"], ["code"]):
        return Secrecy.RANDOM
    if words[-1] in ("key", "keys") and words[-2] in _HARMLESS_KEYS:
        return Secrecy.NEVER
    # "PassWord" looks like camelCase, and "PGPASSWORD" like one word: try both readings.
    joined = "".join(words[-2:])
    if any(map(_is_secret, words)) or _is_secret(joined):
        return Secrecy.ALWAYS
    if not _PAIRS.isdisjoint(zip(words, words[1:])):
        return Secrecy.ALWAYS
    return (
        Secrecy.NO_NUMBER
        if any(word in ("tokens", "keys", "cookies", "sessions") for word in words)
        or words[-1].endswith("tokens")
        else Secrecy.NEVER
    )


def _is_secret(word: str) -> bool:
    return word in _WORDS or word.endswith(_ENDINGS) or word.startswith(_BEGINNINGS)
