# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import codecs

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.http.charset import CHARSETS, text_of

HTML = "text/html; charset="
# Text that each charset can encode.
SAMPLES = {
    "cp949": "한국어 텍스트",
    "cp932": "日本語のテキスト ①",
    "euc-jp": "日本語のテキスト",
    "iso-2022-jp": "日本語のテキスト",
    "gb18030": "中文文本 €",
    "big5": "中文文本",
    "big5-hkscs": "中文文本",
    "koi8-r": "Русский текст",
    "koi8-u": "Український текст",
    "ibm866": "Русский текст",
    "utf-16le": "tout à fait 日本語 😀",
    "utf-16be": "tout à fait 日本語 😀",
}


@pytest.mark.parametrize("charset", sorted(set(CHARSETS.values())))
def test_a_charset_is_applied_and_named(charset: str) -> None:
    text = SAMPLES.get(charset)
    if text is None:  # an 8-bit charset: everything above ASCII
        text = bytes(range(0xC0, 0x100)).decode(charset, "ignore")
    data = text.encode(charset)
    assert text_of(data, HTML + charset) == (text, charset)


@pytest.mark.parametrize("codec", CHARSETS)
def test_every_charset_is_one_that_python_has(codec: str) -> None:
    assert codecs.lookup(CHARSETS[codec])
    assert codec == "windows_874" or codecs.lookup(codec)


@pytest.mark.parametrize(
    ("label", "charset"),
    [
        ("ISO-8859-1", "iso-8859-1"),
        ("latin1", "iso-8859-1"),
        ('"Windows-1252"', "windows-1252"),
        ("cp1252; boundary=x", "windows-1252"),
        ("ISO_8859-15", "iso-8859-15"),
        ("windows-874", "cp874"),
    ],
)
def test_labels(label: str, charset: str) -> None:
    assert text_of(b"caf\xe9", HTML + label) == (b"caf\xe9".decode(charset), charset)
    assert text_of(b"caf\xe9", f"application/x; a=b;CharSet = {label}") is not None


def test_a_superset_is_decoded_where_senders_confuse_charsets() -> None:
    assert text_of("①".encode("cp932"), HTML + "Shift_JIS") == ("①", "cp932")
    assert text_of("€".encode("gb18030"), HTML + "gb2312") == ("€", "gb18030")


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/json", "image/png"])
def test_utf8_is_the_default(content_type: str | None) -> None:
    assert text_of("é".encode(), content_type) == ("é", None)
    assert text_of(b"\xe9", content_type) is None


@pytest.mark.parametrize("label", ["utf-8", "UTF8", '"utf-8"', "us-ascii"])
def test_utf8_is_not_named(label: str) -> None:
    assert text_of("é".encode(), HTML + label) == ("é", None)
    assert text_of(b"\xe9", HTML + label) is None


@pytest.mark.parametrize(
    "label",
    [
        *("base64", "rot13", "hex", "idna", "punycode", "unicode_escape", "raw_unicode_escape"),
        *("utf-7", "undefined", "mbcs", "uu", "zlib", "os", "..", "nobody-knows", ";", "é" * 99),
    ],
)
def test_an_unknown_charset_is_ignored(label: str) -> None:
    for data, expected in ((b"aGk=", ("aGk=", None)), ("+é\\x41".encode(), ("+é\\x41", None))):
        assert text_of(data, HTML + label) == expected
    assert text_of(b"\xff+", HTML + label) is None


def test_labels_do_not_reach_python() -> None:
    """It would cache every name forever."""
    asked: list[str] = []
    codecs.register(asked.append)
    with pytest.raises(LookupError):
        codecs.lookup("what nobody knows")
    assert len(asked) == 1
    text_of(b"x", f"{HTML}nobody-knows-this-either")
    assert len(asked) == 1


def test_bytes_that_are_not_of_the_charset() -> None:
    assert text_of("é!".encode(), HTML + "utf-16") == ("é!", None)
    assert text_of("日本".encode(), HTML + "cp1255") == ("日本", None)
    assert text_of(b"\x81\xff\xff", HTML + "windows-1252") is None
    assert text_of(b"odd", HTML + "utf-16") == ("odd", None)


def test_bytes_that_are_not_text() -> None:
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    assert text_of(png, "image/png; charset=iso-8859-1") is None
    assert text_of(b"\xff\xfe\0\0a\0\0\0", "text/plain") is None
    assert text_of(b"a\tb\x0c\r\n\x1b[0m\xe9", HTML + "latin1") is not None


def test_a_byte_order_mark() -> None:
    for charset, mark in (("utf-16le", b"\xff\xfe"), ("utf-16be", b"\xfe\xff")):
        data = mark + "né".encode(charset)
        for content_type in (
            "text/csv",
            "application/json",
            "application/a+json ; v=1",
            HTML + "utf-16",
            HTML + "utf-8",
        ):
            assert text_of(data, content_type) == ("né", charset)
        for content_type in (None, "image/jpeg", "application/jsonx", "application/octet-stream"):
            assert text_of(data, content_type) is None
    assert text_of("né".encode("utf-16le"), HTML + "utf-16") == ("né", "utf-16le")
    assert text_of(b"\xef\xbb\xbfx", "text/plain") == ("\ufeffx", None)


@pytest.mark.parametrize(
    ("charset", "text"), [("utf-8", "ab\u20ac"), *SAMPLES.items(), ("utf-16le", "a😀")]
)
def test_text_cut_off_inside_a_character(charset: str, text: str) -> None:
    data = text.encode(charset)
    for size in range(1, len(data)):
        found = text_of(data[:size], HTML + charset, cut=True)
        assert found is not None
        assert text.startswith(found[0])
    if charset in ("utf-8", "utf-16le"):
        assert text_of(data[:-1], HTML + charset) is None


LABELS = st.one_of(
    st.sampled_from([*CHARSETS, *CHARSETS.values(), "base64", "utf-8"]), st.text(max_size=20)
)


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=30), LABELS.map(HTML.__add__)))
def test_nothing_raises_and_the_text_can_be_written(data: bytes, content_type: str | None) -> None:
    for cut in (True, False):
        found = text_of(data, content_type, cut)
        if found is None:
            continue
        text, charset = found
        assert orjson.loads(orjson.dumps(text)) == text
        assert charset is None or charset in CHARSETS.values()
        if charset is None and not cut:
            assert text.encode() == data
