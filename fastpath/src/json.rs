// SPDX-License-Identifier: Apache-2.0
//! Writes JSON as `JsonLines` does with orjson: compact, with DEL and the controls of C1 escaped.

use std::io::Write;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Append the characters of a string, without its quotes. `text` must be UTF-8.
///
/// Eight bytes are copied at once, and cut off again from the first that needs an escape.
pub fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut at = 0;
    while at < text.len() {
        let (word, size) = word_at(text, at);
        let special = if may_be_special(word) { special(word) } else { 0 };
        let plain = if special == 0 { size } else { special.trailing_zeros() as usize / 8 };
        let end = out.len() + plain;
        out.extend_from_slice(&word.to_le_bytes());
        out.truncate(end);
        at += plain;
        if special != 0 {
            at += escape_one(out, &text[at..]);
        } else if text.len() - at >= 32 {
            let blocks = plain_blocks(&text[at..]);
            out.extend_from_slice(&text[at..at + blocks]);
            at += blocks;
        }
    }
}

/// Return the size of the first blocks of 16 bytes that are printable ASCII without an escape.
fn plain_blocks(text: &[u8]) -> usize {
    let mut size = 0;
    for block in text.chunks_exact(16) {
        // Without a branch for each byte, so that the compiler uses vectors.
        let other = block.iter().fold(0, |other, &byte| {
            other
                | u8::from(byte.wrapping_sub(0x20) > b'~' - 0x20)
                | u8::from(byte == b'"')
                | u8::from(byte == b'\\')
        });
        if other != 0 {
            break;
        }
        size += 16;
    }
    size
}

/// Append the first character of `text`, which is special; return how many bytes that took.
fn escape_one(out: &mut Vec<u8>, text: &[u8]) -> usize {
    match *text {
        [b'\r', b'\n', ..] => {
            out.extend_from_slice(b"\\r\\n");
            return 2;
        }
        [byte @ (b'"' | b'\\'), ..] => out.extend_from_slice(&[b'\\', byte]),
        [b'\n', ..] => out.extend_from_slice(b"\\n"),
        [b'\r', ..] => out.extend_from_slice(b"\\r"),
        [b'\t', ..] => out.extend_from_slice(b"\\t"),
        [8, ..] => out.extend_from_slice(b"\\b"),
        [12, ..] => out.extend_from_slice(b"\\f"),
        // U+0080 to U+009F are two bytes in UTF-8.
        [0xc2, byte @ 0x80..=0x9f, ..] => {
            number(out, byte);
            return 2;
        }
        [byte @ (0..=0x1f | 0x7f), ..] => number(out, byte),
        [byte, ..] => out.push(byte),
        [] => return 0,
    }
    1
}

/// Return how many bytes of printable ASCII `text` begins with, and whether none of them needs an
/// escape; `false` may be wrong.
#[inline]
pub fn printable_prefix(text: &[u8]) -> (usize, bool) {
    let mut at = 0;
    let mut quotes = 0;
    while at < text.len() {
        let (word, size) = word_at(text, at);
        quotes |= equal(word, b'"') | equal(word, b'\\');
        let other = not_printable(word) & HIGH;
        if other != 0 {
            at += other.trailing_zeros() as usize / 8;
            break;
        }
        at += size;
    }
    (at, quotes & HIGH == 0)
}

/// Append a name of printable ASCII in lower case, `data[range]`.
#[inline]
pub fn lower(out: &mut Vec<u8>, data: &[u8], range: std::ops::Range<usize>) {
    let end = out.len() + range.len();
    let mut at = range.start;
    while at < range.end {
        let (word, _) = word_at(data, at);
        let from_a = word.wrapping_add(ONES * u64::from(0x80 - b'A'));
        let after_z = word.wrapping_add(ONES * u64::from(0x7f - b'Z'));
        // What follows the name is cut off.
        out.extend_from_slice(&(word | ((from_a & !after_z & HIGH) >> 2)).to_le_bytes());
        at += 8;
    }
    out.truncate(end);
}

const ONES: u64 = 0x0101_0101_0101_0101;
/// The high bit of each byte. The functions below set it in the first byte that they look for, and
/// in no byte before that one. After it they may be wrong, because it borrows from the next.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Return the bytes at `at` as an integer whose lowest byte is the first, and how many these are:
/// eight, or what is left. Spaces follow them.
fn word_at(text: &[u8], at: usize) -> (u64, usize) {
    if let Some(block) = text.get(at..at + 8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(block);
        return (u64::from_le_bytes(bytes), 8);
    }
    let mut word = ONES * u64::from(b' ');
    let rest = &text[at..];
    for byte in rest.iter().rev() {
        word = word << 8 | u64::from(*byte);
    }
    (word, rest.len())
}

/// Whether a byte is not printable ASCII, a quote or a backslash.
fn may_be_special(word: u64) -> bool {
    (not_printable(word) | equal(word, b'"') | equal(word, b'\\')) & HIGH != 0
}

/// Set the high bit of the first byte that may need an escape.
fn special(word: u64) -> u64 {
    let is = |byte: u8| {
        let other = word ^ (ONES * u64::from(byte));
        other.wrapping_sub(ONES) & !other
    };
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (control | is(b'"') | is(b'\\') | is(0x7f) | is(0xc2)) & HIGH
}

fn not_printable(word: u64) -> u64 {
    word | word.wrapping_sub(ONES * 0x20) | equal(word, 0x7f)
}

/// Only among bytes of ASCII.
fn equal(word: u64, byte: u8) -> u64 {
    (word ^ (ONES * u64::from(byte))).wrapping_sub(ONES)
}

fn number(out: &mut Vec<u8>, byte: u8) {
    let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    out.extend_from_slice(b"\\u00");
    out.extend_from_slice(&digits);
}

/// Append an integer.
#[inline]
pub fn integer(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=9 => out.push(digit(value)),
        10..=99 => out.extend_from_slice(&[digit(value / 10), digit(value % 10)]),
        100..=999 => {
            out.extend_from_slice(&[digit(value / 100), digit(value / 10 % 10), digit(value % 10)])
        }
        _ => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
    }
}

fn digit(value: u64) -> u8 {
    b'0' + value as u8
}

/// What `milliseconds` can write: up to 15 digits, which a float holds exactly as they are printed.
pub const NANOSECONDS_MAX: u64 = 999_999_999_999_999;

/// Append nanoseconds as milliseconds, as the shortest text of that float.
pub fn milliseconds(out: &mut Vec<u8>, nanoseconds: u64) {
    let (whole, part) = (nanoseconds / 1_000_000, nanoseconds % 1_000_000);
    if nanoseconds != 0 && nanoseconds < 10 {
        // Shorter than 0.000001.
        integer(out, nanoseconds);
        out.extend_from_slice(b"e-6");
        return;
    }
    integer(out, whole);
    let point = out.len();
    // Seven digits: the first takes the place of the point.
    integer(out, 1_000_000 + part);
    out[point] = b'.';
    while out.ends_with(b"0") && out.len() > point + 2 {
        out.pop();
    }
}

/// The last time that `timestamp` writes is before this: the year 2262, see `record.py`.
const TIME_END: i128 = 9_214_646_400_000_000_000;

/// Formats times as RFC 3339 in UTC with nine digits; remembers the last second.
#[derive(Default)]
pub struct Clock {
    /// The second that `text` is of: from and to, in ns.
    from: u64,
    to: u64,
    /// The last timestamp; only the nanoseconds change within its second.
    text: [u8; 30],
}

impl Clock {
    /// Append `realtime`, in ns since 1970; return whether a record can have that time.
    pub fn timestamp(&mut self, out: &mut Vec<u8>, realtime: i128) -> bool {
        if !(0..TIME_END).contains(&realtime) {
            return false;
        }
        let realtime = realtime as u64;
        if !(self.from..self.to).contains(&realtime) {
            let second = realtime / SECOND;
            let (year, month, day) = date(second / 86_400);
            let (hour, minute) = (second / 3600 % 24, second / 60 % 60);
            // Twenty characters fit, because the year has four digits.
            let _ = write!(
                &mut self.text[..],
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.",
                second % 60
            );
            self.text[29] = b'Z';
            (self.from, self.to) = (second * SECOND, (second + 1) * SECOND);
        }
        // Less than 10**9: a first digit, and four pairs.
        let mut left = (realtime - self.from) as u32;
        for at in [27, 25, 23, 21] {
            let pair = left % 100;
            left /= 100;
            self.text[at] = b'0' + (pair / 10) as u8;
            self.text[at + 1] = b'0' + (pair % 10) as u8;
        }
        self.text[20] = b'0' + left as u8;
        out.extend_from_slice(&self.text);
        true
    }
}

/// In ns.
const SECOND: u64 = 1_000_000_000;

/// Return year, month and day of a day since 1970, in the Gregorian calendar.
fn date(day: u64) -> (u64, u64, u64) {
    const MONTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut year, mut left) = (1970, day);
    loop {
        let days = 365 + u64::from(leap(year));
        if left < days {
            break;
        }
        left -= days;
        year += 1;
    }
    let mut month = 0;
    for days in MONTHS {
        let days = days + u64::from(month == 1 && leap(year));
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    (year, month + 1, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        escape(&mut out, text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_what_orjson_and_the_sink_escape() {
        assert_eq!(escaped("plain text of some length"), "plain text of some length");
        assert_eq!(escaped("a\"b\\c/d\r\n\t\u{8}\u{c}"), "a\\\"b\\\\c/d\\r\\n\\t\\b\\f");
        assert_eq!(escaped("\u{0}\u{1b}\u{7f}"), "\\u0000\\u001b\\u007f");
        assert_eq!(escaped("é\u{80}\u{9f}\u{a0}€"), "é\\u0080\\u009f\u{a0}€");
    }

    #[test]
    fn finds_what_to_escape_at_every_place() {
        for special in ['"', '\\', '\n', '\u{1f}', '\u{7f}', '\u{85}'] {
            let mut alone = Vec::new();
            escape(&mut alone, special.to_string().as_bytes());
            let alone = String::from_utf8(alone).unwrap();
            for at in 0..24 {
                let (before, behind) = ("x".repeat(at), "~".repeat(24 - at));
                let text = format!("{before}{special}{behind}");
                assert_eq!(escaped(&text), format!("{before}{alone}{behind}"));
            }
        }
    }

    #[test]
    fn finds_the_end_of_printable_text() {
        for other in 0..=255 {
            let is_printable = (0x20..0x7f).contains(&other);
            for at in 0..20 {
                let mut text = vec![b'~'; 20];
                text[at] = other;
                let (size, is_plain) = printable_prefix(&text);
                assert_eq!(size, if is_printable { 20 } else { at });
                assert!(!(is_plain && matches!(other, b'"' | b'\\')));
                assert!(is_plain || !is_printable || matches!(other, b'"' | b'\\'));
            }
        }
    }

    #[test]
    fn copies_what_is_not_ascii() {
        let text = "Größe: 5 € – 日本語のテキスト, \u{a0}\u{c2}";
        assert_eq!(escaped(text), text);
    }

    #[test]
    fn writes_integers() {
        for value in [0, 9, 10, 99, 100, 101, 999, 1000, u64::MAX] {
            let mut out = Vec::new();
            integer(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }

    #[test]
    fn writes_names_in_lower_case() {
        let text: String = (' '..='~').collect();
        for start in 0..text.len() {
            let mut out = Vec::new();
            lower(&mut out, text.as_bytes(), start..text.len());
            assert_eq!(String::from_utf8(out).unwrap(), text[start..].to_ascii_lowercase());
        }
    }

    #[test]
    fn writes_milliseconds_as_the_shortest_float() {
        let written = |nanoseconds| {
            let mut out = Vec::new();
            milliseconds(&mut out, nanoseconds);
            String::from_utf8(out).unwrap()
        };
        for (nanoseconds, text) in [
            (0, "0.0"),
            (9, "9e-6"),
            (10, "0.00001"),
            (1234, "0.001234"),
            (1_000_000, "1.0"),
            (1_500_000, "1.5"),
            (NANOSECONDS_MAX, "999999999.999999"),
        ] {
            assert_eq!(written(nanoseconds), text);
        }
    }

    #[test]
    fn writes_times_in_utc() {
        let mut clock = Clock::default();
        for (realtime, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (4_107_542_399_999_999_999, "2100-02-28T23:59:59.999999999Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
        ] {
            let mut out = Vec::new();
            assert!(clock.timestamp(&mut out, realtime));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        assert!(!clock.timestamp(&mut Vec::new(), -1));
        assert!(!clock.timestamp(&mut Vec::new(), TIME_END));
    }
}
