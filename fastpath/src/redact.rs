// SPDX-License-Identifier: Apache-2.0
//! Replaces secrets of usual messages with placeholders, as `profiler/exchanges/redact/` does.
//!
//! Python redacts each text: a header, a target, a reason, a body. What it returned for a header, a
//! target or a reason is kept, because most of them repeat from message to message.

use std::collections::HashMap;
use std::sync::Arc;

use crate::head::{Head, Start};
use crate::inert;

/// A text to show instead; `None`: it has no secrets.
pub type Shown = Option<Arc<[u8]>>;

/// Texts of one kind that are kept. All are dropped beyond that.
const KEPT: usize = 4096;
/// Longer ones are not kept.
const TEXT_MAX: usize = 512;

/// What a text is, as Python names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// The value of a header; its name is in lower case.
    Header,
    Url,
    Reason,
    /// A name: it has something to show instead if its values may be secrets.
    Name,
    /// A body; the name is its Content-Type.
    Body,
}

/// Redacts a text; `None`: Python must read the message.
pub trait Redact {
    fn redact(&mut self, kind: Kind, name: &[u8], text: &[u8]) -> Option<Shown>;
}

/// A peer chooses the texts, so their hashes have a key.
type Known = HashMap<Box<[u8]>, Shown>;

/// What was redacted before.
#[derive(Default)]
pub struct Redactor {
    /// By the line of a header, as it was sent.
    lines: Known,
    urls: Known,
    hosts: Known,
    reasons: Known,
    names: Known,
}

/// What is shown of a message.
#[derive(Debug, Default)]
pub struct Redaction {
    /// The target of a request, or the reason of a response.
    pub start: Shown,
    /// The values of the fields.
    pub values: Vec<Shown>,
    pub body: Shown,
    /// Target and host that a response repeats.
    pub target: Shown,
    pub host: Shown,
    /// Whether the payload is removed, because it is not made of the other fields.
    pub removes_payload: bool,
}

impl Redactor {
    /// Redact a message with this content, and `asked`: target and host of its request.
    ///
    /// `None`: Python must read it.
    pub fn redact<R: Redact>(
        &mut self,
        python: &mut R,
        head: &Head,
        data: &[u8],
        content: &[u8],
        asked: Option<(&[u8], Option<&[u8]>)>,
    ) -> Option<Redaction> {
        if head.minor > b'1' {
            return None;
        }
        let rest = &data[head.size..];
        let mut redaction = Redaction {
            removes_payload: head.is_chunked && !rest.is_empty(),
            values: Vec::with_capacity(head.fields.len()),
            ..Redaction::default()
        };
        redaction.start = match &head.start {
            Start::Request { target, .. } => {
                let target = &data[target.clone()];
                self.url(python, target)?
            }
            Start::Response { status, reason } => {
                let end = head.fields.first().map_or(head.size - 2, |field| field.start) - 2;
                // "HTTP/1.1 200", and perhaps one space and the reason.
                let is_usual = end == 12 || (reason.start == 13 && reason.end == end);
                if !is_usual || *status < 100 {
                    return None;
                }
                let reason = &data[reason.clone()];
                known(&mut self.reasons, python, Kind::Reason, (b"", reason), reason)?
            }
        };
        for field in &head.fields {
            let (name, value) = (&data[field.start..field.colon], &data[field.value.clone()]);
            let line = &data[field.start..field.end];
            redaction.values.push(self.header(python, name, value, line)?);
        }
        if let Some((target, host)) = asked {
            redaction.target = self.url(python, target)?;
            if let Some(host) = host {
                redaction.host =
                    known(&mut self.hosts, python, Kind::Header, (b"host", host), host)?;
            }
        }
        if !content.is_empty() {
            let content_type = head.content_type.clone().map_or(&b""[..], |range| &data[range]);
            // Such a body is base64 text (`_is_opaque`).
            let grpc = b"application/grpc";
            if content_type
                .get(..grpc.len())
                .map_or(false, |begin| begin.eq_ignore_ascii_case(grpc))
            {
                return None;
            }
            redaction.body = self.body(python, content_type, content)?;
        }
        Some(redaction)
    }
}

impl Redactor {
    fn url<R: Redact>(&mut self, python: &mut R, target: &[u8]) -> Option<Shown> {
        if let Some(shown) = self.urls.get(target) {
            return Some(shown.clone());
        }
        let names = &mut self.names;
        if inert::url(target, |name| is_harmless(names, python, name)) {
            return Some(None);
        }
        known(&mut self.urls, python, Kind::Url, (b"", target), target)
    }

    fn header<R: Redact>(
        &mut self,
        python: &mut R,
        name: &[u8],
        value: &[u8],
        line: &[u8],
    ) -> Option<Shown> {
        if let Some(shown) = self.lines.get(line) {
            return Some(shown.clone());
        }
        let name = name.to_ascii_lowercase();
        // A value with a digit may never come again.
        if value.iter().any(u8::is_ascii_digit)
            && inert::text(value)
            && is_harmless(&mut self.names, python, &name)
        {
            return Some(None);
        }
        known(&mut self.lines, python, Kind::Header, (&name, value), line)
    }

    fn body<R: Redact>(
        &mut self,
        python: &mut R,
        content_type: &[u8],
        content: &[u8],
    ) -> Option<Shown> {
        let end = content_type.iter().position(|&byte| byte == b';');
        let kind = content_type[..end.unwrap_or(content_type.len())].to_ascii_lowercase();
        let names = &mut self.names;
        // Python writes bodies of some types anew.
        let has = |word: &[u8]| kind.windows(word.len()).any(|part| part == word);
        let is_json = kind == b"application/json"
            || (kind.is_empty() && matches!(content.first(), Some(b'{' | b'[')));
        let is_inert = !has(b"multipart/")
            && !has(b"event-stream")
            && match is_json {
                true => inert::json(content, |name| is_harmless(names, python, name)),
                false => inert::text(content),
            };
        if is_inert {
            return Some(None);
        }
        python.redact(Kind::Body, content_type, content)
    }
}

/// Whether the values of a name are no secrets.
fn is_harmless<R: Redact>(names: &mut Known, python: &mut R, name: &[u8]) -> bool {
    if let Some(shown) = names.get(name) {
        return shown.is_none();
    }
    matches!(known(names, python, Kind::Name, (b"", name), name), Some(None))
}

/// Redact a text with a name, unless that was done before for this key.
fn known<R: Redact>(
    texts: &mut Known,
    python: &mut R,
    kind: Kind,
    (name, text): (&[u8], &[u8]),
    key: &[u8],
) -> Option<Shown> {
    if let Some(shown) = texts.get(key) {
        return Some(shown.clone());
    }
    let shown = if text.is_empty() { None } else { python.redact(kind, name, text)? };
    if key.len() <= TEXT_MAX {
        if texts.len() == KEPT {
            texts.clear();
        }
        texts.insert(key.into(), shown.clone());
    }
    Some(shown)
}
