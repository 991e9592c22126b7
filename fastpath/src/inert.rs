// SPDX-License-Identifier: Apache-2.0
//! Proves cheaply that a text has no secret, by rules that are stricter than those of
//! `profiler/exchanges/redact/`. What it cannot prove, Python redacts.
//!
//! A text without `@ { [ < % \ & = :` is neither JSON, markup, a form, nor has it names with values
//! or user information. So only the form of its words can make them secrets (`shapes.py`), or their
//! place in a path.

/// The beginnings of tokens that `shapes.py` knows.
const BEGINNINGS: [&[u8; 3]; 23] = [
    b"eyJ", b"ghp", b"gho", b"ghu", b"ghs", b"ghr", b"git", b"glp", b"xox", b"sk_", b"rk_", b"sk-",
    b"whs", b"hf_", b"npm", b"hvs", b"dop", b"SG.", b"ya2", b"shp", b"AKI", b"ASI", b"AIz",
];
/// The least digits of the number of a payment card.
const CARD_DIGITS: usize = 13;
/// The least size of a random segment of a path.
const SEGMENT: usize = 16;
/// A longer name is not looked up.
const NAME_MAX: usize = 64;
const DEPTH_MAX: usize = 100;

/// Whether a text may have a secret that its form gives away, or a random segment of a path.
fn has_shape(text: &[u8]) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let (mut run, mut digits, mut has_slash, mut longest) = (0, 0, false, 0);
    let mut before = b' ';
    for (at, &byte) in text.iter().enumerate() {
        let rest = &text[at..];
        if is_word(byte) {
            if run == 0 && rest.len() > 3 && BEGINNINGS.iter().any(|one| rest.starts_with(*one)) {
                return true;
            }
            run += 1;
            longest = longest.max(run);
        } else {
            run = 0;
        }
        match byte {
            b'0'..=b'9' => {
                let begins = matches!(byte, b'2'..=b'6') && !is_word(before) && before != b'.';
                if digits > 0 || begins {
                    digits += 1;
                }
                if digits == CARD_DIGITS {
                    return true;
                }
            }
            // One separates digits. In a form, a plus is a space.
            b' ' | b'+' if before.is_ascii_digit() => {}
            b'-' => {
                if !before.is_ascii_digit() {
                    digits = 0;
                }
                if rest.starts_with(b"-----") {
                    return true;
                }
            }
            b'/' => {
                digits = 0;
                has_slash = true;
                if rest.starts_with(b"/bot") || rest.starts_with(b"/services/") {
                    return true;
                }
            }
            b'b' | b'B' => {
                digits = 0;
                let begins = |word: &[u8]| {
                    rest.get(..word.len()).map_or(false, |begin| begin.eq_ignore_ascii_case(word))
                };
                if begins(b"basic") || begins(b"bearer") {
                    return true;
                }
            }
            _ => digits = 0,
        }
        before = byte;
    }
    has_slash && longest >= SEGMENT
}

/// Whether a byte begins or ends a part of a text that has rules of its own.
fn is_special(byte: u8) -> bool {
    matches!(byte, b'@' | b'{' | b'[' | b'<' | b'%' | b'\\' | b'&' | b'=' | b':')
}

/// Whether a text that is no part of another has no secret.
pub fn text(text: &[u8]) -> bool {
    !text.iter().copied().any(is_special) && !has_shape(text)
}

/// Whether a target has no secret. `is_harmless` looks up a name.
pub fn url(target: &[u8], mut is_harmless: impl FnMut(&[u8]) -> bool) -> bool {
    if has_shape(target) {
        return false;
    }
    let is_plain = |part: &[u8]| !part.iter().copied().any(is_special);
    let mut parts = target.split(|byte| matches!(byte, b'?' | b'&' | b'#' | b';'));
    parts.next().map_or(true, is_plain)
        && parts.all(|part| match part.iter().position(|&byte| byte == b'=') {
            None => is_plain(part),
            Some(at) => {
                let (name, value) = (&part[..at], &part[at + 1..]);
                is_plain(value) && is_name(name) && is_harmless(name)
            }
        })
}

fn is_name(name: &[u8]) -> bool {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    (1..=NAME_MAX).contains(&name.len()) && name.iter().all(is_usual)
}

/// Whether a body of usual JSON has no secret: names are looked up, and strings have no escape.
pub fn json(text: &[u8], mut is_harmless: impl FnMut(&[u8]) -> bool) -> bool {
    if has_shape(text) {
        return false;
    }
    let (mut at, mut depth) = (0, 0_usize);
    // `{"name": "password", "value": "x"}`
    let (mut has_label, mut has_labelled) = (false, false);
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' | b',' => {}
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'"' => {
                let size = match text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
                    Some(size) if text[at + size] == b'"' => size,
                    _ => return false,
                };
                let string = &text[at..at + size];
                at += size + 1;
                let blanks = text[at..].iter().take_while(|&&byte| byte == b' ').count();
                if text.get(at + blanks) == Some(&b':') {
                    at += blanks + 1;
                    if blanks > 1 || !is_name(string) || !is_harmless(string) {
                        return false;
                    }
                    let is_one_of = |names: &[&[u8]]| {
                        names.iter().any(|name| string.eq_ignore_ascii_case(name))
                    };
                    has_label |= is_one_of(&[b"name", b"key", b"field", b"header", b"headername"]);
                    has_labelled |= is_one_of(&[b"value", b"val", b"content"]);
                    if has_label && has_labelled {
                        return false;
                    }
                } else if !is_value(string) {
                    return false;
                }
            }
            b'0'..=b'9' | b'a'..=b'z' | b'-' => {
                let is_bare = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                at += text[at..].iter().take_while(is_bare).count();
            }
            _ => return false,
        }
    }
    true
}

/// Whether a string of JSON has no names with values, but for times: `2026-11-29T05:00:00Z`.
fn is_value(string: &[u8]) -> bool {
    if !string.iter().copied().any(is_special) {
        return true;
    }
    string.len() <= NAME_MAX
        && string.iter().all(|byte| byte.is_ascii_digit() || b"-T:.+Z ".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proves_usual_texts() {
        for usual in
            ["gzip, deflate", "nginx/1.26.3", "\"6921f3a0-267\"", "/items/00000012", "*/*", ""]
        {
            assert!(text(usual.as_bytes()), "{usual}");
        }
        for other in [
            "a=b",
            "a:b",
            "u@a",
            "100%",
            "<a>",
            "{}",
            "\\a",
            "4111 1111 1111 1111",
            "4111+1111+1111+1111",
            "x 4111-1111-1111-1111",
            "5500000000000004",
            "a Bearer b",
            "bAsIc",
            "-----BEGIN ",
            "/bot1",
            "a ghp_x",
            "eyJa",
            "/a/services/T",
            "/reset-password/0123456789abcdef",
        ] {
            assert!(!text(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn proves_usual_targets() {
        let harmless = |name: &[u8]| name != b"token";
        for usual in ["/", "/a?b=c&d=e/f#g", "/a;b=c", "/a?b", "*", "/a?b=c+d"] {
            assert!(url(usual.as_bytes(), harmless), "{usual}");
        }
        for other in
            ["/a?token=c", "/a;token=c", "/a?b=c=d", "/a?b=c%20d", "http://a/b", "/a?=b", "/a=b"]
        {
            assert!(!url(other.as_bytes(), harmless), "{other}");
        }
    }

    #[test]
    fn proves_usual_json() {
        let harmless = |name: &[u8]| name != b"token";
        for usual in [
            "{}",
            "[1, -2.5e+3, true, null]",
            "{\"a\": \"b\", \"name\":\"c\", \"at\": \"2026-11-29T05:00:00Z\"}\n{\"é\": 1}"
                .replace('é', "e")
                .as_str(),
            "{\"a\": \"é\"}",
        ] {
            assert!(json(usual.as_bytes(), harmless), "{usual}");
        }
        for other in [
            "{\"token\": 1}",
            "{\"a\": \"b:c\"}",
            "{\"a\": \"b=c\"}",
            "{\"a\": \"\\u0061\"}",
            "{\"a\": \"b",
            "{\"name\": \"pin\", \"value\": 1}",
            "{\"a\": 4111111111111111}",
            "a: b",
            "{\"a b\": 1}",
            "'a'",
            "{\"a\" \"b\"::1}",
        ] {
            assert!(!json(other.as_bytes(), harmless), "{other}");
        }
        assert!(!json("[".repeat(DEPTH_MAX + 1).as_bytes(), harmless));
    }
}
