// SPDX-License-Identifier: Apache-2.0
//! The native fast path: takes records of the wire that make usual messages, and writes their
//! lines exactly as Python does. Everything else it refuses before any state has changed.
//!
//! `docs/notes/fastpath.md` describes what is usual.

#![forbid(unsafe_code)]

pub mod connection;
pub mod ends;
pub mod filter;
pub mod head;
pub mod inert;
pub mod json;
pub mod peers;
pub mod redact;
pub mod tls;
pub mod wire;

#[cfg(feature = "python")]
mod python;
