//! G5: whatever a device, or anybody else, sends has a named, counted outcome, is told where the protocol has a word for
//! it, and does not touch the devices beside it. The same for an operator's mistakes: each is an error that says where.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod connects;
mod packets;
mod payloads;
mod sockets;
mod startup;
mod support;
mod topics;
