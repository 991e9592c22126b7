// SPDX-License-Identifier: Apache-2.0
//! One leased connection: takes a record if it is usual, or leaves everything as it was.
//!
//! A leased connection is at rest: both directions stand between two messages, and at most one
//! request has no response yet. Records that begin something, the first pieces of a message or the
//! first end, wait without an effect. So giving a connection back needs no more than its state at
//! rest and the records that wait: Python reads those again.

use std::ops::Range;
use std::sync::Arc;

use crate::ends::Ends;
use crate::filter::{Filter, Verdict};
use crate::head::{dechunked, is_utf8_type, Field, Head, Start};
use crate::json;
use crate::peers::{Direction, Fragment, Peers};
use crate::redact::{Redact, Redaction, Redactor, Shown};
use crate::tls::Sessions;
use crate::wire::{self, Chunk, End, EVENT_SIZE};

/// What a connection at rest takes, CONNECTION_SIZE of `http/__init__.py`.
const CONNECTION_SIZE: usize = 1200;
/// What a request takes besides its texts and payload, as in `http/message.py`.
const REQUEST_SIZE: usize = 500;
/// A longer payload is not kept with a request, as in `http/connection.py`.
const PAYLOAD_MAX: usize = 512;
/// A response may repeat so many characters of its request, as in `record.py`.
const REPEATED: usize = 2000;
/// What a message that waits takes in Python, at most: a field of three bytes is three objects.
const WAITING_SIZE: usize = 4096;
const WAITING_OF_HEAD: usize = 100;
const WAITING_OF_BODY: usize = 3;

/// The limits of one capture, in bytes.
pub struct Limits {
    pub head: usize,
    pub body: usize,
    pub connection: usize,
}

/// Parts of a line that depend on the mover of bytes only: JSON fragments, each with its comma.
pub struct Mover {
    pub wire: wire::Mover,
    pub generation: u64,
    /// What comes before the addresses.
    pub process: Vec<u8>,
    /// The same without secrets.
    pub shown: Vec<u8>,
    /// What comes before the connection.
    pub call: Vec<u8>,
    /// What comes after the socket.
    pub thread: Vec<u8>,
    /// Its process, as the other end of a connection.
    pub peer: Fragment,
    /// The leaves of the filter that hold for it.
    pub leaves: u64,
}

/// Makes the parts for the mover of a record; `None`: it cannot.
pub trait Describe: Redact {
    fn describe(&mut self, header: &[u8; EVENT_SIZE]) -> Option<Arc<Mover>>;
    /// Changes whenever what was described may have changed.
    fn generation(&self) -> u64;
}

/// Where lines go, and what they need besides the connection.
pub struct Lines<D> {
    pub out: Vec<u8>,
    pub clock: json::Clock,
    /// CLOCK_REALTIME minus the kernel's clock, in ns.
    pub offset: i128,
    pub requests: u64,
    pub responses: u64,
    pub describer: D,
    pub peers: Peers,
    pub sessions: Sessions,
    pub redactor: Option<Redactor>,
    pub filter: Option<Filter>,
    /// Messages that each condition of the filter has dropped.
    pub dropped: Vec<u64>,
    /// An empty vector for the fields of the next head.
    pub spare: Vec<Field>,
}

/// The request that has no response yet. Its parts are ranges of `text`.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub header: [u8; EVENT_SIZE],
    text: Vec<u8>,
    /// The size of the payload of its first record, which comes first. A long payload is left out.
    payload: usize,
    parts: Parts,
    /// What a filter has found.
    pub filtered: Option<Box<Filtered>>,
}

/// A request that went through a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filtered {
    /// The leaves that hold for it.
    leaves: u64,
    /// The network namespace in its line.
    netns: Option<u32>,
    /// Whether the response decides.
    pub is_open: bool,
    /// Its line with its secrets, for Python's filter.
    pub line: Vec<u8>,
    /// Its line without them, if it waits and secrets are redacted.
    shown: Option<Vec<u8>>,
}

/// The ranges of a request's method, target and host.
#[derive(Clone, Debug, PartialEq)]
struct Parts {
    method: Range<usize>,
    target: Range<usize>,
    host: Option<Range<usize>>,
}

impl Request {
    pub fn new(
        header: &[u8; EVENT_SIZE],
        payload: &[u8],
        method: &[u8],
        target: &[u8],
        host: Option<&[u8]>,
    ) -> Request {
        let payload = if payload.len() > PAYLOAD_MAX { &[] } else { payload };
        let text = [payload, method, target, host.unwrap_or_default()].concat();
        let target_at = payload.len() + method.len();
        let host_at = target_at + target.len();
        let parts = Parts {
            method: payload.len()..target_at,
            target: target_at..host_at,
            host: host.map(|_| host_at..text.len()),
        };
        Request { header: *header, text, payload: payload.len(), parts, filtered: None }
    }

    /// Return the request whose head is in `data`, of which the `payload` came in the first record.
    fn of_head(
        header: &[u8; EVENT_SIZE],
        payload: &[u8],
        (method, target): (&Range<usize>, &Range<usize>),
        head: &Head,
        data: &[u8],
    ) -> Request {
        if payload.len() < head.size || payload.len() > PAYLOAD_MAX {
            let host = head.host.clone().map(|host| &data[host]);
            return Request::new(
                header,
                payload,
                &data[method.clone()],
                &data[target.clone()],
                host,
            );
        }
        // The payload has the other parts.
        let (method, target, host) = (method.clone(), target.clone(), head.host.clone());
        let parts = Parts { method, target, host };
        Request {
            header: *header,
            text: payload.to_vec(),
            payload: payload.len(),
            parts,
            filtered: None,
        }
    }

    pub fn payload(&self) -> &[u8] {
        &self.text[..self.payload]
    }

    pub fn method(&self) -> &[u8] {
        &self.text[self.parts.method.clone()]
    }

    pub fn target(&self) -> &[u8] {
        &self.text[self.parts.target.clone()]
    }

    pub fn host(&self) -> Option<&[u8]> {
        self.parts.host.clone().map(|host| &self.text[host])
    }

    fn size(&self) -> usize {
        let line = self.filtered.as_ref().map_or(0, |filtered| {
            filtered.line.len() + filtered.shown.as_ref().map_or(0, Vec::len)
        });
        REQUEST_SIZE + self.payload + self.repeated() + line
    }

    /// The size of what its response repeats.
    fn repeated(&self) -> usize {
        let Parts { method, target, host } = &self.parts;
        method.len() + target.len() + host.as_ref().map_or(0, Range::len)
    }

    /// Whether its response may repeat it.
    pub fn is_short(&self) -> bool {
        self.repeated() < REPEATED
    }
}

/// The state at rest, by direction where there are two; as `Resting` of `fastpath.py`.
#[derive(Clone)]
pub struct State {
    /// The next position; `None` before the first record.
    pub next: [Option<u64>; 2],
    pub sequences: [u32; 2],
    /// When the last bytes came.
    pub times: [u64; 2],
    /// The direction of requests.
    pub requests: usize,
    /// The number of the last request.
    pub count: u64,
    /// The last request, if it has no response yet.
    pub request: Option<Request>,
}

impl State {
    /// The state of a connection that begins with a request in direction `requests`.
    pub fn opened(requests: usize) -> State {
        State {
            next: [None; 2],
            sequences: [0; 2],
            times: [0; 2],
            requests,
            count: 0,
            request: None,
        }
    }
}

/// What became of a record.
#[derive(Debug, PartialEq)]
pub enum Fate {
    Taken,
    /// Taken, and with it the connection has ended.
    Closed,
    /// Python must read it. Nothing has changed.
    Refused,
}

enum Waiting {
    Nothing,
    Message(Box<Pieces>),
    End([u8; EVENT_SIZE]),
}

/// The first pieces of a message.
struct Pieces {
    head: Head,
    /// The records without their payloads, which are one after another in `data`.
    headers: Vec<[u8; EVENT_SIZE]>,
    data: Vec<u8>,
    /// Bytes of the message that are missing.
    left: usize,
    /// What it takes in Python, at most.
    cost: usize,
}

impl Pieces {
    fn records(&self) -> Vec<Vec<u8>> {
        let mut at = 0;
        let record = |header: &[u8; EVENT_SIZE]| {
            let start = at;
            at += wire::captured(header);
            [&header[..], &self.data[start..at]].concat()
        };
        self.headers.iter().map(record).collect()
    }
}

pub struct Connection {
    state: State,
    waiting: Waiting,
    movers: [Option<Arc<Mover>>; 2],
    ends: Option<Ends>,
    peer: Option<Fragment>,
    /// The directions from which the table of peers learns nothing.
    met: [bool; 2],
    /// When it was used last, in records.
    pub used: u64,
}

impl Connection {
    pub fn new(state: State) -> Connection {
        Connection {
            state,
            waiting: Waiting::Nothing,
            movers: [None, None],
            ends: None,
            peer: None,
            met: [false; 2],
            used: 0,
        }
    }

    /// Return the state at rest, and the records that Python must read again.
    pub fn into_parts(self) -> (State, Vec<Vec<u8>>) {
        let records = match &self.waiting {
            Waiting::Nothing => Vec::new(),
            Waiting::Message(pieces) => pieces.records(),
            Waiting::End(header) => vec![header.to_vec()],
        };
        (self.state, records)
    }

    /// The bytes of memory that Python's connection takes, or more.
    pub fn held(&self) -> usize {
        let waiting = match &self.waiting {
            Waiting::Nothing => 0,
            Waiting::Message(pieces) => pieces.cost,
            Waiting::End(_) => WAITING_SIZE,
        };
        CONNECTION_SIZE
            + self.state.request.as_ref().map_or(0, Request::size)
            + waiting
            + self.ends.as_ref().map_or(0, Ends::size)
    }

    /// The table of peers has changed: look for the other end again.
    pub fn meet_again(&mut self) {
        self.peer = None;
        self.met = [false; 2];
    }

    /// Take the end of a direction.
    pub fn end(&mut self, end: &End) -> Fate {
        let next = self.state.next[end.direction];
        // At position 0, nothing has moved since the kernel restarted its count.
        let in_order = end.position == 0 || next.map_or(true, |next| next == end.position);
        if !in_order || self.state.request.is_some() {
            return Fate::Refused;
        }
        match &self.waiting {
            Waiting::Nothing => {
                self.waiting = Waiting::End(*end.header);
                Fate::Taken
            }
            Waiting::End(header) if wire::direction(header) != end.direction => Fate::Closed,
            _ => Fate::Refused,
        }
    }

    /// Take a chunk; `room` is the memory that may be added.
    pub fn chunk<D: Describe>(
        &mut self,
        chunk: &Chunk,
        room: usize,
        limits: &Limits,
        lines: &mut Lines<D>,
    ) -> Fate {
        let direction = chunk.direction();
        if chunk.flags() & !wire::HARMLESS_FLAGS != 0 {
            return Fate::Refused;
        }
        match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            Waiting::Nothing => {}
            Waiting::Message(mut pieces) => {
                let fate = self.piece(&mut pieces, chunk, room, limits, lines);
                if fate == Fate::Refused || pieces.left > 0 {
                    self.waiting = Waiting::Message(pieces);
                }
                return fate;
            }
            ended => {
                self.waiting = ended;
                return Fate::Refused;
            }
        }
        if self.state.next[direction].map_or(false, |next| next != chunk.position()) {
            return Fate::Refused;
        }
        let head = match Head::parse(chunk.payload, limits.head, std::mem::take(&mut lines.spare)) {
            None => return Fate::Refused,
            Some(head) => head,
        };
        let size = match self.body_size(&head, chunk.payload, chunk, limits) {
            None => return Fate::Refused,
            Some(size) => head.size + size,
        };
        match size.checked_sub(chunk.payload.len()) {
            None => Fate::Refused,
            Some(0) => {
                let first = (chunk.header, chunk.payload);
                let fate = self.emit(&head, chunk.payload, first, chunk, room, limits, lines);
                lines.spare = head.fields;
                lines.spare.clear();
                fate
            }
            Some(left) => {
                let cost = WAITING_SIZE
                    + WAITING_OF_HEAD * head.size
                    + WAITING_OF_BODY * (size - head.size);
                if cost > room || self.held() + cost > limits.connection {
                    return Fate::Refused;
                }
                let (headers, data) = (vec![*chunk.header], chunk.payload.to_vec());
                let pieces = Pieces { head, headers, data, left, cost };
                self.waiting = Waiting::Message(Box::new(pieces));
                Fate::Taken
            }
        }
    }

    /// Take another piece of the message that waits.
    fn piece<D: Describe>(
        &mut self,
        pieces: &mut Pieces,
        chunk: &Chunk,
        room: usize,
        limits: &Limits,
        lines: &mut Lines<D>,
    ) -> Fate {
        let (first, last) = match (pieces.headers.first(), pieces.headers.last()) {
            (Some(first), Some(last)) => (*first, last),
            _ => return Fate::Refused,
        };
        let next = wire::position(last) + wire::captured(last) as u64;
        if wire::direction(last) != chunk.direction() || next != chunk.position() {
            return Fate::Refused;
        }
        let left = match pieces.left.checked_sub(chunk.payload.len()) {
            None => return Fate::Refused,
            Some(left) => left,
        };
        let before = (pieces.data.len(), pieces.left);
        pieces.data.extend_from_slice(chunk.payload);
        pieces.left = left;
        if left > 0 {
            pieces.headers.push(*chunk.header);
            return Fate::Taken;
        }
        let payload = &pieces.data[..wire::captured(&first)];
        let fate =
            self.emit(&pieces.head, &pieces.data, (&first, payload), chunk, room, limits, lines);
        if fate == Fate::Refused {
            pieces.data.truncate(before.0);
            pieces.left = before.1;
        }
        fate
    }

    /// Return the size of the body after `head`; `None` if that message is not usual here.
    fn body_size(&self, head: &Head, data: &[u8], chunk: &Chunk, limits: &Limits) -> Option<usize> {
        let state = &self.state;
        let is_request = chunk.direction() == state.requests;
        if !head.content_type.clone().map_or(true, |range| is_utf8_type(&data[range])) {
            return None;
        }
        let rest = data.len() - head.size;
        // Only whole in this call; emit() looks at the chunks.
        let length =
            if head.is_chunked { Some(rest).filter(|&rest| rest > 0) } else { head.length };
        let size = match (&head.start, &state.request) {
            // A second request in flight is pipelined.
            (Start::Request { method, target }, None) if is_request => {
                let host = head.host.clone().map_or(0, |host| host.len());
                if &data[method.clone()] == b"CONNECT"
                    || method.len() + target.len() + host >= REPEATED
                {
                    return None;
                }
                if head.is_chunked {
                    length?
                } else {
                    length.unwrap_or(0)
                }
            }
            (Start::Response { status, .. }, Some(request)) if !is_request => {
                // RFC 9112, 6.3: a tunnel may begin. Python lends connections with such a request.
                if request.method() == b"CONNECT" {
                    return None;
                }
                if *status < 200 || wire::time(&request.header) > chunk.time() {
                    return None;
                }
                // RFC 9112, 6.3: these have no body, whatever the fields state.
                if matches!(status, 204 | 304) || request.method() == b"HEAD" {
                    0
                } else {
                    length?
                }
            }
            _ => return None,
        };
        (size <= limits.body).then_some(size)
    }

    /// Write the line of a message: `data`, whose `first` record came before or is `last`.
    #[allow(clippy::too_many_arguments)]
    fn emit<D: Describe>(
        &mut self,
        head: &Head,
        data: &[u8],
        first: (&[u8; EVENT_SIZE], &[u8]),
        last: &Chunk,
        room: usize,
        limits: &Limits,
        lines: &mut Lines<D>,
    ) -> Fate {
        let direction = last.direction();
        let is_request = direction == self.state.requests;
        let rest = &data[head.size..];
        let content = match head.is_chunked && !rest.is_empty() {
            false => None,
            true => match dechunked(rest) {
                None => return Fate::Refused,
                content => content,
            },
        };
        let body = content.as_deref().unwrap_or(rest);
        // What is not UTF-8 becomes base64.
        if std::str::from_utf8(rest).is_err()
            || (content.is_some() && std::str::from_utf8(body).is_err())
        {
            return Fate::Refused;
        }
        let mut request = match &head.start {
            Start::Response { .. } => None,
            Start::Request { method, target } => {
                let request = Request::of_head(first.0, first.1, (method, target), head, data);
                let size = request.size();
                if size > room || CONNECTION_SIZE + size > limits.connection {
                    return Fate::Refused;
                }
                Some(request)
            }
        };
        let header = first.0;
        let known = self.movers[direction].as_ref().map_or(false, |mover| {
            mover.generation == lines.describer.generation()
                && mover.wire == wire::Mover::of(header)
        });
        if !known {
            match lines.describer.describe(header) {
                None => return Fate::Refused,
                described => self.movers[direction] = described,
            }
        }
        if !self.ends.as_ref().map_or(false, |ends| ends.are_of(header)) {
            self.ends = Some(Ends::new(header));
        }
        let (mover, ends) = match (&self.movers[direction], &self.ends) {
            (Some(mover), Some(ends)) => (mover, ends),
            _ => return Fate::Refused,
        };
        if self.peer.is_none() && !self.met[direction] {
            let socket = last.socket();
            if !lines.peers.has_met(socket, direction) {
                let sequence = wire::sequence(header);
                // The plain text of TLS has no number; its ends identify it, if they are known.
                let is_identified = if wire::is_tls(header) {
                    !ends.connection().is_empty()
                } else {
                    sequence != 0
                };
                let identity = if is_identified {
                    Direction::new(ends.connection_id(), is_request, sequence)
                } else {
                    None
                };
                lines.peers.meet(socket, direction, identity, &mover.peer);
            }
            self.peer = lines.peers.other(socket).cloned();
            self.met[direction] = true;
        }
        let asked = self.state.request.as_ref();
        let judged = match lines.judge(head, data, header, last.time(), mover.leaves, asked) {
            None => return Fate::Refused,
            Some(judged) => judged,
        };
        let before = lines.out.len();
        if let (Some(Verdict::Matches), Some(filtered)) =
            (judged.asked, asked.and_then(|asked| asked.filtered.as_ref()))
        {
            lines.out.extend_from_slice(filtered.shown.as_ref().unwrap_or(&filtered.line));
        }
        let number = self.state.count + u64::from(is_request);
        let start = lines.out.len();
        let parts = (mover.as_ref(), ends, self.peer.as_deref().unwrap_or_default());
        let message = (head, data, body);
        let is_shown = !matches!(judged.own, Verdict::Dropped(_));
        let redaction = match lines.redact(message, asked, is_shown) {
            None => {
                lines.out.truncate(before);
                return Fate::Refused;
            }
            Some(redaction) => redaction,
        };
        let time = last.time();
        if let (Some(leaves), Some(request)) = (judged.leaves, &mut request) {
            // Python needs it if it takes the connection back before the response.
            if !lines.write(message, None, header, time, parts, number, asked) {
                lines.out.truncate(before);
                return Fate::Refused;
            }
            let line = lines.out[start..].to_vec();
            let (netns, is_open) = (lines.netns(header), judged.own == Verdict::Open);
            let mut shown = None;
            if judged.own != Verdict::Matches || redaction.is_some() {
                lines.out.truncate(start);
            }
            if redaction.is_some() {
                lines.write(message, redaction.as_deref(), header, time, parts, number, asked);
                if is_open {
                    shown = Some(lines.out.split_off(start));
                }
            }
            request.filtered = Some(Box::new(Filtered { leaves, netns, is_open, line, shown }));
            if request.size() > room {
                lines.out.truncate(before);
                return Fate::Refused;
            }
        } else if is_shown
            && !lines.write(message, redaction.as_deref(), header, time, parts, number, asked)
        {
            lines.out.truncate(before);
            return Fate::Refused;
        }
        if let Some(verdict) = judged.asked {
            lines.count(verdict, true);
        }
        lines.count(judged.own, is_request);
        let state = &mut self.state;
        if state.next[direction].is_none() {
            state.sequences[direction] = wire::sequence(header);
        }
        state.next[direction] = Some(last.end());
        state.times[direction] = last.time();
        state.count = number;
        state.request = request;
        Fate::Taken
    }
}

/// What a filter decides when a message comes.
struct Judged {
    /// On the request that waited for this response.
    asked: Option<Verdict>,
    own: Verdict,
    /// The leaves that hold for a request.
    leaves: Option<u64>,
}

impl<D> Lines<D> {
    /// Redact a message if it is shown and secrets are hidden; `None`: Python must.
    #[inline]
    fn redact(
        &mut self,
        (head, data, content): (&Head, &[u8], &[u8]),
        asked: Option<&Request>,
        is_shown: bool,
    ) -> Option<Option<Box<Redaction>>>
    where
        D: Redact,
    {
        match &mut self.redactor {
            Some(redactor) if is_shown => {
                let asked = asked.map(|asked| (asked.target(), asked.host()));
                let redaction = redactor.redact(&mut self.describer, head, data, content, asked)?;
                Some(Some(Box::new(redaction)))
            }
            _ => Some(None),
        }
    }

    /// Apply the filter to a message, which `asked` came before; `None`: Python must.
    #[inline]
    fn judge(
        &self,
        head: &Head,
        data: &[u8],
        header: &[u8; EVENT_SIZE],
        last_time: u64,
        of_mover: u64,
        asked: Option<&Request>,
    ) -> Option<Judged> {
        match &self.filter {
            None => Some(Judged { asked: None, own: Verdict::Matches, leaves: None }),
            Some(filter) => {
                self.judge_with(filter, head, data, (header, last_time), of_mover, asked)
            }
        }
    }

    #[inline(never)]
    fn judge_with(
        &self,
        filter: &Filter,
        head: &Head,
        data: &[u8],
        (header, last_time): (&[u8; EVENT_SIZE], u64),
        of_mover: u64,
        asked: Option<&Request>,
    ) -> Option<Judged> {
        let sent = header[1] == 0;
        let asked = match asked {
            None => {
                let leaves = filter.of_request(head, data, sent, of_mover)?;
                let own = filter.decide_early(leaves);
                return Some(Judged { asked: None, own, leaves: Some(leaves) });
            }
            Some(asked) => asked,
        };
        let times = passed(asked, wire::time(header), last_time)?;
        // Messages of two network namespaces are none of one exchange.
        let before = asked.filtered.as_ref().filter(|one| one.netns == self.netns(header))?;
        let leaves = filter.of_response(head, data, sent, of_mover, times);
        Some(Judged {
            asked: before.is_open.then(|| filter.decide_late(before.leaves, leaves)),
            own: filter.decide_late(leaves, before.leaves),
            leaves: None,
        })
    }

    /// Return the network namespace in the line of a message.
    fn netns(&self, header: &[u8; EVENT_SIZE]) -> Option<u32> {
        let is_known = !wire::is_tls(header) || self.sessions.has_socket(header);
        is_known.then(|| wire::netns(header))
    }

    /// Count a message that is written or dropped.
    #[inline]
    fn count(&mut self, verdict: Verdict, is_request: bool) {
        match (verdict, is_request) {
            (Verdict::Matches, true) => self.requests += 1,
            (Verdict::Matches, false) => self.responses += 1,
            (Verdict::Open, _) => {}
            (Verdict::Dropped(index), _) => {
                if let Some(count) = self.dropped.get_mut(index) {
                    *count += 1;
                }
            }
        }
    }

    /// Write a line; return whether its times fit one.
    #[allow(clippy::too_many_arguments)]
    fn write(
        &mut self,
        message: (&Head, &[u8], &[u8]),
        redaction: Option<&Redaction>,
        header: &[u8; EVENT_SIZE],
        last_time: u64,
        parts: (&Mover, &Ends, &[u8]),
        number: u64,
        asked: Option<&Request>,
    ) -> bool {
        // Compiled twice, so that a line without redaction does not pay for it.
        match redaction {
            None => self.write_with(message, None, header, last_time, parts, number, asked),
            some => self.write_with(message, some, header, last_time, parts, number, asked),
        }
    }

    /// Write a line, with the keys in the order of `record.py`; return whether its times fit one.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn write_with(
        &mut self,
        (head, data, content): (&Head, &[u8], &[u8]),
        redaction: Option<&Redaction>,
        header: &[u8; EVENT_SIZE],
        last_time: u64,
        (mover, ends, peer): (&Mover, &Ends, &[u8]),
        number: u64,
        asked: Option<&Request>,
    ) -> bool {
        let out = &mut self.out;
        let time = wire::time(header);
        out.reserve(512 + 3 * data.len());
        out.extend_from_slice(b"{\"timestamp\":\"");
        if !self.clock.timestamp(out, i128::from(time) + self.offset) {
            return false;
        }
        out.extend_from_slice(b"\",");
        let process = if redaction.is_some() { &mover.shown } else { &mover.process };
        out.extend_from_slice(process);
        out.extend_from_slice(ends.addresses(usize::from(header[1])));
        out.extend_from_slice(b"\"bytes\":");
        json::integer(out, data.len() as u64);
        let start = redaction.and_then(|redaction| redaction.start.as_deref());
        let values = redaction.map_or(&[][..], |redaction| &redaction.values);
        match &head.start {
            Start::Request { method, target } => {
                out.extend_from_slice(b",\"method\":\"");
                part(out, data, method.clone(), head.is_plain);
                out.extend_from_slice(b"\",\"url\":\"");
                shown(out, data, target.clone(), head.is_plain, start);
            }
            Start::Response { status, reason } => {
                out.extend_from_slice(b",\"status_code\":");
                json::integer(out, u64::from(*status));
                out.extend_from_slice(b",\"reason\":\"");
                shown(out, data, reason.clone(), head.is_plain, start);
            }
        }
        out.extend_from_slice(b"\",\"http_version\":\"");
        out.extend_from_slice(&[b'1', b'.', head.minor]);
        out.extend_from_slice(b"\",\"headers\":{");
        fields(out, head, data, values);
        out.extend_from_slice(b"},\"body\":\"");
        let body = out.len();
        json::escape(out, redaction.and_then(|one| one.body.as_deref()).unwrap_or(content));
        let body = body..out.len();
        if !redaction.map_or(false, |redaction| redaction.removes_payload) {
            out.extend_from_slice(b"\",\"raw_payload\":\"");
            raw_head(out, head, data, (start, values));
            if head.is_chunked {
                json::escape(out, &data[head.size..]);
            } else {
                out.extend_from_within(body);
            }
        }
        let sent = header[1] == 0;
        let is_request = matches!(head.start, Start::Request { .. });
        let kind: &[u8] = match (is_request, sent) {
            (true, true) => b"\",\"type\":\"request\",\"role\":\"client\",\"exchange\":\"",
            (true, false) => b"\",\"type\":\"request\",\"role\":\"server\",\"exchange\":\"",
            (false, true) => b"\",\"type\":\"response\",\"role\":\"server\",\"exchange\":\"",
            (false, false) => b"\",\"type\":\"response\",\"role\":\"client\",\"exchange\":\"",
        };
        out.extend_from_slice(kind);
        out.extend_from_slice(ends.number());
        out.push(b'-');
        json::integer(out, number);
        out.push(b'"');
        if !is_request {
            let request = match asked {
                None => return false,
                Some(request) => request,
            };
            text(out, b",\"request\":{\"method\":\"", request.method());
            let target = redaction.and_then(|redaction| redaction.target.as_deref());
            text(out, b",\"url\":\"", target.unwrap_or_else(|| request.target()));
            if let Some(host) = request.host() {
                let shown = redaction.and_then(|redaction| redaction.host.as_deref());
                text(out, b",\"host\":\"", shown.unwrap_or(host));
            }
            out.push(b'}');
            let passed = match passed(request, time, last_time) {
                None => return false,
                Some(passed) => passed,
            };
            out.extend_from_slice(b",\"latency_ms\":");
            let latency = out.len();
            json::milliseconds(out, passed[0]);
            let latency = latency..out.len();
            out.extend_from_slice(b",\"duration_ms\":");
            if passed[0] == passed[1] {
                out.extend_from_within(latency);
            } else {
                json::milliseconds(out, passed[1]);
            }
        }
        out.push(b',');
        out.extend_from_slice(&mover.call);
        out.extend_from_slice(ends.connection());
        let is_tls = wire::is_tls(header);
        let sequence = wire::sequence(header);
        // Both ends of a TLS session count plain text from the handshake on.
        let counts = is_tls && !wire::is_joined(header) && self.sessions.knows(header);
        if sequence != 0 || counts {
            out.extend_from_slice(b"\"sequence\":");
            // Modulo 2**32, like TCP's numbers.
            let first = sequence.wrapping_add(wire::position(header) as u32);
            json::integer(out, u64::from(first));
            out.push(b',');
        }
        if is_tls {
            self.sessions.write(out, header, head.minor);
        } else {
            out.extend_from_slice(ends.socket());
        }
        out.extend_from_slice(&mover.thread);
        out.extend_from_slice(peer);
        out.extend_from_slice(b"\"captured\":");
        json::integer(out, data.len() as u64);
        if redaction.map_or(false, |redaction| redaction.removes_payload) {
            out.extend_from_slice(b",\"redacted\":[\"raw_payload\"]");
        }
        out.extend_from_slice(b"}\n");
        true
    }
}

/// Return the nanoseconds from a request to both times; `None`: they are not usual.
fn passed(request: &Request, first: u64, last: u64) -> Option<[u64; 2]> {
    let asked = wire::time(&request.header);
    let (first, last) = (first.checked_sub(asked)?, last.checked_sub(asked)?);
    (first.max(last) <= json::NANOSECONDS_MAX).then_some([first, last])
}

fn text(out: &mut Vec<u8>, before: &[u8], text: &[u8]) {
    out.extend_from_slice(before);
    json::escape(out, text);
    out.push(b'"');
}

/// Write the fields: names in lower case at their first place, the values of repeated ones as a list.
#[inline(always)]
fn fields(out: &mut Vec<u8>, head: &Head, data: &[u8], values: &[Shown]) {
    let mut is_quoted = false;
    for (index, field) in head.fields.iter().enumerate() {
        let same = |other: &&Field| Head::same_name(data, field, other);
        if head.repeats && head.fields[..index].iter().any(|other| same(&other)) {
            continue;
        }
        match (index, is_quoted) {
            (0, _) => out.push(b'"'),
            (_, true) => out.extend_from_slice(b"\",\""),
            (_, false) => out.extend_from_slice(b",\""),
        }
        json::lower(out, data, field.start..field.colon);
        is_quoted = !(head.repeats && head.fields[index + 1..].iter().any(|other| same(&other)));
        if is_quoted {
            out.extend_from_slice(b"\":\"");
            shown(out, data, field.value.clone(), field.is_plain, value_of(values, index));
        } else {
            let mut comma: &[u8] = b"\":[\"";
            let others = head.fields.iter().enumerate().skip(index);
            for (other_index, other) in others.filter(|(_, other)| same(other)) {
                let value = value_of(values, other_index);
                text(out, comma, value.unwrap_or(&data[other.value.clone()]));
                comma = b",\"";
            }
            out.push(b']');
        }
    }
    if is_quoted {
        out.push(b'"');
    }
}

/// Write the head as it was sent, but for what is shown instead of its parts.
#[inline(always)]
fn raw_head(
    out: &mut Vec<u8>,
    head: &Head,
    data: &[u8],
    (start, values): (Option<&[u8]>, &[Shown]),
) {
    let first = head.fields.first().map_or(head.size - 2, |field| field.start) - 2;
    match (start, &head.start) {
        (None, _) => part(out, data, 0..first, head.is_plain),
        (Some(text), Start::Request { target: replaced, .. })
        | (Some(text), Start::Response { reason: replaced, .. }) => {
            json::escape(out, &data[..replaced.start]);
            json::escape(out, text);
            json::escape(out, &data[replaced.end..first]);
        }
    }
    for (index, field) in head.fields.iter().enumerate() {
        out.extend_from_slice(b"\\r\\n");
        match value_of(values, index) {
            None => part(out, data, field.start..field.end, field.is_plain),
            Some(value) => {
                json::escape(out, &data[field.start..field.value.start]);
                json::escape(out, value);
                json::escape(out, &data[field.value.end..field.end]);
            }
        }
    }
    out.extend_from_slice(b"\\r\\n\\r\\n");
}

/// Return what is shown instead of the value of a field.
#[inline(always)]
fn value_of(values: &[Shown], index: usize) -> Option<&[u8]> {
    values.get(index)?.as_deref()
}

/// Write a part of a line of the head, or what is shown instead.
#[inline(always)]
fn shown(
    out: &mut Vec<u8>,
    data: &[u8],
    range: Range<usize>,
    is_plain: bool,
    instead: Option<&[u8]>,
) {
    match instead {
        None => part(out, data, range, is_plain),
        Some(text) => json::escape(out, text),
    }
}

/// Write a part of a line of the head.
fn part(out: &mut Vec<u8>, data: &[u8], range: Range<usize>, is_plain: bool) {
    if is_plain {
        out.extend_from_slice(&data[range]);
    } else {
        json::escape(out, &data[range]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::Kind;
    use crate::wire::Record;

    const LIMITS: Limits = Limits { head: 1000, body: 1000, connection: 1 << 20 };
    const ROOM: usize = 1 << 20;
    const SEND: u8 = 0;
    const RECV: u8 = 1;
    const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

    struct Fixed;

    impl Redact for Fixed {
        fn redact(&mut self, kind: Kind, name: &[u8], text: &[u8]) -> Option<Shown> {
            let is_secret = kind == Kind::Header && name == b"cookie" || text.contains(&b'S');
            Some(is_secret.then(|| b"hidden\""[..].into()))
        }
    }

    impl Describe for Fixed {
        fn describe(&mut self, header: &[u8; EVENT_SIZE]) -> Option<Arc<Mover>> {
            let [process, call, thread] =
                [b"\"p\":1,", b"\"c\":1,", b"\"t\":1,"].map(|part| part.to_vec());
            let wire = wire::Mover::of(header);
            let (shown, peer) = (b"\"s\":1,".to_vec(), b"\"peer\":1,"[..].into());
            Some(Arc::new(Mover {
                wire,
                generation: 0,
                process,
                shown,
                call,
                thread,
                peer,
                leaves: 0,
            }))
        }

        fn generation(&self) -> u64 {
            0
        }
    }

    struct Bench {
        connection: Connection,
        lines: Lines<Fixed>,
        positions: [u64; 2],
        time: u64,
    }

    impl Bench {
        fn new() -> Bench {
            let lines = Lines {
                out: Vec::new(),
                clock: json::Clock::default(),
                offset: 0,
                requests: 0,
                responses: 0,
                describer: Fixed,
                peers: Peers::new(10),
                sessions: Sessions::default(),
                redactor: None,
                filter: None,
                dropped: Vec::new(),
                spare: Vec::new(),
            };
            let connection = Connection::new(State::opened(0));
            Bench { connection, lines, positions: [0; 2], time: 0 }
        }

        fn record(&mut self, kind: u8, direction: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
            self.time += 1_000_000;
            let mut record = vec![0; EVENT_SIZE];
            record[..4].copy_from_slice(&[kind, direction, 2, flags]);
            record[8..16].copy_from_slice(&self.time.to_ne_bytes());
            record[32..40].copy_from_slice(&7_u64.to_ne_bytes());
            let position = &mut self.positions[usize::from(direction)];
            record[40..48].copy_from_slice(&position.to_ne_bytes());
            *position += payload.len() as u64;
            let size = payload.len() as u32;
            record[48..52].copy_from_slice(&size.to_ne_bytes());
            record[52..56].copy_from_slice(&size.to_ne_bytes());
            record[60..64].copy_from_slice(&9_u32.to_ne_bytes());
            record.extend_from_slice(payload);
            record
        }

        fn feed_within(&mut self, direction: u8, payload: &[u8], room: usize) -> Fate {
            let mut record = self.record(1, direction, 0, payload);
            record.extend_from_slice(b"what the ring adds");
            match Record::read(&record) {
                Some(Record::Chunk(chunk)) => {
                    self.connection.chunk(&chunk, room, &LIMITS, &mut self.lines)
                }
                _ => panic!("no chunk"),
            }
        }

        fn feed(&mut self, direction: u8, payload: &[u8]) -> Fate {
            self.feed_within(direction, payload, ROOM)
        }

        fn end(&mut self, direction: u8) -> Fate {
            let record = self.record(2, direction, 0, b"");
            match Record::read(&record) {
                Some(Record::End(end)) => self.connection.end(&end),
                _ => panic!("no end"),
            }
        }

        fn written(&mut self) -> String {
            String::from_utf8(std::mem::take(&mut self.lines.out)).unwrap()
        }
    }

    #[test]
    fn an_exchange() {
        let (source, dest) = (
            "\"source_ip\":\"0.0.0.0\",\"source_port\":0,",
            "\"dest_ip\":\"0.0.0.0\",\"dest_port\":0,",
        );
        let connection = "\"connection\":\"1:idwO/QHAjbcGlF1bfQE9dPuu7T0=\",";
        let mut bench = Bench::new();
        assert_eq!(bench.feed(SEND, REQUEST), Fate::Taken);
        assert_eq!(
            bench.written(),
            format!(
                "{{\"timestamp\":\"1970-01-01T00:00:00.001000000Z\",\"p\":1,{source}{dest}\
                 \"bytes\":28,\"method\":\"GET\",\"url\":\"/a\",\"http_version\":\"1.1\",\
                 \"headers\":{{\"host\":\"x\"}},\"body\":\"\",\
                 \"raw_payload\":\"GET /a HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\",\
                 \"type\":\"request\",\"role\":\"client\",\"exchange\":\"7-1\",\"c\":1,{connection}\
                 \"sequence\":9,\"socket\":7,\"netns\":0,\"t\":1,\"captured\":28}}\n"
            )
        );
        assert_eq!(bench.feed(RECV, RESPONSE), Fate::Taken);
        assert_eq!(
            bench.written(),
            format!(
                "{{\"timestamp\":\"1970-01-01T00:00:00.002000000Z\",\"p\":1,{source}{dest}\
                 \"bytes\":40,\"status_code\":200,\"reason\":\"OK\",\"http_version\":\"1.1\",\
                 \"headers\":{{\"content-length\":\"2\"}},\"body\":\"hi\",\"raw_payload\":\
                 \"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi\",\"type\":\"response\",\
                 \"role\":\"client\",\"exchange\":\"7-1\",\"request\":{{\"method\":\"GET\",\
                 \"url\":\"/a\",\"host\":\"x\"}},\"latency_ms\":1.0,\"duration_ms\":1.0,\"c\":1,\
                 {connection}\"sequence\":9,\"socket\":7,\"netns\":0,\"t\":1,\"captured\":40}}\n"
            )
        );
        assert_eq!((bench.lines.requests, bench.lines.responses), (1, 1));
        assert_eq!(bench.end(SEND), Fate::Taken);
        assert_eq!(bench.end(RECV), Fate::Closed);
    }

    #[test]
    fn repeated_fields_become_a_list_at_the_first_place() {
        let mut bench = Bench::new();
        let request = b"GET /a HTTP/1.1\r\nX-A: 1\r\nB: 2\r\nx-a: \"3\"\r\n\r\n";
        assert_eq!(bench.feed(SEND, request), Fate::Taken);
        assert!(bench
            .written()
            .contains("\"headers\":{\"x-a\":[\"1\",\"\\\"3\\\"\"],\"b\":\"2\"}"));
    }

    #[test]
    fn a_message_in_pieces_waits_and_is_given_back() {
        let mut bench = Bench::new();
        bench.feed(SEND, REQUEST);
        bench.written();
        let (head, body) = RESPONSE.split_at(38);
        assert_eq!(bench.feed(RECV, head), Fate::Taken);
        assert_eq!(bench.written(), "");
        // Out of step, so the one that waits is not disturbed.
        assert_eq!(bench.feed(SEND, REQUEST), Fate::Refused);
        assert_eq!(bench.feed(RECV, &body[..1]), Fate::Taken);
        assert_eq!(bench.feed(RECV, &body[1..]), Fate::Taken);
        assert!(bench.written().contains("\"latency_ms\":1.0,\"duration_ms\":4.0"));

        let mut bench = Bench::new();
        bench.feed(SEND, REQUEST);
        bench.feed(RECV, head);
        let (state, records) = bench.connection.into_parts();
        assert_eq!(state.next, [Some(REQUEST.len() as u64), None]);
        assert_eq!(state.request.as_ref().map(Request::target), Some(&b"/a"[..]));
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].len(), EVENT_SIZE + head.len());
    }

    #[test]
    fn refuses_what_is_not_usual() {
        let body = [&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"[..], &[0xff, 0xfe]].concat();
        let refused: [(bool, u8, &[u8]); 9] = [
            (true, RECV, RESPONSE), // nobody asked
            (false, SEND, REQUEST), // pipelined
            (true, SEND, b"CONNECT a:1 HTTP/1.1\r\n\r\n"),
            (true, SEND, b"GET /a HTTP/1.1\r\n\r\nGET"), // more than one message
            (true, RECV, REQUEST),                       // in the other direction
            (false, RECV, b"HTTP/1.1 200 OK\r\n\r\n"),   // until the close
            (false, RECV, b"HTTP/1.1 100 Continue\r\n\r\n"),
            (false, RECV, b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"),
            (false, RECV, &body),
        ];
        for (first, direction, payload) in refused {
            let mut bench = Bench::new();
            if !first {
                bench.feed(SEND, REQUEST);
                bench.written();
            }
            let held = bench.connection.held();
            assert_eq!(bench.feed(direction, payload), Fate::Refused, "{payload:?}");
            assert_eq!(bench.written(), "");
            assert!(bench.connection.held() - held < 30, "{payload:?}");
            let (state, records) = bench.connection.into_parts();
            assert_eq!((state.request.is_none(), records.len()), (first, 0));
        }
    }

    #[test]
    fn refuses_flags_and_gaps() {
        for (flags, skipped, fate) in [
            (0, 0, Fate::Taken),
            (wire::HARMLESS_FLAGS, 0, Fate::Taken),
            (2, 0, Fate::Refused),
            (4, 0, Fate::Refused),
            (8, 0, Fate::Refused),
            (128, 0, Fate::Refused),
            (0, 1, Fate::Refused),
        ] {
            let mut bench = Bench::new();
            bench.feed(SEND, REQUEST);
            bench.feed(RECV, RESPONSE);
            bench.positions[0] += skipped;
            let record = bench.record(1, SEND, flags, REQUEST);
            match Record::read(&record) {
                Some(Record::Chunk(chunk)) => {
                    let found = bench.connection.chunk(&chunk, ROOM, &LIMITS, &mut bench.lines);
                    assert_eq!(found, fate, "{flags} {skipped}");
                }
                _ => panic!("no chunk"),
            }
        }
    }

    #[test]
    fn no_body_after_head_and_204() {
        for (method, status) in [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 N")] {
            let mut bench = Bench::new();
            bench.feed(SEND, format!("{method} /a HTTP/1.1\r\n\r\n").as_bytes());
            let response = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n");
            assert_eq!(bench.feed(RECV, response.as_bytes()), Fate::Taken);
        }
    }

    #[test]
    fn refuses_the_answer_to_connect() {
        let mut bench = Bench::new();
        bench.feed(SEND, REQUEST);
        if let Some(request) = &mut bench.connection.state.request {
            *request = Request::new(&request.header, b"", b"CONNECT", b"a:1", None);
        }
        assert_eq!(bench.feed(RECV, RESPONSE), Fate::Refused);
    }

    #[test]
    fn stays_within_its_room() {
        let mut bench = Bench::new();
        assert_eq!(bench.feed_within(SEND, REQUEST, REQUEST_SIZE), Fate::Refused);
        let mut bench = Bench::new();
        bench.feed(SEND, REQUEST);
        assert_eq!(bench.feed_within(RECV, &RESPONSE[..39], WAITING_SIZE), Fate::Refused);
        // A request that was answered is not held any more.
        let mut bench = Bench::new();
        bench.feed(SEND, REQUEST);
        let held = bench.connection.held();
        bench.feed(RECV, RESPONSE);
        assert_eq!(bench.connection.held(), held - REQUEST_SIZE - REQUEST.len() - 6);
    }

    #[test]
    fn an_end_while_a_request_waits_for_its_response() {
        let mut bench = Bench::new();
        bench.feed(SEND, REQUEST);
        assert_eq!(bench.end(RECV), Fate::Refused);
        let mut bench = Bench::new();
        assert_eq!(bench.end(SEND), Fate::Taken);
        assert_eq!(bench.end(SEND), Fate::Refused);
        assert_eq!(bench.feed(SEND, REQUEST), Fate::Refused);
    }
}
