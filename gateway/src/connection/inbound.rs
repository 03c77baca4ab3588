//! The reading half: from bytes to packets to publications.
//!
//! Packets are decoded where TLS decrypted them. Only a packet that has not arrived whole is copied, so an idle
//! connection holds no receive buffer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use penstock_bridge::{Publication, SubmitError, Verdict};
use penstock_kafka::Receipt;
use penstock_proto::topics::MqttTopic;
use tokio::io::{AsyncBufRead, AsyncWrite};

use super::{Connection, Core};
use crate::mqtt::{ReasonCode, decode, next_frame};
use crate::outcome::Outcome;
use crate::session::Step;
use crate::window::Ack;

/// Bytes counted over all connections.
pub(super) type SharedBytes = Arc<AtomicUsize>;

/// The type nibble of a PUBLISH (MQTT5 2.1.2).
const PUBLISH: u8 = 3;

/// What reading waits for.
pub(super) enum Stall {
    /// A publish of this many bytes does not fit into the ack window.
    Window {
        /// Bytes of the publish.
        bytes: usize,
    },
    /// The producer's queue is full.
    Room(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl fmt::Debug for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { bytes } => write!(f, "Window({bytes} bytes)"),
            Self::Room(_) => f.write_str("Room"),
        }
    }
}

/// What has been read and not yet acted upon.
#[derive(Debug)]
pub(super) struct Inbound {
    /// The beginning of a packet that has not arrived whole; more only while reading is stalled.
    unfinished: Vec<u8>,
    /// Bytes of `unfinished` counted in the total.
    counted: usize,
    total: SharedBytes,
    pub(super) stall: Option<Stall>,
}

impl Inbound {
    pub(super) fn new(early: Vec<u8>, total: &SharedBytes) -> Self {
        Self { unfinished: early, counted: 0, total: Arc::clone(total), stall: None }
    }

    pub(super) const fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Removes what has been acted upon, and the buffer with it when nothing is left.
    fn consume(&mut self, bytes: usize) {
        if bytes == self.unfinished.len() {
            self.unfinished = Vec::new();
        } else {
            self.unfinished.drain(..bytes);
        }
        self.count();
    }

    /// Brings the total up to date; returns it.
    fn count(&mut self) -> usize {
        let now = self.unfinished.len();
        let total = if now >= self.counted {
            self.total.fetch_add(now - self.counted, Ordering::Relaxed) + (now - self.counted)
        } else {
            self.total.fetch_sub(self.counted - now, Ordering::Relaxed) - (self.counted - now)
        };
        self.counted = now;
        total
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.total.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Connection<S> {
    /// Reads once and acts on every packet that is there whole.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let Self { stream, core } = self;
        if core.inbound.has_unfinished() {
            // After a stall, or right after CONNECT, whole packets may stand here. What they are owed comes before more
            // is read: nothing else would wake this connection for their answers and receipts.
            let acted = core.act_on_unfinished()?;
            if acted > 0 || core.inbound.stall.is_some() {
                return Poll::Ready(Ok(()));
            }
        }
        let chunk = ready!(Pin::new(&mut *stream).poll_fill_buf(cx)).map_err(|_| Outcome::ConnectionLost)?;
        if chunk.is_empty() {
            return Poll::Ready(Err(Outcome::ConnectionLost));
        }
        let consumed = core.act_on_chunk(chunk)?;
        Pin::new(stream).consume(consumed);
        Poll::Ready(Ok(()))
    }
}

impl Core {
    /// Acts on what was kept from earlier reads; returns how many bytes of it are done with.
    fn act_on_unfinished(&mut self) -> Result<usize, Outcome> {
        let unfinished = std::mem::take(&mut self.inbound.unfinished);
        let acted = self.act(&unfinished);
        self.inbound.unfinished = unfinished;
        let acted = acted?;
        self.inbound.consume(acted);
        Ok(acted)
    }

    /// Acts on freshly read bytes; returns how many of them are done with.
    fn act_on_chunk(&mut self, chunk: &[u8]) -> Result<usize, Outcome> {
        if !self.inbound.has_unfinished() {
            let acted = self.act(chunk)?;
            if self.inbound.stall.is_some() || acted == chunk.len() {
                // What a stall leaves stays in the stream's own buffer.
                return Ok(acted);
            }
            self.keep(&chunk[acted..])?;
        } else {
            self.keep(chunk)?;
            self.act_on_unfinished()?;
        }
        Ok(chunk.len())
    }

    /// Keeps the beginning of a packet until the rest comes.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Outcome> {
        self.inbound.unfinished.extend_from_slice(bytes);
        if self.inbound.count() > self.shared.limits.unfinished_bytes_max {
            return Err(Outcome::UnfinishedBytesExceeded);
        }
        Ok(())
    }

    /// Acts on the whole packets at the start of `bytes` until one has to wait; returns how many bytes are done with.
    fn act(&mut self, bytes: &[u8]) -> Result<usize, Outcome> {
        let received_at_ms = now_ms();
        let mut acted = 0;
        while let Some(frame) = next_frame(&bytes[acted..], self.shared.limits.packet_bytes_max)? {
            let is_publish = frame.packet_type() == PUBLISH;
            if is_publish && !self.window.fits(frame.bytes) {
                self.inbound.stall = Some(Stall::Window { bytes: frame.bytes });
                break;
            }
            let packet = decode(&frame, self.session.version())?;
            match self.session.on_packet(packet, self.outbound.buffer())? {
                Step::Done => {}
                Step::Submit { topic, payload, ack } => {
                    if !self.submit(topic, payload, ack, received_at_ms, frame.bytes)? {
                        break;
                    }
                }
                Step::Answer(ack) => {
                    self.window.push(Receipt::ready(), ack, frame.bytes, received_at_ms);
                }
                Step::Disconnect => return Err(Outcome::Disconnected),
            }
            acted += frame.bytes;
            self.timer.heard();
        }
        Ok(acted)
    }

    /// Hands a publish to the bridge. `false`: there is no room, so that reading stalls and the packet is seen again.
    fn submit(
        &mut self,
        topic: MqttTopic,
        payload: &[u8],
        ack: Ack,
        received_at_ms: i64,
        bytes: usize,
    ) -> Result<bool, Outcome> {
        let publication = Publication { topic, client_id: self.entered.client_id(), payload, received_at_ms };
        match self.shared.bridge.submit(&publication) {
            Ok(submitted) => {
                let ack = match submitted.verdict {
                    Verdict::Readings => ack,
                    Verdict::DeadLetter(_) => ack.with_reason(ReasonCode::PayloadFormatInvalid),
                };
                self.shared.metrics.count_publish(ack);
                self.window.push(submitted.receipt, ack, bytes, received_at_ms);
                Ok(true)
            }
            Err(SubmitError::Full) => {
                self.session.withdraw(ack);
                self.inbound.stall = Some(Stall::Room(Box::pin(self.shared.bridge.room())));
                Ok(false)
            }
            Err(SubmitError::Failed(error)) => {
                self.shared.metrics.count_delivery_failure(&error);
                Err(Outcome::DeliveryFailed)
            }
        }
    }
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
