// SPDX-License-Identifier: Apache-2.0
//! The parts of a line that depend on the ends of a connection, as `record.py` writes them.

use std::io::Write;
use std::net::Ipv6Addr;
use std::ops::Range;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;

use crate::json;
use crate::wire::{self, EVENT_SIZE};

/// IPPROTO_TCP.
const TCP: u8 = 6;

/// JSON fragments, each with a comma at its end.
pub struct Ends {
    wire: wire::Ends,
    text: Vec<u8>,
    /// Where the fragments end, in the order of the methods below, and where the socket's number does.
    stops: [usize; 4],
}

impl Ends {
    /// Return the fragments for the ends in `header`. Those of unknown ends are empty.
    pub fn new(header: &[u8; EVENT_SIZE]) -> Ends {
        let wire = wire::Ends::of(header);
        let mut text = Vec::with_capacity(320);
        let mut stops = [0; 4];
        if wire.are_known() {
            let local = endpoint(&mut text, SOURCE, wire.local());
            let remote = endpoint(&mut text, DEST, wire.remote());
            stops[0] = text.len();
            repeat(&mut text, SOURCE, remote);
            repeat(&mut text, DEST, local);
            stops[1] = text.len();
            text.extend_from_slice(b"\"connection\":\"");
            community_id(&mut text, wire.local(), wire.remote());
            text.extend_from_slice(b"\",");
            stops[2] = text.len();
        }
        text.extend_from_slice(b"\"socket\":");
        json::integer(&mut text, wire::socket(header));
        stops[3] = text.len();
        text.extend_from_slice(b",\"netns\":");
        json::integer(&mut text, u64::from(wire::netns(header)));
        text.push(b',');
        Ends { wire, text, stops }
    }

    /// Whether these are the ends in `header`, which has the same socket.
    pub fn are_of(&self, header: &[u8; EVENT_SIZE]) -> bool {
        self.wire == wire::Ends::of(header)
    }

    /// The bytes of memory that the fragments take.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// The addresses and ports of what moves in `direction`.
    pub fn addresses(&self, direction: usize) -> &[u8] {
        match direction {
            0 => &self.text[..self.stops[0]],
            _ => &self.text[self.stops[0]..self.stops[1]],
        }
    }

    /// The identifier of the connection, which is equal at both ends.
    pub fn connection(&self) -> &[u8] {
        &self.text[self.stops[1]..self.stops[2]]
    }

    /// The identifier of the connection alone; only of known ends.
    pub fn connection_id(&self) -> &[u8] {
        &self.text[self.stops[1] + b"\"connection\":\"".len()..self.stops[2] - b"\",".len()]
    }

    /// The socket and its network namespace.
    pub fn socket(&self) -> &[u8] {
        &self.text[self.stops[2]..]
    }

    /// The number of the socket.
    pub fn number(&self) -> &[u8] {
        &self.text[self.stops[2] + b"\"socket\":".len()..self.stops[3]]
    }
}

/// A packed address and a port.
type Endpoint<'a> = (&'a [u8], u16);

/// What comes before an address and before its port.
type Names = [&'static [u8]; 2];
const SOURCE: Names = [b"\"source_ip\":\"", b"\",\"source_port\":"];
const DEST: Names = [b"\"dest_ip\":\"", b"\",\"dest_port\":"];

/// Append an end; return where its address and its port are.
fn endpoint(out: &mut Vec<u8>, names: Names, end: Endpoint) -> [Range<usize>; 2] {
    out.extend_from_slice(names[0]);
    let ip = out.len();
    address(out, end.0);
    let ip = ip..out.len();
    out.extend_from_slice(names[1]);
    let port = out.len();
    json::integer(out, u64::from(end.1));
    let port = port..out.len();
    out.push(b',');
    [ip, port]
}

/// Append an end that was written before.
fn repeat(out: &mut Vec<u8>, names: Names, [ip, port]: [Range<usize>; 2]) {
    out.extend_from_slice(names[0]);
    out.extend_from_within(ip);
    out.extend_from_slice(names[1]);
    out.extend_from_within(port);
    out.push(b',');
}

/// Append a packed address in canonical form (RFC 5952), an IPv4-mapped one as IPv4.
fn address(out: &mut Vec<u8>, packed: &[u8]) {
    let packed = as_on_wire(packed);
    if let Ok(address) = <[u8; 16]>::try_from(packed) {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{}", Ipv6Addr::from(address));
        return;
    }
    for (index, byte) in packed.iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        json::integer(out, u64::from(*byte));
    }
}

/// Append the Community ID, version 1 with seed 0.
///
/// <https://github.com/corelight/community-id-spec>
fn community_id(out: &mut Vec<u8>, one: Endpoint, other: Endpoint) {
    let (one, other) = ((as_on_wire(one.0), one.1), (as_on_wire(other.0), other.1));
    let (low, high) = if one > other { (other, one) } else { (one, other) };
    let ports = [low.1.to_be_bytes(), high.1.to_be_bytes()];
    let document = [&[0, 0], low.0, high.0, &[TCP, 0], &ports[0], &ports[1]].concat();
    let mut text = [0; 28];
    // 20 bytes are 28 characters, so this cannot fail.
    let _ = STANDARD.encode_slice(sha1_smol::Sha1::from(document).digest().bytes(), &mut text);
    out.extend_from_slice(b"1:");
    out.extend_from_slice(&text);
}

/// The packets of an IPv4-mapped address (RFC 4291, 2.5.5.2) are IPv4.
fn as_on_wire(address: &[u8]) -> &[u8] {
    match address.split_at(address.len() - 4) {
        (mapped, address) if mapped == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] => address,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(family: u8, local: &[u8], remote: &[u8], ports: [u16; 2]) -> [u8; EVENT_SIZE] {
        let mut header = [0; EVENT_SIZE];
        header[2] = family;
        header[32..40].copy_from_slice(&5_u64.to_ne_bytes());
        header[56..60].copy_from_slice(&6_u32.to_ne_bytes());
        header[64..66].copy_from_slice(&ports[0].to_ne_bytes());
        header[66..68].copy_from_slice(&ports[1].to_ne_bytes());
        header[68..68 + local.len()].copy_from_slice(local);
        header[84..84 + remote.len()].copy_from_slice(remote);
        header
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn writes_the_ends() {
        let ends = Ends::new(&header(2, &[128, 232, 110, 120], &[66, 35, 250, 204], [34855, 80]));
        assert_eq!(
            text(ends.addresses(0)),
            "\"source_ip\":\"128.232.110.120\",\"source_port\":34855,\
             \"dest_ip\":\"66.35.250.204\",\"dest_port\":80,"
        );
        assert_eq!(
            text(ends.addresses(1)),
            "\"source_ip\":\"66.35.250.204\",\"source_port\":80,\
             \"dest_ip\":\"128.232.110.120\",\"dest_port\":34855,"
        );
        // From the reference implementation.
        assert_eq!(text(ends.connection()), "\"connection\":\"1:LQU9qZlK+B5F3KDmev6m5PMibrg=\",");
        assert_eq!(text(ends.connection_id()), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        assert_eq!(text(ends.socket()), "\"socket\":5,\"netns\":6,");
        assert_eq!(text(ends.number()), "5");
        let fragments = [ends.addresses(0), ends.addresses(1), ends.connection(), ends.socket()];
        assert_eq!(ends.size(), fragments.concat().len());
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mapped = |address: [u8; 4]| [&[0; 10][..], &[0xff; 2], &address].concat();
        let plain = Ends::new(&header(2, &[10, 0, 0, 1], &[10, 0, 0, 2], [1, 2]));
        let (one, other) = (mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2]));
        let ends = Ends::new(&header(10, &one, &other, [1, 2]));
        assert_eq!(text(ends.addresses(0)), text(plain.addresses(0)));
        assert_eq!(ends.connection(), plain.connection());
    }

    #[test]
    fn ipv6_is_canonical() {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        address[15] = 1;
        let ends = Ends::new(&header(10, &address, &[0; 16], [1, 2]));
        assert!(text(ends.addresses(0)).starts_with("\"source_ip\":\"2001:db8::1\","));
        assert!(text(ends.addresses(1)).starts_with("\"source_ip\":\"::\","));
    }

    #[test]
    fn unknown_ends_have_no_text() {
        let ends = Ends::new(&header(0, &[], &[], [0, 0]));
        assert!([ends.addresses(0), ends.addresses(1), ends.connection()].concat().is_empty());
        assert_eq!(text(ends.number()), "5");
    }

    #[test]
    fn knows_its_ends() {
        let known = header(2, &[1, 2, 3, 4], &[5, 6, 7, 8], [1, 2]);
        let ends = Ends::new(&known);
        assert!(ends.are_of(&known));
        for at in [2, 56, 64, 66, 68, 84] {
            let mut other = known;
            other[at] ^= 8;
            assert!(!ends.are_of(&other), "{at}");
        }
        let mut other = known;
        other[8] = 1;
        assert!(ends.are_of(&other));
    }
}
