// SPDX-License-Identifier: Apache-2.0
//! The other ends of connections, for messages of both sides: the table of `profiler/ingest/peers.py`.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

/// The longest identifier of a connection: a Community ID, version 1.
pub const CONNECTION_MAX: usize = 30;

/// A JSON fragment that describes a process as a peer, with a comma at its end.
pub type Fragment = Arc<[u8]>;

/// A direction of a connection, equal at both ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Direction {
    connection: [u8; CONNECTION_MAX],
    asks: bool,
    sequence: u32,
}

impl Direction {
    /// Return the direction with TCP's number `sequence` of its first byte. It has the requests if
    /// it `asks`. `None`: no connection has so long an identifier.
    pub fn new(connection: &[u8], asks: bool, sequence: u32) -> Option<Direction> {
        let mut padded = [0; CONNECTION_MAX];
        padded.get_mut(..connection.len())?.copy_from_slice(connection);
        Some(Direction { connection: padded, asks, sequence })
    }
}

struct Known {
    /// Sets it apart from an entry of the same socket that was forgotten.
    number: u64,
    own: Fragment,
    other: Option<Fragment>,
    looked_up: [bool; 2],
}

/// The end of a direction whose other end was not seen.
struct Waiting {
    socket: u64,
    /// Whether it sent or received.
    moved: usize,
    known: u64,
    own: Fragment,
    number: u64,
}

/// The sockets that moved messages, and their other ends; the oldest are forgotten.
pub struct Peers {
    /// How many sockets, and how many directions, are kept.
    kept: usize,
    entered: u64,
    sockets: FxHashMap<u64, Known>,
    sockets_by_age: VecDeque<u64>,
    waiting: FxHashMap<Direction, Waiting>,
    /// With the number of each. Those that were met since are left out when it is long.
    waiting_by_age: VecDeque<(Direction, u64)>,
    /// Sockets whose other end was seen after them, or that are forgotten; the user empties it.
    pub changed: Vec<u64>,
}

impl Peers {
    pub fn new(kept: usize) -> Peers {
        Peers {
            kept,
            entered: 0,
            // They never grow; the kernel gives them memory when it is touched.
            sockets: FxHashMap::with_capacity_and_hasher(kept + 1, Default::default()),
            sockets_by_age: VecDeque::with_capacity(kept + 1),
            waiting: FxHashMap::with_capacity_and_hasher(kept + 1, Default::default()),
            waiting_by_age: VecDeque::with_capacity(2 * kept + 1),
            changed: Vec::new(),
        }
    }

    /// Return the other end of a socket, if it was seen.
    pub fn other(&self, socket: u64) -> Option<&Fragment> {
        self.sockets.get(&socket)?.other.as_ref()
    }

    /// Whether `meet` would learn nothing from a message that `socket` moved in `direction`.
    pub fn has_met(&self, socket: u64, direction: usize) -> bool {
        self.sockets
            .get(&socket)
            .map_or(false, |known| known.other.is_some() || known.looked_up[direction])
    }

    /// Remember the socket that moved a message in `direction`, and look for its other end.
    ///
    /// `own` describes its process. `identity` is `None` if nothing identifies the direction.
    pub fn meet(
        &mut self,
        socket: u64,
        direction: usize,
        identity: Option<Direction>,
        own: &Fragment,
    ) {
        if !self.sockets.contains_key(&socket) {
            self.enter(socket, own);
        }
        let known = match self.sockets.get_mut(&socket) {
            None => return,
            Some(known) => known,
        };
        known.looked_up[direction] = true;
        let identity = match identity {
            None => return,
            Some(identity) => identity,
        };
        match self.waiting.remove(&identity) {
            Some(first) if first.socket != socket && first.moved != direction => {
                known.other = Some(first.own);
                let own = known.own.clone();
                match self.sockets.get_mut(&first.socket) {
                    Some(known) if known.number == first.known => {
                        known.other = Some(own);
                        self.changed.push(first.socket);
                    }
                    _ => {}
                }
            }
            _ => {
                let (number, own) = (known.number, known.own.clone());
                self.wait(
                    identity,
                    Waiting { socket, moved: direction, known: number, own, number },
                );
            }
        }
    }

    fn enter(&mut self, socket: u64, own: &Fragment) {
        self.entered += 1;
        let known =
            Known { number: self.entered, own: own.clone(), other: None, looked_up: [false; 2] };
        self.sockets.insert(socket, known);
        self.sockets_by_age.push_back(socket);
        if self.sockets.len() > self.kept {
            if let Some(oldest) = self.sockets_by_age.pop_front() {
                self.sockets.remove(&oldest);
                self.changed.push(oldest);
            }
        }
    }

    fn wait(&mut self, identity: Direction, waiting: Waiting) {
        self.entered += 1;
        let number = self.entered;
        self.waiting.insert(identity, Waiting { number, ..waiting });
        self.waiting_by_age.push_back((identity, number));
        let waits = |waiting: &FxHashMap<Direction, Waiting>, entry: &(Direction, u64)| {
            waiting.get(&entry.0).map_or(false, |known| known.number == entry.1)
        };
        if self.waiting_by_age.len() > 2 * self.kept {
            let waiting = &self.waiting;
            self.waiting_by_age.retain(|entry| waits(waiting, entry));
        }
        while self.waiting.len() > self.kept {
            match self.waiting_by_age.pop_front() {
                None => return,
                Some(oldest) if waits(&self.waiting, &oldest) => {
                    self.waiting.remove(&oldest.0);
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKING: u32 = 1000;
    const ANSWERING: u32 = 2000;
    const CONNECTION: &[u8] = b"1:LQU9qZlK+B5F3KDmev6m5PMibrg=";

    /// Whoever has the socket is described by its number.
    fn own(socket: u64) -> Fragment {
        socket.to_string().into_bytes().into()
    }

    fn meet(peers: &mut Peers, socket: u64, direction: usize, asks: bool, sequence: u32) {
        let identity = Direction::new(CONNECTION, asks, sequence);
        assert!(identity.is_some());
        if !peers.has_met(socket, direction) {
            peers.meet(socket, direction, identity, &own(socket));
        }
        assert!(peers.has_met(socket, direction));
    }

    #[test]
    fn both_ends_meet_in_the_first_direction() {
        let mut peers = Peers::new(10);
        meet(&mut peers, 1, 0, true, ASKING);
        assert_eq!((peers.other(1), &peers.changed), (None, &vec![]));
        meet(&mut peers, 2, 1, true, ASKING);
        assert_eq!((peers.other(1), peers.other(2)), (Some(&own(2)), Some(&own(1))));
        assert_eq!(peers.changed, [1]);
        assert!(peers.has_met(1, 1) && peers.has_met(2, 0));
        assert!(peers.waiting.is_empty());
    }

    #[test]
    fn other_directions_do_not_meet() {
        let mut peers = Peers::new(10);
        meet(&mut peers, 1, 0, true, ASKING);
        meet(&mut peers, 2, 1, true, ANSWERING);
        meet(&mut peers, 3, 1, false, ASKING);
        peers.meet(4, 1, Direction::new(b"1:other", true, ASKING), &own(4));
        peers.meet(5, 1, None, &own(5));
        assert!((1..6).all(|socket| peers.other(socket).is_none()));
        assert!(!peers.has_met(5, 0) && peers.has_met(5, 1));
        assert!(Direction::new(&[b'x'; CONNECTION_MAX + 1], true, 0).is_none());
    }

    #[test]
    fn two_sockets_that_sent_do_not_meet() {
        let mut peers = Peers::new(10);
        meet(&mut peers, 1, 0, true, 0);
        meet(&mut peers, 2, 0, true, 0);
        assert_eq!((peers.other(1), peers.other(2)), (None, None));
        meet(&mut peers, 3, 1, true, 0);
        assert_eq!((peers.other(1), peers.other(2)), (None, Some(&own(3))));
    }

    #[test]
    fn a_forgotten_socket_is_not_its_own_peer() {
        let mut peers = Peers::new(2);
        meet(&mut peers, 1, 0, true, ASKING);
        peers.meet(2, 0, None, &own(2));
        peers.meet(3, 0, None, &own(3));
        assert_eq!(peers.changed, [1]);
        meet(&mut peers, 1, 0, true, ASKING);
        assert_eq!(peers.other(1), None);
        meet(&mut peers, 4, 1, true, ASKING);
        assert_eq!((peers.other(1), peers.other(4)), (Some(&own(4)), Some(&own(1))));
    }

    #[test]
    fn a_forgotten_socket_is_still_a_peer() {
        let mut peers = Peers::new(2);
        meet(&mut peers, 1, 0, true, ASKING);
        peers.meet(2, 0, None, &own(2));
        peers.meet(3, 0, None, &own(3));
        peers.meet(1, 1, None, &own(1));
        peers.changed.clear();
        meet(&mut peers, 4, 1, true, ASKING);
        // The new entry of socket 1 has not met anyone.
        assert_eq!((peers.other(1), peers.other(4)), (None, Some(&own(1))));
        assert_eq!(peers.changed, [3]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut peers = Peers::new(10);
        for n in 0..1000_u32 {
            meet(&mut peers, u64::from(n), 0, true, n);
            if n % 3 > 0 {
                meet(&mut peers, u64::from(n) + 5000, 1, true, n);
            }
            assert!(peers.sockets.len() <= 10 && peers.sockets_by_age.len() <= 10);
            assert!(peers.waiting.len() <= 10 && peers.waiting_by_age.len() <= 20);
        }
        assert_eq!((peers.sockets.len(), peers.waiting.len()), (10, 10));
        // The oldest go first.
        assert!(peers.has_met(999, 0) && !peers.has_met(990, 0));
    }
}
