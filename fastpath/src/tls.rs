// SPDX-License-Identifier: Apache-2.0
//! The TLS sessions whose plain text is a stream, and the handshakes of their sockets.

use rustc_hash::FxHashMap;

use crate::json;
use crate::peers::Fragment;
use crate::wire::{self, EVENT_SIZE};

/// The part of a handshake for messages of HTTP/1.0, HTTP/1.1 and other versions.
pub type Greeting = [Fragment; 3];

struct Session {
    library: Fragment,
    /// The inode of the socket that carries it; 0: unknown.
    socket: u64,
}

/// What Python knows of sessions. It limits how many there are, and forgets them here, too.
#[derive(Default)]
pub struct Sessions {
    sessions: FxHashMap<u64, Session>,
    greetings: FxHashMap<u64, Greeting>,
}

impl Sessions {
    /// Set the session of a stream. `library` is a JSON fragment.
    pub fn set(&mut self, stream: u64, library: Fragment, socket: u64) {
        self.sessions.insert(stream, Session { library, socket });
    }

    pub fn forget(&mut self, stream: u64) {
        self.sessions.remove(&stream);
    }

    /// Set what is known of the handshake on a socket.
    pub fn set_greeting(&mut self, socket: u64, greeting: Greeting) {
        self.greetings.insert(socket, greeting);
    }

    pub fn forget_greeting(&mut self, socket: u64) {
        self.greetings.remove(&socket);
    }

    /// Whether the session is known whose stream is in `header`.
    pub fn knows(&self, header: &[u8; EVENT_SIZE]) -> bool {
        self.sessions.contains_key(&wire::socket(header))
    }

    /// Whether the socket of that session is known.
    pub fn has_socket(&self, header: &[u8; EVENT_SIZE]) -> bool {
        self.sessions.get(&wire::socket(header)).map_or(false, |session| session.socket != 0)
    }

    /// Append the session, its socket and the network namespace of a message of HTTP/1.`minor`.
    pub fn write(&self, out: &mut Vec<u8>, header: &[u8; EVENT_SIZE], minor: u8) {
        let session = match self.sessions.get(&wire::socket(header)) {
            None => return,
            Some(session) => session,
        };
        out.extend_from_slice(b"\"tls\":{");
        out.extend_from_slice(&session.library);
        if let Some(greeting) = self.greetings.get(&session.socket) {
            out.extend_from_slice(&greeting[usize::from(minor - b'0').min(2)]);
        }
        // The comma of the last fragment.
        out.pop();
        out.extend_from_slice(b"},");
        if session.socket != 0 {
            out.extend_from_slice(b"\"socket\":");
            json::integer(out, session.socket);
            out.extend_from_slice(b",\"netns\":");
            json::integer(out, u64::from(wire::netns(header)));
            out.push(b',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_is_known() {
        let mut sessions = Sessions::default();
        let mut header = [0; EVENT_SIZE];
        header[32..40].copy_from_slice(&(wire::TLS_STREAM | 1).to_ne_bytes());
        header[56..60].copy_from_slice(&6_u32.to_ne_bytes());
        let written = |sessions: &Sessions, minor| {
            let mut out = Vec::new();
            sessions.write(&mut out, &header, minor);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(&sessions, b'1'), "");
        sessions.set(wire::TLS_STREAM | 1, b"\"library\":\"go\","[..].into(), 0);
        assert!(sessions.knows(&header));
        assert_eq!(written(&sessions, b'1'), "\"tls\":{\"library\":\"go\"},");
        assert!(!sessions.has_socket(&header));
        sessions.set(wire::TLS_STREAM | 1, b"\"library\":\"go\","[..].into(), 9);
        assert!(sessions.has_socket(&header));
        let greeting = [&b"\"a\":0,"[..], b"\"a\":1,", b"\"a\":2,"].map(Fragment::from);
        sessions.set_greeting(9, greeting);
        for (minor, index) in [(b'0', 0), (b'1', 1), (b'2', 2), (b'9', 2)] {
            let tls = format!("\"tls\":{{\"library\":\"go\",\"a\":{index}}},");
            assert_eq!(written(&sessions, minor), tls + "\"socket\":9,\"netns\":6,");
        }
        sessions.forget_greeting(9);
        sessions.forget(wire::TLS_STREAM | 1);
        assert_eq!(written(&sessions, b'1'), "");
    }
}
