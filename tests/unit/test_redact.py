# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from typing import Any

import pytest

from profiler.exchanges.redact import Redactor

KEY = b"k" * 32
R = Redactor(KEY)


def t(value: str) -> str:
    return R.placeholder(value)


def test_placeholders_are_equal_for_equal_values_of_one_run_only() -> None:
    assert t("a") == t("a") != t("b")
    assert Redactor().placeholder("a") != Redactor().placeholder("a")
    assert t("") == ""
    assert t(t("a")) == t("a")  # a redacted value stays unchanged


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Authorization", "Bearer abc", f"Bearer {t('abc')}"),
        ("authorization", "abc", t("abc")),
        ("Proxy-Authorization", "Basic eA==", f"Basic {t('eA==')}"),
        ("Cookie", "a=1; b=2; c", f"a={t('1')}; b={t('2')}; {t('c')}"),
        (
            "Set-Cookie",
            "sid=abc; Path=/; HttpOnly; Expires=Thu, 01 Jan 2026 00:00:00 GMT",
            f"sid={t('abc')}; Path=/; HttpOnly; Expires=Thu, 01 Jan 2026 00:00:00 GMT",
        ),
        ("X-Api-Key", "abc", t("abc")),
        ("Referer", "http://a/?token=x&b=1", f"http://a/?token={t('x')}&b=1"),
        (":path", "/?access_token=x", f"/?access_token={t('x')}"),
        ("Accept", "token=x", "token=x"),
        ("Content-Length", "7", "7"),
    ],
)
def test_headers(name: str, value: str, expected: str) -> None:
    assert R.header(name, value) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/a?b=1", "/a?b=1"),
        ("/a?access_token=x&b=1", f"/a?access_token={t('x')}&b=1"),
        ("/a?b=1&api_key=x#c", f"/a?b=1&api_key={t('x')}#c"),
        ("/a?apiKey=x;password=y", f"/a?apiKey={t('x')};password={t('y')}"),
        ("/a?user%5Bpassword%5D=x", f"/a?user%5Bpassword%5D={t('x')}"),
        ("/a?tokens=3&monkey=4", "/a?tokens=3&monkey=4"),
        ("http://me:pw@host/a", f"http://{t('me:pw')}@host/a"),
        ("/cb#id_token=x", f"/cb#id_token={t('x')}"),
    ],
)
def test_urls(url: str, expected: str) -> None:
    assert R.url(url) == expected


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("user=me&password=x", "application/x-www-form-urlencoded", f"user=me&password={t('x')}"),
        ("user=me&password=x", "", f"user=me&password={t('x')}"),
        ('{"token": "x", "n": 1}', "application/json", f'{{"token": "{t("x")}", "n": 1}}'),
        ('{"otp":123456}', "application/problem+json", f'{{"otp":"{t("123456")}"}}'),
        (
            '{"a":{"secret":"a\\"b"}}',
            "",
            f'{{"a":{{"secret":"{t(chr(97) + chr(92) + chr(34) + "b")}"}}}}',
        ),
        ('{"password": "cut of', "application/json", f'{{"password": "{t("cut of")}'),
        ("<a>token=x</a>", "text/html", "<a>token=x</a>"),
        (
            '--b\r\nContent-Disposition: form-data; name="password"\r\n\r\nx\r\n--b--',
            "multipart/form-data; boundary=b",
            f'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\n{t("x")}\r\n--b--',
        ),
    ],
)
def test_bodies(text: str, kind: str, expected: str) -> None:
    assert R.text(text, kind) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "curl -H Authorization: Bearer x http://a",
            f"curl -H Authorization: Bearer {t('x http://a')}",
        ),
        ("app --password x --port 1", f"app --password {t('x')} --port 1"),
        ("app --api-key=x -v", f"app --api-key={t('x')} -v"),
        ("curl -H X-Api-Key: x a", f"curl -H X-Api-Key: {t('x')} a"),
        ("curl http://me:pw@a/", f"curl http://{t('me:pw')}@a/"),
        ("gunicorn demo:create_app() --workers 2", "gunicorn demo:create_app() --workers 2"),
    ],
)
def test_command_lines(line: str, expected: str) -> None:
    assert R.command_line(line) == expected


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r"
WELL_KNOWN = [
    JWT,
    "ghp_" + "a1B2" * 9,
    "glpat-" + "a1B2" * 5,
    "xoxb-123456789012-abcdef",
    "sk_" + "live_" + "a1B2" * 6,
    "AKIA" + "ABCD1234" * 2,
    "AIza" + "a1B2-" * 7,
]


@pytest.mark.parametrize("token", WELL_KNOWN)
def test_values_that_look_like_tokens(token: str) -> None:
    for text in ("/share/{}", "/a?b={}&c=1", "see {}, please", "<a>{}</a>", '{{"x": "{}"}}', "{}"):
        hidden = text.format(t(token))
        assert R.url(text.format(token)) == hidden
        assert R.text(text.format(token), "text/html") == hidden
        assert R.header("X-Other", text.format(token)) == hidden
        assert R.command_line(f"app {text.format(token)}") == f"app {hidden}"


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("/bot123456789:" + "a1B2c" * 7 + "/getMe", "123456789:" + "a1B2c" * 7),
        ("/services/T12345678/B12345678/" + "a1B2" * 6, "T12345678/B12345678/" + "a1B2" * 6),
        ("/?key=" + "aB3-" * 6, "aB3-" * 6),
        ("/?key=" + "0123456789abcdef" * 2, "0123456789abcdef" * 2),
    ],
)
def test_tokens_of_their_place(url: str, secret: str) -> None:
    assert R.url(url) == url.replace(secret, t(secret))


@pytest.mark.parametrize(
    "url",
    [
        "/?key=name",
        "/?key=uploads/2026/Photo-of-the-whole-family.JPG",
        "/?key=customer-profile-picture-2026",
        "/?key=3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "/items/3f2504e0-4f89-41d3-9a0c-0305e82c3301/eyJhbGciOiJIUzI1NiJ9",
        "/blob/0123456789abcdef0123456789abcdef01234567",
        "/notAKIA" + "ABCD1234" * 2,
        "/services/Tea/Biscuits/list",
        "/robot123456789:x",
    ],
)
def test_values_that_barely_resemble_tokens_stay(url: str) -> None:
    assert R.url(url) == url
    assert R.text(url, "text/plain") == url


def request(**more: Any) -> dict[str, Any]:
    body = '{"token":"s3cret"}'
    head = "POST /?token=s3cret HTTP/1.1\r\nCookie: a=s3cret\r\n"
    head += "Content-Type:  application/json\r\n\r\n"
    return {
        "timestamp": "2026-01-01T00:00:00Z",
        "type": "request",
        "method": "POST",
        "url": "/?token=s3cret",
        "http_version": "1.1",
        "body": body,
        "raw_payload": head + body,
        "headers": {"cookie": ["a=s3cret"], "content-type": "application/json"},
        "cmdline": "app --token s3cret",
        "request": {"url": "/?token=s3cret"},
        "trailers": {"X-Token": "s3cret"},
        "pid": 1,
        **more,
    }


def test_no_part_of_a_secret_stays_in_a_record() -> None:
    redacted = R.record(request())
    assert "s3cret" not in repr(redacted)
    assert repr(redacted).count(t("s3cret")) == 9
    assert redacted["raw_payload"].startswith(f"POST /?token={t('s3cret')} HTTP/1.1\r\nCookie: a=")
    assert redacted["pid"] == 1
    assert "s3cret" in request()["url"]  # a copy


@pytest.mark.parametrize(
    "more",
    [
        {"raw_payload": "abcd", "raw_payload_encoding": "base64"},
        {"http_version": "2"},
        {"body": "decoded"},
    ],
)
def test_opaque_bytes_are_left_out(more: dict[str, Any]) -> None:
    redacted = R.record(request(**more))
    assert "raw_payload" not in redacted
    assert "raw_payload_encoding" not in redacted


@pytest.mark.parametrize(
    "text",
    [
        "a" * 10**6,
        '"' * 10**6,
        '\\"' * 500_000,
        "token=" * 200_000,
        '{"token":"' + "\\" * 10**6,
        "://" * 300_000,
        "\r\ncontent-disposition: name=x\r\na" * 30_000,
        '{"a":"' * 150_000,
        "eyJ" * 300_000,
        "eyJaaaaaaaaaa." * 70_000,
        "eyJ-" * 250_000,
        "/bot1234567:" * 80_000,
        "key=" + "a" * 10**6,
        "key=a" * 200_000,
    ],
    ids=lambda text: repr(text[:12]),
)
@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data"])
def test_a_hostile_text_takes_no_longer_than_another(text: str, kind: str) -> None:
    started = time.process_time()
    R.text(text, kind)
    R.url(text)
    R.command_line(text[:100_000])
    assert time.process_time() - started < 20  # a quadratic one takes hours
