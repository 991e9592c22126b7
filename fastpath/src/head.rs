// SPDX-License-Identifier: Apache-2.0
//! Parses the usual head of HTTP/1, and refuses every other one.
//!
//! A head is usual if all readers agree on it: lines that end with CRLF, printable ASCII, single
//! spaces in the start line, names that are tokens (RFC 9110, 5.6.2), and at most one of each field
//! that decides how the body is read. `http1.py`, `classify.py` and `fields.py` read all others.

use crate::json::printable_prefix;
use std::ops::Range;

/// Fields of one head. Finding repeated ones compares each with those before it.
const FIELDS_MAX: usize = 64;

/// Digits of a length: more than any stream carries.
const LENGTH_DIGITS: usize = 15;

/// What a start line states, as ranges of the head.
#[derive(Debug, PartialEq)]
pub enum Start {
    Request { method: Range<usize>, target: Range<usize> },
    Response { status: u16, reason: Range<usize> },
}

/// A field: `data[start..colon]` is its name as sent, and `value` is without blanks around it.
#[derive(Debug)]
pub struct Field {
    pub start: usize,
    pub colon: usize,
    pub value: Range<usize>,
    /// Where the line ends, before CRLF.
    pub end: usize,
    /// Whether JSON has no escape for any character of the line.
    pub is_plain: bool,
}

/// A usual head. All ranges are of the bytes it was parsed from.
#[derive(Debug)]
pub struct Head {
    pub start: Start,
    /// The digit of the version after `1.`.
    pub minor: u8,
    /// Whether JSON has no escape for any character of the start line.
    pub is_plain: bool,
    pub fields: Vec<Field>,
    /// Whether several fields have the same name.
    pub repeats: bool,
    pub host: Option<Range<usize>>,
    pub content_type: Option<Range<usize>>,
    /// Content-Length.
    pub length: Option<usize>,
    /// Whether the body has HTTP chunks; it then has no Content-Length.
    pub is_chunked: bool,
    /// The bytes of the head, with its empty line.
    pub size: usize,
    /// A set of hashes of names.
    names: u64,
}

impl Head {
    /// Return the head at the beginning of `data`; `None` if it is not usual, or not whole.
    ///
    /// `spare` is an empty vector to use, which saves an allocation.
    pub fn parse(data: &[u8], max_size: usize, spare: Vec<Field>) -> Option<Head> {
        let data = &data[..data.len().min(max_size)];
        let (end, is_plain) = line_end(data, 0)?;
        let (start, minor) = if data.starts_with(b"HTTP/") {
            status_line(data, 0..end)?
        } else {
            request_line(data, 0..end)?
        };
        let mut head = Head {
            start,
            minor,
            is_plain,
            fields: spare,
            repeats: false,
            host: None,
            content_type: None,
            length: None,
            is_chunked: false,
            size: 0,
            names: 0,
        };
        let mut at = end + 2;
        while !data[at..].starts_with(b"\r\n") {
            at = head.add(data, at)?;
        }
        head.size = at + 2;
        // RFC 9112, 6.1 and 6.3: a length beside chunks is an attack, and HTTP/1.0 has no chunks.
        let is_usual = !head.is_chunked || (head.length.is_none() && head.minor != b'0');
        is_usual.then_some(head)
    }

    /// Whether the names of both fields are equal.
    pub fn same_name(data: &[u8], one: &Field, other: &Field) -> bool {
        data[one.start..one.colon].eq_ignore_ascii_case(&data[other.start..other.colon])
    }

    /// Add the field in the line at `start`; return where the next line begins.
    fn add(&mut self, data: &[u8], start: usize) -> Option<usize> {
        let size = data[start..].iter().position(|&byte| !is_token(byte))?;
        let colon = start + size;
        if size == 0 || data[colon] != b':' {
            return None;
        }
        let (end, is_plain) = line_end(data, colon + 1)?;
        let value = trimmed(data, colon + 1..end);
        let name = &data[start..colon];
        // Most names are written like that, which is faster to compare.
        let is = |usual: &[u8]| name == usual || name.eq_ignore_ascii_case(usual);
        let (first, last) = (data[start] | 0x20, data[colon - 1] | 0x20);
        match (size, first) {
            (4, b'h') if is(b"Host") => set(&mut self.host, value.clone())?,
            (6, b'e') if is(b"Expect") => return None,
            (12, b'c') if is(b"Content-Type") => set(&mut self.content_type, value.clone())?,
            (14, b'c') if is(b"Content-Length") => {
                let digits = &data[value.clone()];
                if digits.is_empty() || digits.len() > LENGTH_DIGITS {
                    return None;
                }
                let mut length = 0;
                for digit in digits {
                    if !digit.is_ascii_digit() {
                        return None;
                    }
                    length = length * 10 + usize::from(digit - b'0');
                }
                set(&mut self.length, length)?;
            }
            (16, b'c') if is(b"Content-Encoding") => return None,
            (17, b't') if is(b"Transfer-Encoding") => {
                if self.is_chunked || &data[value.clone()] != b"chunked" {
                    return None;
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        if self.fields.len() == FIELDS_MAX {
            return None;
        }
        let field = Field { start, colon, value, end, is_plain };
        let hash = 1 << ((size + 21 * usize::from(first) + 17 * usize::from(last)) % 64);
        if self.names & hash != 0 && !self.repeats {
            self.repeats = self.fields.iter().any(|other| Head::same_name(data, &field, other));
        }
        self.names |= hash;
        self.fields.push(field);
        Some(end + 2)
    }
}

/// Return the content of HTTP chunks (RFC 9112, 7.1) that are the whole of `data`; `None` if they are
/// not, or have extensions or trailers.
pub fn dechunked(mut data: &[u8]) -> Option<Vec<u8>> {
    const SIZE_DIGITS: usize = 8;
    let mut content = Vec::with_capacity(data.len());
    while data != b"0\r\n\r\n" {
        let digits = data.iter().take(SIZE_DIGITS).take_while(|byte| byte.is_ascii_hexdigit());
        let digits = digits.count();
        let size = std::str::from_utf8(&data[..digits]).ok()?;
        let size = usize::from_str_radix(size, 16).ok().filter(|&size| size > 0)?;
        data = data[digits..].strip_prefix(b"\r\n")?;
        content.extend_from_slice(data.get(..size)?);
        data = data[size..].strip_prefix(b"\r\n")?;
    }
    Some(content)
}

/// Whether the text of a body with this type is UTF-8 (`charset.py`): no other charset is stated.
pub fn is_utf8_type(content_type: &[u8]) -> bool {
    const CHARSET: &[u8] = b"charset=utf-8";
    if content_type.starts_with(b"application/grpc") {
        return false;
    }
    let semicolon = match content_type.iter().position(|&byte| byte == b';') {
        None => return true,
        Some(at) => at,
    };
    let mut parameter = &content_type[semicolon + 1..];
    while let Some((b' ', rest)) = parameter.split_first() {
        parameter = rest;
    }
    parameter.eq_ignore_ascii_case(CHARSET)
}

fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    match place.replace(value) {
        None => Some(()),
        Some(_) => None,
    }
}

/// Return where the line that continues at `at` ends, before its CRLF, and whether the rest of it is
/// free of quotes and backslashes; `None` if that is not printable.
#[inline]
fn line_end(data: &[u8], at: usize) -> Option<(usize, bool)> {
    // The first byte that is not printable must be the CR.
    let (size, is_plain) = printable_prefix(&data[at..]);
    let end = at + size;
    data[end..].starts_with(b"\r\n").then_some((end, is_plain))
}

/// RFC 9112, 3.
fn request_line(data: &[u8], line: Range<usize>) -> Option<(Start, u8)> {
    let text = &data[line.clone()];
    let method = text.iter().position(|&byte| !is_token(byte))?;
    let target = text.len().checked_sub(9)?;
    if method == 0 || method + 1 >= target || text[method] != b' ' || text[target] != b' ' {
        return None;
    }
    if text[method + 1..target].contains(&b' ') {
        return None;
    }
    let minor = minor_version(&text[target + 1..])?;
    let start = Start::Request {
        method: line.start..line.start + method,
        target: line.start + method + 1..line.start + target,
    };
    Some((start, minor))
}

/// RFC 9112, 4.
fn status_line(data: &[u8], line: Range<usize>) -> Option<(Start, u8)> {
    let text = &data[line.clone()];
    let minor = minor_version(text)?;
    let digits = text.get(8..12)?;
    if digits[0] != b' ' || !digits[1..].iter().all(u8::is_ascii_digit) {
        return None;
    }
    if !matches!(text.get(12), None | Some(b' ')) {
        return None;
    }
    let status = digits[1..].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let reason = trimmed(data, line.start + 12..line.end);
    Some((Start::Response { status, reason }, minor))
}

/// Return the digit after the point of `HTTP/1.x`.
fn minor_version(text: &[u8]) -> Option<u8> {
    match text {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9', ..] => Some(*minor),
        _ => None,
    }
}

#[inline]
fn trimmed(data: &[u8], mut range: Range<usize>) -> Range<usize> {
    let text = &data[..range.end];
    while text.get(range.start) == Some(&b' ') {
        range.start += 1;
    }
    while range.end > range.start && text[range.end - 1] == b' ' {
        range.end -= 1;
    }
    range
}

/// Whether a byte may be part of a token, by its value.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
            | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        byte += 1;
    }
    table
};

fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Head> {
        Head::parse(text.as_bytes(), 1000, Vec::new())
    }

    #[test]
    fn parses_a_request() {
        let text = "GET /a?b HTTP/1.0\r\nHost:  x \r\nA:\r\n\r\nrest";
        let head = parse(text).unwrap();
        assert_eq!(head.start, Start::Request { method: 0..3, target: 4..8 });
        assert_eq!(head.minor, b'0');
        assert_eq!(&text[head.host.unwrap()], "x");
        assert_eq!(head.fields.len(), 2);
        assert_eq!(&text[head.size..], "rest");
    }

    #[test]
    fn parses_a_response() {
        let text = "HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\n";
        let head = parse(text).unwrap();
        assert_eq!(head.start, Start::Response { status: 404, reason: 13..22 });
        assert_eq!(head.length, Some(12));
        let head = parse("HTTP/1.1 200\r\n\r\n").unwrap();
        assert_eq!(head.start, Start::Response { status: 200, reason: 12..12 });
    }

    #[test]
    fn refuses_what_readers_may_read_differently() {
        for text in [
            "GET /a HTTP/1.1\nHost: x\n\n",
            "GET /a HTTP/1.1\r\nHost: x\r\n",
            "GET  /a HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1 \r\n\r\n",
            "GET /a HTTP/2.0\r\n\r\n",
            "G:T /a HTTP/1.1\r\n\r\n",
            "\r\nGET /a HTTP/1.1\r\n\r\n",
            "GET /é HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nA : b\r\n\r\n",
            "GET /a HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET /a HTTP/1.1\r\nno field\r\n\r\n",
            "GET /a HTTP/1.1\r\nA: \tb\r\n\r\n",
            "GET /a HTTP/1.1\r\nA: b\r\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            "GET /a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET /a HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "GET /a HTTP/1.1\r\nContent-Length: \r\n\r\n",
            "GET /a HTTP/1.1\r\nContent-Length: 1234567890123456\r\n\r\n",
            "GET /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            "GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
            "",
        ] {
            assert!(parse(text).is_none(), "{text:?}");
        }
        assert!(Head::parse(b"GET / HTTP/1.1\r\n\r\n", 17, Vec::new()).is_none());
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert!(Head::parse(many.as_bytes(), 9999, Vec::new()).is_none());
    }

    #[test]
    fn removes_chunks() {
        let content = dechunked(b"3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(content, Some(b"abc0123456789".to_vec()));
        assert_eq!(dechunked(b"0\r\n\r\n"), Some(Vec::new()));
        for text in [
            "",
            "0\r\n",
            "0\r\n\r\nx",
            "00\r\n\r\n",
            "0\r\nA: b\r\n\r\n",
            "1;a=b\r\nx\r\n0\r\n\r\n",
            "+1\r\nx\r\n0\r\n\r\n",
            "2\r\nx\r\n0\r\n\r\n",
            "1\r\nxy\r\n0\r\n\r\n",
            "1\nx\r\n0\r\n\r\n",
            "ffffffff\r\nx\r\n0\r\n\r\n",
        ] {
            assert_eq!(dechunked(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn tokens_are_those_of_rfc_9110() {
        for byte in 0..=255_u8 {
            let expected = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(byte), expected, "{byte}");
        }
    }

    #[test]
    fn knows_types_whose_text_is_utf8() {
        for content_type in ["", "text/html", "text/html; charset=UTF-8", "a/b;charset=utf-8"] {
            assert!(is_utf8_type(content_type.as_bytes()), "{content_type}");
        }
        for content_type in ["application/grpc+x", "a/b; charset=latin1", "a/b; c=d; charset=utf-8"]
        {
            assert!(!is_utf8_type(content_type.as_bytes()), "{content_type}");
        }
    }
}
