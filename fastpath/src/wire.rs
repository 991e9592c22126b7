// SPDX-License-Identifier: Apache-2.0
//! Reads records of the wire: `struct event` of `bpf/event.h`, as `profiler/ingest/wire.py` does.

/// The size of a record without its payload.
pub const EVENT_SIZE: usize = 116;

const CHUNK: u8 = 1;
const END: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// FLAG_JOINED and FLAG_CONTINUED matter only where it is unknown what comes next.
pub const HARMLESS_FLAGS: u8 = 1 | 16;
const TLS_STREAM: u64 = 1 << 63;
/// Sums of positions and sizes stay within 64 bits.
const POSITION_MAX: u64 = 1 << 62;

/// What a connection's records share in one direction: all but flags, time, socket and stream.
const WHO: [std::ops::Range<usize>; 4] = [1..3, 4..8, 16..32, 64..116];
const NETNS: std::ops::Range<usize> = 56..60;

/// A chunk of a TCP stream that was captured whole.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    pub header: &'a [u8; EVENT_SIZE],
    pub payload: &'a [u8],
}

/// The end of one direction.
#[derive(Clone, Copy)]
pub struct End<'a> {
    pub header: &'a [u8; EVENT_SIZE],
    pub direction: usize,
    pub socket: u64,
    pub position: u64,
}

/// A record that the fast path may take.
pub enum Record<'a> {
    Chunk(Chunk<'a>),
    End(End<'a>),
}

impl<'a> Record<'a> {
    /// Return the record; `None` if it is of another kind, damaged or unusual.
    pub fn read(data: &'a [u8]) -> Option<Record<'a>> {
        let header: &[u8; EVENT_SIZE] = data.get(..EVENT_SIZE)?.try_into().ok()?;
        let direction = usize::from(header[1]);
        let position = u64_at(header, 40);
        if direction > 1 || position > POSITION_MAX {
            return None;
        }
        match header[0] {
            CHUNK => {
                let (size, captured) = (u32_at(header, 48), u32_at(header, 52) as usize);
                if size as usize != captured || captured == 0 {
                    return None;
                }
                if !matches!(header[2], AF_INET | AF_INET6) || u64_at(header, 32) >= TLS_STREAM {
                    return None;
                }
                let payload = data.get(EVENT_SIZE..EVENT_SIZE + captured)?;
                Some(Record::Chunk(Chunk { header, payload }))
            }
            END => {
                Some(Record::End(End { header, direction, socket: u64_at(header, 32), position }))
            }
            _ => None,
        }
    }
}

impl Chunk<'_> {
    pub fn direction(&self) -> usize {
        usize::from(self.header[1])
    }

    pub fn flags(&self) -> u8 {
        self.header[3]
    }

    pub fn socket(&self) -> u64 {
        u64_at(self.header, 32)
    }

    pub fn position(&self) -> u64 {
        u64_at(self.header, 40)
    }

    /// The position after the last byte.
    pub fn end(&self) -> u64 {
        self.position() + self.payload.len() as u64
    }

    pub fn time(&self) -> u64 {
        time(self.header)
    }

    /// The bytes of the record, without what the ring adds after them.
    pub fn record(&self) -> Vec<u8> {
        [&self.header[..], self.payload].concat()
    }
}

/// Nanoseconds of the kernel's clock.
pub fn time(header: &[u8; EVENT_SIZE]) -> u64 {
    u64_at(header, 8)
}

/// TCP's sequence number of position 0; 0 if unknown.
pub fn sequence(header: &[u8; EVENT_SIZE]) -> u32 {
    u32_at(header, 60)
}

/// The position of the first byte.
pub fn position(header: &[u8; EVENT_SIZE]) -> u64 {
    u64_at(header, 40)
}

/// Whether the same thread moved both, by the same system call, on one connection.
pub fn same_mover(one: &[u8; EVENT_SIZE], other: &[u8; EVENT_SIZE]) -> bool {
    WHO.iter().chain([&NETNS]).all(|range| one[range.clone()] == other[range.clone()])
}

fn u32_at(header: &[u8; EVENT_SIZE], at: usize) -> u32 {
    u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn u64_at(header: &[u8; EVENT_SIZE], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_ne_bytes(bytes)
}

/// The inode of the socket.
pub fn socket(header: &[u8; EVENT_SIZE]) -> u64 {
    u64_at(header, 32)
}
