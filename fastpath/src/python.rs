// SPDX-License-Identifier: Apache-2.0
//! The module for Python. `profiler/ingest/fastpath.py` is its only user.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use rustc_hash::FxHashMap;

use crate::connection::{Connection, Describe, Fate, Limits, Lines, Mover, Request, State};
use crate::filter::{Condition, Filter, Leaf, Number, Text};
use crate::peers::{Direction, Peers};
use crate::redact::{Kind, Redact, Redactor, Shown};
use crate::tls::Sessions;
use crate::wire::{self, Record, EVENT_SIZE};

/// Lines are handed over in batches of about this size. Python takes a constant time for each.
const BATCH: usize = 256 * 1024;

/// Descriptions of movers that are kept: threads times system calls. All are dropped beyond that.
const MOVERS_MAX: usize = 4096;

/// Python's functions. What `function(header)` returned is kept: the parts of a line, and the leaves.
struct Describer {
    function: PyObject,
    /// `redact(kind, name, text)` returns what is shown instead of a text, or `None`.
    redact: Option<PyObject>,
    generation: u64,
    known: FxHashMap<wire::Mover, Arc<Mover>>,
}

impl Describe for Describer {
    fn describe(&mut self, header: &[u8; EVENT_SIZE]) -> Option<Arc<Mover>> {
        let wire = wire::Mover::of(header);
        if let Some(mover) = self.known.get(&wire) {
            return Some(mover.clone());
        }
        let parts = Python::with_gil(|py| {
            let parts = self.function.call1(py, (PyBytes::new(py, header),))?;
            // Extracting a vector would convert each byte from an object of its own.
            let (parts, leaves): ([Bound<PyBytes>; 5], u64) = parts.extract(py)?;
            Ok::<_, PyErr>((parts.map(|part| part.as_bytes().to_vec()), leaves))
        });
        // What raised will do so again where Python reads the record, and is reported there.
        let ([process, shown, call, thread, peer], leaves) = parts.ok()?;
        let (generation, peer) = (self.generation, peer.into());
        let mover =
            Arc::new(Mover { wire, generation, process, shown, call, thread, peer, leaves });
        if self.known.len() == MOVERS_MAX {
            self.known.clear();
        }
        self.known.insert(wire, mover.clone());
        Some(mover)
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl Redact for Describer {
    fn redact(&mut self, kind: Kind, name: &[u8], text: &[u8]) -> Option<Shown> {
        let kind = match kind {
            Kind::Header => "header",
            Kind::Url => "url",
            Kind::Reason => "reason",
            Kind::Name => "name",
            Kind::Body => "body",
        };
        let (name, text) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(text).ok()?);
        let function = self.redact.as_ref()?;
        let shown = Python::with_gil(|py| {
            let shown = function.call1(py, (kind, name, text))?;
            let shown: Option<Bound<PyBytes>> = shown.extract(py)?;
            Ok::<_, PyErr>(shown.map(|shown| shown.as_bytes().into()))
        });
        // What raised will do so again where Python reads the record.
        shown.ok()
    }
}

type PyRequest<'py> = (String, String, Option<String>, Bound<'py, PyBytes>, Bound<'py, PyBytes>);
type PyReleased<'py> =
    (PyState<'py>, Vec<Bound<'py, PyBytes>>, Option<(Bound<'py, PyBytes>, bool)>);
type PyState<'py> = ([Option<u64>; 2], [u32; 2], [u64; 2], usize, u64, Option<PyRequest<'py>>);

/// The connections that Python has leased, and those opened here.
///
/// `describe(header)` returns the parts of a line that depend on the thread, the system call and the
/// direction of a record, and the part that describes its process as a peer: five JSON fragments,
/// each with a comma at its end; and the set of the filter's leaves that hold for it. The keys of the dictionaries `known` are the sockets that Python
/// knows. `peers_kept` limits the table of peers, which serves the messages of both sides.
#[pyclass]
struct FastPath {
    connections: FxHashMap<u64, Connection>,
    lines: Lines<Describer>,
    limits: Limits,
    known: Vec<Py<PyDict>>,
    /// Whether connections may be opened here.
    opens: bool,
    /// The bytes that all connections may hold.
    room: usize,
    #[pyo3(get)]
    held: usize,
    used: u64,
}

#[pymethods]
impl FastPath {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        describe: PyObject,
        known: Vec<Py<PyDict>>,
        max_head: usize,
        max_body: usize,
        connection_memory: usize,
        peers_kept: usize,
    ) -> FastPath {
        FastPath {
            connections: FxHashMap::default(),
            lines: Lines {
                out: Vec::new(),
                clock: crate::json::Clock::default(),
                offset: 0,
                requests: 0,
                responses: 0,
                describer: Describer {
                    function: describe,
                    redact: None,
                    generation: 0,
                    known: FxHashMap::default(),
                },
                peers: Peers::new(peers_kept),
                sessions: Sessions::default(),
                redactor: None,
                filter: None,
                dropped: Vec::new(),
                spare: Vec::new(),
            },
            limits: Limits { head: max_head, body: max_body, connection: connection_memory },
            known,
            opens: false,
            room: 0,
            held: 0,
            used: 0,
        }
    }

    /// It refers to Python's side, which refers to it. The garbage collector clears that side.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let describer = &self.lines.describer;
        visit.call(&describer.function)?;
        visit.call(&describer.redact)?;
        self.known.iter().try_for_each(|known| visit.call(known))
    }

    /// Hide secrets in lines: `redact(kind, name, text)` returns what is shown instead of a text, or
    /// `None` if it has none.
    fn set_redactor(&mut self, redact: PyObject) {
        self.lines.describer.redact = Some(redact);
        self.lines.redactor = Some(Redactor::default());
    }

    /// Apply a filter, as `fastfilter.py` has compiled it. Raises ValueError if it is not valid.
    fn set_filter(&mut self, leaves: Vec<PyLeaf>, conditions: Vec<Vec<PyStep>>) -> PyResult<()> {
        let invalid = || PyValueError::new_err("the conditions of the filter are not valid");
        let leaves = leaves.into_iter().map(leaf).collect::<Option<_>>().ok_or_else(invalid)?;
        let conditions = conditions.into_iter().map(condition).collect::<Option<Vec<_>>>();
        let filter = Filter::new(leaves, conditions.ok_or_else(invalid)?).ok_or_else(invalid)?;
        self.lines.dropped = vec![0; filter.len()];
        self.lines.filter = Some(filter);
        Ok(())
    }

    /// Return how many messages each condition of the filter has dropped since the last call.
    fn dropped(&mut self) -> Vec<u64> {
        let none = vec![0; self.lines.dropped.len()];
        std::mem::replace(&mut self.lines.dropped, none)
    }

    /// Take records from index `start` on, until one is refused or a batch of lines is full.
    ///
    /// Returns the index of the next record, whether that one was refused, the lines, and how many
    /// of them are requests and responses. All connections together hold at most `room` bytes.
    /// Connections are opened only if `opens`.
    fn feed<'py>(
        &mut self,
        py: Python<'py>,
        records: &Bound<'py, PyList>,
        start: usize,
        room: usize,
        opens: bool,
    ) -> PyResult<(usize, bool, Bound<'py, PyBytes>, u64, u64)> {
        self.room = room;
        self.opens = opens;
        let mut at = start;
        let mut refused = false;
        while at < records.len() && self.lines.out.len() < BATCH {
            let item = records.get_item(at)?;
            if !item.downcast::<PyBytes>().map_or(false, |record| self.take(py, record.as_bytes()))
            {
                refused = true;
            }
            self.meet_again();
            if refused {
                break;
            }
            at += 1;
        }
        let lines = PyBytes::new(py, &self.lines.out);
        self.lines.out.clear();
        let requests = std::mem::take(&mut self.lines.requests);
        let responses = std::mem::take(&mut self.lines.responses);
        Ok((at, refused, lines, requests, responses))
    }

    /// Use this difference between CLOCK_REALTIME and the kernel's clock, in ns, from now on.
    fn set_clock(&mut self, offset: i128) {
        self.lines.offset = offset;
        self.describe_again();
    }

    /// A process has changed: ask for descriptions again.
    fn describe_again(&mut self) {
        self.lines.describer.generation += 1;
        self.lines.describer.known.clear();
    }

    /// Set the TLS session of a stream: the fragment of its library, and its socket, 0 if unknown.
    /// That of another stream is `forgotten`.
    #[pyo3(signature = (stream, library, socket, forgotten))]
    fn set_session(&mut self, stream: u64, library: &[u8], socket: u64, forgotten: Option<u64>) {
        let sessions = &mut self.lines.sessions;
        if let Some(other) = forgotten {
            sessions.forget(other);
        }
        sessions.set(stream, library.into(), socket);
    }

    /// Set the fragments of the TLS handshake on a socket: for HTTP/1.0, HTTP/1.1 and other versions.
    /// That on another socket is `forgotten`.
    #[pyo3(signature = (socket, greeting, forgotten))]
    fn set_greeting(
        &mut self,
        socket: u64,
        greeting: [Bound<'_, PyBytes>; 3],
        forgotten: Option<u64>,
    ) {
        let sessions = &mut self.lines.sessions;
        if let Some(other) = forgotten {
            sessions.forget_greeting(other);
        }
        sessions.set_greeting(socket, greeting.map(|part| part.as_bytes().into()));
    }

    /// Return the fragment of the other end of a socket; `None` if it was not seen.
    fn peer<'py>(&self, py: Python<'py>, socket: u64) -> Option<Bound<'py, PyBytes>> {
        self.lines.peers.other(socket).map(|peer| PyBytes::new(py, peer))
    }

    /// Whether `meet` would learn nothing from a message that `socket` moved in `direction`.
    fn has_met(&self, socket: u64, direction: usize) -> bool {
        self.lines.peers.has_met(socket, direction)
    }

    /// Remember the socket that moved a message, and look for its other end, as `Peers.meet`.
    ///
    /// Nothing identifies the direction if its `connection` is `None`. `own` is the fragment of the
    /// process.
    fn meet(
        &mut self,
        socket: u64,
        direction: usize,
        connection: Option<&str>,
        asks: bool,
        sequence: u32,
        own: &[u8],
    ) {
        let identity = connection.and_then(|id| Direction::new(id.as_bytes(), asks, sequence));
        self.lines.peers.meet(socket, direction, identity, &own.into());
        self.meet_again();
    }

    /// Take a connection at rest; return whether there is room for it.
    fn adopt(&mut self, socket: u64, state: PyState) -> PyResult<bool> {
        let (next, sequences, times, requests, count, request) = state;
        let request = match request {
            None => None,
            Some((method, target, host, header, payload)) => Some(Request::new(
                header.as_bytes().try_into()?,
                payload.as_bytes(),
                method.as_bytes(),
                target.as_bytes(),
                host.as_ref().map(String::as_bytes),
            )),
        };
        // A filter has a state for each request that has no response yet.
        if request.is_some() && self.lines.filter.is_some() {
            return Ok(false);
        }
        if requests > 1 || !request.as_ref().map_or(true, Request::is_short) {
            return Ok(false);
        }
        let state = State { next, sequences, times, requests, count, request };
        let mut connection = Connection::new(state);
        let size = connection.held();
        if self.held + size > self.room || size > self.limits.connection {
            return Ok(false);
        }
        self.used += 1;
        connection.used = self.used;
        if let Some(old) = self.connections.insert(socket, connection) {
            self.held -= old.held();
        }
        self.held += size;
        Ok(true)
    }

    /// Give a connection back; `None`: not here.
    ///
    /// Returns its state at rest, the records to read again, and, if there is a filter, the line of
    /// the request in the state, with whether it still waits for its response.
    fn release<'py>(&mut self, py: Python<'py>, socket: u64) -> Option<PyReleased<'py>> {
        let connection = self.connections.remove(&socket)?;
        self.held -= connection.held();
        let (state, records) = connection.into_parts();
        let filtered = state.request.as_ref().and_then(|request| request.filtered.as_ref());
        let filtered =
            filtered.map(|filtered| (PyBytes::new(py, &filtered.line), filtered.is_open));
        let request = state.request.map(|request| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (
                text(request.method()),
                text(request.target()),
                request.host().map(text),
                PyBytes::new(py, &request.header),
                PyBytes::new(py, request.payload()),
            )
        });
        let records = records.iter().map(|record| PyBytes::new(py, record)).collect();
        let State { next, sequences, times, requests, count, .. } = state;
        Some(((next, sequences, times, requests, count, request), records, filtered))
    }

    /// Return the sockets of all connections; the one that was idle longest comes first.
    fn sockets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut sockets: Vec<(u64, u64)> = self
            .connections
            .iter()
            .map(|(socket, connection)| (connection.used, *socket))
            .collect();
        sockets.sort_unstable();
        PyList::new(py, sockets.into_iter().map(|(_, socket)| socket))
    }

    fn __len__(&self) -> usize {
        self.connections.len()
    }
}

impl FastPath {
    /// Let the connections whose peers have changed look for them again.
    fn meet_again(&mut self) {
        while let Some(socket) = self.lines.peers.changed.pop() {
            if let Some(connection) = self.connections.get_mut(&socket) {
                connection.meet_again();
            }
        }
    }

    fn take(&mut self, py: Python, data: &[u8]) -> bool {
        self.used += 1;
        match Record::read(data) {
            None => false,
            Some(Record::End(end)) => {
                let connection = match self.connections.get_mut(&end.socket) {
                    // The end of a connection that nobody knows has no effect.
                    None => return self.is_unknown(py, end.socket),
                    Some(connection) => connection,
                };
                let before = connection.held();
                let fate = connection.end(&end);
                connection.used = self.used;
                self.held = self.held + connection.held() - before;
                if fate == Fate::Closed {
                    self.held -= connection.held();
                    self.connections.remove(&end.socket);
                }
                fate != Fate::Refused
            }
            Some(Record::Chunk(chunk)) => {
                let socket = chunk.socket();
                let room = self.room.saturating_sub(self.held);
                if let Some(connection) = self.connections.get_mut(&socket) {
                    let before = connection.held();
                    connection.used = self.used;
                    let fate = connection.chunk(&chunk, room, &self.limits, &mut self.lines);
                    self.held = self.held + connection.held() - before;
                    return fate != Fate::Refused;
                }
                // Others are joined, have a PROXY header, HTTP/2's preface or a response first.
                let begins = chunk.payload.first().map_or(false, u8::is_ascii_uppercase)
                    && !chunk.payload.starts_with(b"PR")
                    && !chunk.payload.starts_with(b"HTTP/");
                if !begins
                    || chunk.flags() != 0
                    || chunk.position() != 0
                    || !self.opens
                    || !self.is_unknown(py, socket)
                {
                    return false;
                }
                let mut connection = Connection::new(State::opened(chunk.direction()));
                connection.used = self.used;
                let room = match room.checked_sub(connection.held()) {
                    None => return false,
                    Some(room) => room,
                };
                if connection.chunk(&chunk, room, &self.limits, &mut self.lines) == Fate::Refused {
                    return false;
                }
                self.held += connection.held();
                self.connections.insert(socket, connection);
                true
            }
        }
    }

    /// Whether Python does not know a socket.
    fn is_unknown(&self, py: Python, socket: u64) -> bool {
        // An error is left to Python.
        socket.into_pyobject(py).map_or(false, |socket| {
            self.known.iter().all(|known| matches!(known.bind(py).contains(&socket), Ok(false)))
        })
    }
}

/// A leaf of `fastfilter.py`: field, sign, text, and the least and the most number.
type PyLeaf<'py> = (String, String, Bound<'py, PyBytes>, f64, f64);
/// Part of a condition in postfix notation: what it is, and the index of a leaf or how many results
/// it takes.
type PyStep = (String, usize);

fn leaf((field, sign, text, least, most): PyLeaf) -> Option<Leaf> {
    let word = text.as_bytes().to_vec();
    let text = match sign.as_str() {
        "?" => Text::Exists,
        "=" => Text::Equals(word),
        "~" => Text::Glob(word),
        // Of numbers.
        _ => Text::Exists,
    };
    let number = match sign.as_str() {
        "?" => Number::Exists,
        "=" => Number::Within(least, most),
        "<" => Number::Less(least),
        "<=" => Number::LessOrEqual(least),
        ">" => Number::Greater(least),
        ">=" => Number::GreaterOrEqual(least),
        _ => Number::Exists,
    };
    Some(match field.as_str() {
        "mover" => Leaf::Mover,
        "role" => Leaf::IsClient(matches!(&text, Text::Equals(word) if word == b"client")),
        "method" => Leaf::Method(text),
        "url" => Leaf::Url(text),
        "path" => Leaf::Path(text),
        "host" => Leaf::Host(text),
        "status" => Leaf::Status(number),
        "interim" => Leaf::Interim,
        "latency" => Leaf::Latency(number),
        "duration" => Leaf::Duration(number),
        _ => Leaf::Header(field.strip_prefix("header.")?.as_bytes().to_vec(), text),
    })
}

fn condition(steps: Vec<PyStep>) -> Option<Condition> {
    let mut results: Vec<Condition> = Vec::new();
    for (step, number) in steps {
        if step == "leaf" {
            results.push(Condition::Leaf(number));
            continue;
        }
        let mut last = results.split_off(results.len().checked_sub(number)?);
        results.push(match step.as_str() {
            "not" => Condition::Not(Box::new(last.pop()?)),
            "every" => Condition::Every(last),
            "some" => Condition::Some(last),
            _ => return None,
        });
    }
    results.pop()
}

/// The number of what Python calls here and what it is given: `profiler/ingest/fastpath.py` has it
/// too, and changes with this one.
const INTERFACE: u32 = 4;

#[pymodule]
fn http_profiler_fastpath(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<FastPath>()
}
