//! The writing half: acknowledgements that are due, written together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use penstock_kafka::DeliveryError;
use tokio::io::AsyncWrite;

use super::Core;
use crate::mqtt::encode;
use crate::outcome::Outcome;
use crate::window::Ack;

/// Unwritten bytes at which the device is read from no more: it does not read its answers.
const UNWRITTEN_BYTES_MAX: usize = 16 * 1024;

/// A buffer that is kept when empty; a larger one is given back.
const KEPT_BYTES: usize = 256;

/// Bytes on their way to the device.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    bytes: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl Outbound {
    /// Where packets are appended.
    pub(super) const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether so much waits that no more must be asked for.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes.len() - self.written >= UNWRITTEN_BYTES_MAX
    }

    /// Writes everything, in as few TLS records as there can be.
    pub(super) fn poll_flush<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            let written = ready!(stream.as_mut().poll_write(cx, &self.bytes[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unflushed = true;
        }
        if self.written > 0 {
            self.written = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
        }
        if self.unflushed {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Core {
    /// Encodes the acks of all publishes whose receipts have resolved, in publish order.
    ///
    /// A failed delivery ends the connection, so that the device sends the publish again; what was resolved before it is
    /// still acknowledged.
    pub(super) fn collect_acks(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        let version = self.session.version();
        while !self.outbound.is_full()
            && let Poll::Ready(resolved) = self.window.poll_head(cx)
        {
            if let Err(error) = resolved.delivery {
                self.shared.metrics.count_delivery_failure(&error);
                match (resolved.ack, error) {
                    (Ack::None, _) => continue,
                    (_, DeliveryError::TimedOut) => return Err(Outcome::DeliveryTimedOut),
                    _ => return Err(Outcome::DeliveryFailed),
                }
            }
            match resolved.ack {
                Ack::None => {}
                Ack::PubAck(id, reason) => encode::puback(self.outbound.buffer(), version, id, reason),
                Ack::PubRec(id, reason) => encode::pubrec(self.outbound.buffer(), version, id, reason),
            }
            self.session.on_ack_written(resolved.ack);
            self.shared.metrics.count_ack(resolved.ack, resolved.received_at_ms);
        }
        Ok(())
    }
}
