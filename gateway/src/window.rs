//! The ack window: the publishes of one connection that wait for their receipts, in publish order.
//!
//! Only the head is ever polled, so a delivery further back wakes nobody, and acknowledgements leave in the order the
//! publishes came (MQTT5 4.6.0-2, G2). The window knows items and bytes; it never reads, writes or waits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use penstock_kafka::{DeliveryError, Receipt};

use crate::mqtt::{PacketId, ReasonCode};

/// What the device is owed when the receipt of a publish resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// QoS 0: nothing.
    None,
    /// QoS 1: a PUBACK.
    PubAck(PacketId, ReasonCode),
    /// QoS 2: a PUBREC.
    PubRec(PacketId, ReasonCode),
}

impl Ack {
    /// The same ack with another reason code.
    pub const fn with_reason(self, reason: ReasonCode) -> Self {
        match self {
            Self::None => Self::None,
            Self::PubAck(id, _) => Self::PubAck(id, reason),
            Self::PubRec(id, _) => Self::PubRec(id, reason),
        }
    }
}

/// A publish that waits for its receipt.
#[derive(Debug)]
struct Entry {
    receipt: Receipt,
    ack: Ack,
    bytes: usize,
    received_at_ms: i64,
}

/// A publish whose receipt has resolved.
#[derive(Debug)]
pub struct Resolved {
    /// What the device is owed if the delivery succeeded.
    pub ack: Ack,
    /// When the publish was received, in milliseconds since the Unix epoch.
    pub received_at_ms: i64,
    /// Whether Kafka has it.
    pub delivery: Result<(), DeliveryError>,
}

/// Publishes that wait for their receipts, first in, first out.
#[derive(Debug)]
pub struct AckWindow {
    entries: VecDeque<Entry>,
    bytes: usize,
    items_max: usize,
    bytes_max: usize,
}

impl AckWindow {
    /// An empty window for at most this many publishes and payload bytes.
    pub const fn new(items_max: usize, bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, items_max, bytes_max }
    }

    /// Whether a publish with a payload of this many bytes fits. Into an empty window any publish fits.
    pub fn fits(&self, bytes: usize) -> bool {
        self.entries.is_empty()
            || (self.entries.len() < self.items_max && self.bytes.saturating_add(bytes) <= self.bytes_max)
    }

    /// Puts a publish behind all others.
    pub fn push(&mut self, receipt: Receipt, ack: Ack, bytes: usize, received_at_ms: i64) {
        self.bytes += bytes;
        self.entries.push_back(Entry { receipt, ack, bytes, received_at_ms });
    }

    /// Takes the first publish once its receipt has resolved; pending while it has not, and while the window is empty.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Resolved> {
        let Some(head) = self.entries.front_mut() else { return Poll::Pending };
        let Poll::Ready(delivery) = Pin::new(&mut head.receipt).poll(cx) else { return Poll::Pending };
        let resolved = Resolved { ack: head.ack, received_at_ms: head.received_at_ms, delivery };
        self.bytes -= head.bytes;
        self.entries.pop_front();
        if self.entries.is_empty() {
            // An idle connection keeps no room for a burst that is over.
            self.entries.shrink_to(4);
        }
        Poll::Ready(resolved)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use penstock_kafka::{Completion, receipt};

    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    fn push(window: &mut AckWindow, packet_id: u16, bytes: usize) -> Completion {
        let (completion, receipt) = receipt();
        window.push(receipt, Ack::PubAck(id(packet_id), ReasonCode::Success), bytes, 0);
        completion
    }

    fn ready(window: &mut AckWindow) -> Vec<Ack> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut acks = Vec::new();
        while let Poll::Ready(resolved) = window.poll_head(&mut cx) {
            acks.push(resolved.ack);
        }
        acks
    }

    #[test]
    fn acks_leave_in_publish_order_whatever_the_order_of_delivery() {
        let mut window = AckWindow::new(8, 1000);
        let [first, second, third] = [1, 2, 3].map(|n| push(&mut window, n, 1));
        third.complete(Ok(()));
        second.complete(Ok(()));
        assert_eq!(ready(&mut window), []);
        first.complete(Ok(()));
        assert_eq!(ready(&mut window), [1, 2, 3].map(|n| Ack::PubAck(id(n), ReasonCode::Success)));
        assert!(window.is_empty());
    }

    #[test]
    fn the_window_is_bounded_by_items_and_by_bytes() {
        let mut window = AckWindow::new(2, 100);
        assert!(window.fits(1000), "an empty window takes any one publish");
        let first = push(&mut window, 1, 60);
        assert!(window.fits(40));
        assert!(!window.fits(41));
        let _second = push(&mut window, 2, 10);
        assert!(!window.fits(1), "two items are all");
        first.complete(Ok(()));
        ready(&mut window);
        assert!(window.fits(90));
        assert!(!window.fits(91));
    }

    #[test]
    fn a_failed_delivery_is_told_at_its_place_in_the_order() {
        let mut window = AckWindow::new(8, 1000);
        let [first, second] = [1, 2].map(|n| push(&mut window, n, 1));
        second.complete(Err(DeliveryError::TimedOut));
        first.complete(Ok(()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(window.poll_head(&mut cx), Poll::Ready(Resolved { delivery: Ok(()), .. })));
        assert!(matches!(
            window.poll_head(&mut cx),
            Poll::Ready(Resolved { delivery: Err(DeliveryError::TimedOut), .. })
        ));
    }
}
