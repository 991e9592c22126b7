// SPDX-License-Identifier: Apache-2.0
//! Reads records of the wire: `struct event` of `bpf/event.h`, as `profiler/ingest/wire.py` does.

/// The size of a record without its payload.
pub const EVENT_SIZE: usize = 116;

const CHUNK: u8 = 1;
const END: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// FLAG_JOINED and FLAG_CONTINUED matter only where it is unknown what comes next.
pub const HARMLESS_FLAGS: u8 = FLAG_JOINED | 16;
pub const FLAG_JOINED: u8 = 1;
/// Names the plain text of a TLS session; no inode has this bit.
pub const TLS_STREAM: u64 = 1 << 63;
/// Sums of positions and sizes stay within 64 bits.
const POSITION_MAX: u64 = 1 << 62;

/// Which thread moved bytes in which direction, by which system call.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mover {
    direction: u8,
    syscall: [u8; 4],
    pid_tid_start: [u8; 16],
    comm: [u8; 16],
}

impl Mover {
    pub fn of(header: &[u8; EVENT_SIZE]) -> Mover {
        Mover {
            direction: header[1],
            syscall: bytes(header, 4),
            pid_tid_start: bytes(header, 16),
            comm: bytes(header, 100),
        }
    }
}

/// Both ends of a socket: family, network namespace, ports and addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    family: u8,
    netns: [u8; 4],
    ports: [u8; 4],
    local: [u8; 16],
    remote: [u8; 16],
}

impl Ends {
    pub fn of(header: &[u8; EVENT_SIZE]) -> Ends {
        Ends {
            family: header[2],
            netns: bytes(header, 56),
            ports: bytes(header, 64),
            local: bytes(header, 68),
            remote: bytes(header, 84),
        }
    }

    /// Whether the addresses are known.
    pub fn are_known(&self) -> bool {
        self.family != 0
    }

    /// The packed address and the port of this end.
    pub fn local(&self) -> (&[u8], u16) {
        (&self.local[..self.size()], u16::from_ne_bytes([self.ports[0], self.ports[1]]))
    }

    /// The packed address and the port of the other end.
    pub fn remote(&self) -> (&[u8], u16) {
        (&self.remote[..self.size()], u16::from_ne_bytes([self.ports[2], self.ports[3]]))
    }

    fn size(&self) -> usize {
        if self.family == AF_INET {
            4
        } else {
            16
        }
    }
}

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
                // It may be unknown which socket carries a TLS session.
                let is_usual =
                    matches!(header[2], AF_INET | AF_INET6) || (header[2] == 0 && is_tls(header));
                if !is_usual {
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
}

/// Nanoseconds of the kernel's clock.
pub fn time(header: &[u8; EVENT_SIZE]) -> u64 {
    u64_at(header, 8)
}

/// The direction that the bytes moved in.
pub fn direction(header: &[u8; EVENT_SIZE]) -> usize {
    usize::from(header[1])
}

/// The size of the payload.
pub fn captured(header: &[u8; EVENT_SIZE]) -> usize {
    u32_at(header, 52) as usize
}

/// Whether the bytes are the plain text of a TLS session.
pub fn is_tls(header: &[u8; EVENT_SIZE]) -> bool {
    socket(header) >= TLS_STREAM
}

/// Whether the connection carried bytes before those that were seen.
pub fn is_joined(header: &[u8; EVENT_SIZE]) -> bool {
    header[3] & FLAG_JOINED != 0
}

/// TCP's sequence number of position 0; 0 if unknown.
pub fn sequence(header: &[u8; EVENT_SIZE]) -> u32 {
    u32_at(header, 60)
}

/// The position of the first byte.
pub fn position(header: &[u8; EVENT_SIZE]) -> u64 {
    u64_at(header, 40)
}

fn u32_at(header: &[u8; EVENT_SIZE], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(header, at))
}

fn u64_at(header: &[u8; EVENT_SIZE], at: usize) -> u64 {
    u64::from_ne_bytes(bytes(header, at))
}

fn bytes<const N: usize>(header: &[u8; EVENT_SIZE], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

/// The network namespace of the socket.
pub fn netns(header: &[u8; EVENT_SIZE]) -> u32 {
    u32_at(header, 56)
}

/// The inode of the socket.
pub fn socket(header: &[u8; EVENT_SIZE]) -> u64 {
    u64_at(header, 32)
}
