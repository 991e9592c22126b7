// SPDX-License-Identifier: Apache-2.0
//! Replaces secrets of usual messages with placeholders, as `profiler/exchanges/redact/` does.
//!
//! Python redacts each text: a header, a target, a reason, a body. What it returned for a header, a
//! target or a reason is kept, because most of them repeat from message to message.

use std::collections::HashMap;
use std::sync::Arc;

use crate::head::{Head, Start};

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
                known(&mut self.urls, python, Kind::Url, (b"", target), target)?
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
            redaction.values.push(known(
                &mut self.lines,
                python,
                Kind::Header,
                (name, value),
                line,
            )?);
        }
        if let Some((target, host)) = asked {
            redaction.target = known(&mut self.urls, python, Kind::Url, (b"", target), target)?;
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
            redaction.body = python.redact(Kind::Body, content_type, content)?;
        }
        Some(redaction)
    }
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
    let shown = if text.is_empty() {
        None
    } else {
        python.redact(kind, &name.to_ascii_lowercase(), text)?
    };
    if key.len() <= TEXT_MAX {
        if texts.len() == KEPT {
            texts.clear();
        }
        texts.insert(key.into(), shown.clone());
    }
    Some(shown)
}
