//! One connection after CONNECT: bytes in, publishes to the bridge, acknowledgements out.
//!
//! The order of work is the promise: resolved receipts first, then writing, then reading. Reading stops where a publish
//! does not fit into the ack window or the producer's queue, and goes on when it does; packets before that publish,
//! PINGREQ among them, are answered meanwhile (G6). Nothing is acknowledged here but what the window resolves (G1).

mod inbound;
mod outbound;
mod timer;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use penstock_bridge::Bridge;
use penstock_service::config::GatewayLimits;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};

use crate::clients::{Clients, Entered, Order};
use crate::metrics::Metrics;
use crate::mqtt::{Version, encode};
use crate::outcome::Outcome;
use crate::session::Session;
use crate::window::{Ack, AckWindow};
use inbound::{Inbound, Stall};
use outbound::Outbound;
use timer::Timer;

/// How long a device may take to accept the last words of a connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// What all connections of a gateway share.
#[derive(Debug)]
pub struct Shared {
    /// Where publishes go.
    pub bridge: Arc<Bridge>,
    /// The limits that connections are held to.
    pub limits: GatewayLimits,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// Bytes of unfinished packets, over all connections.
    pub unfinished_bytes: Arc<AtomicUsize>,
}

/// What CONNECT settled.
#[derive(Debug)]
pub struct Accepted {
    /// The protocol state.
    pub session: Session,
    /// The place among the clients.
    pub entered: Entered,
    /// Seconds between packets that the device promised; 0 for no promise.
    pub keep_alive_s: u16,
    /// Bytes that came behind CONNECT.
    pub early: Vec<u8>,
}

/// One connection with a session: a stream, and everything that is decided about it.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    core: Core,
}

/// A connection without its stream.
#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    entered: Entered,
    session: Session,
    window: AckWindow,
    inbound: Inbound,
    outbound: Outbound,
    timer: Timer,
    draining: bool,
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection on a stream whose CONNECT has been answered.
    pub fn new(stream: S, shared: Arc<Shared>, accepted: Accepted) -> Self {
        Self { stream, core: Core::new(shared, accepted) }
    }

    /// Serves the connection to its end, and says how it ended. Returns when every receipt has resolved, so that none
    /// goes uncounted.
    pub async fn run(mut self) -> Outcome {
        let outcome = poll_fn(|cx| self.poll_serve(cx)).await;
        self.farewell(outcome).await;
        let Self { stream, core } = self;
        drop(stream);
        let Core { window, shared, .. } = core;
        count_remaining(window, &shared.metrics).await;
        outcome
    }

    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            if let Err(outcome) = self.core.collect_acks(cx) {
                return Poll::Ready(outcome);
            }
            let flushed = match self.core.outbound.poll_flush(Pin::new(&mut self.stream), cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(Outcome::ConnectionLost),
                Poll::Pending => false,
            };
            match self.core.poll_duties(cx, flushed) {
                Poll::Ready(Some(outcome)) => return Poll::Ready(outcome),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
            match ready!(self.poll_read(cx)) {
                Ok(()) => {}
                Err(outcome) => return Poll::Ready(outcome),
            }
        }
    }

    /// Says why, where the protocol has a word for it, and closes.
    async fn farewell(&mut self, outcome: Outcome) {
        let Self { stream, core } = self;
        if let Some(reason) = outcome.disconnect_code() {
            encode::disconnect(core.outbound.buffer(), core.session.version(), reason, None);
        }
        let last_words = async {
            poll_fn(|cx| core.outbound.poll_flush(Pin::new(&mut *stream), cx)).await?;
            stream.shutdown().await
        };
        // A device that is gone or does not read misses them; nothing more can be done about it.
        let _ = tokio::time::timeout(FAREWELL, last_words).await;
    }
}

impl Core {
    fn new(shared: Arc<Shared>, accepted: Accepted) -> Self {
        let limits = &shared.limits;
        // An MQTT 5 device that breaks the Receive Maximum is to be told so, not just slowed down: hence a little more.
        let beyond = if accepted.session.version() == Version::V5 { 16 } else { 0 };
        let write_timeout = Duration::from_millis(limits.write_timeout_ms);
        Self {
            window: AckWindow::new(usize::from(limits.inflight_max) + beyond, limits.inflight_bytes_max),
            timer: Timer::new(accepted.keep_alive_s, limits.keep_alive_s_max, write_timeout),
            inbound: Inbound::new(accepted.early, &shared.unfinished_bytes),
            outbound: Outbound::default(),
            entered: accepted.entered,
            session: accepted.session,
            draining: false,
            shared,
        }
    }

    /// Everything but bytes: orders from outside, deadlines, and whether there may be reading. `Some`: the connection
    /// ends; `None`: read on; pending: wait.
    fn poll_duties(&mut self, cx: &mut Context<'_>, flushed: bool) -> Poll<Option<Outcome>> {
        match self.entered.control().order(cx.waker()) {
            Order::Serve => {}
            Order::TakenOver => return Poll::Ready(Some(Outcome::TakenOver)),
            Order::Drain => self.draining = true,
        }
        if self.draining && self.window.is_empty() && flushed {
            return Poll::Ready(Some(Outcome::ServerShutdown));
        }
        let stalled = self.draining || self.poll_stalled(cx);
        let unfinished = self.inbound.has_unfinished();
        if let Poll::Ready(outcome) = self.timer.poll(cx, stalled, !flushed, unfinished) {
            return Poll::Ready(Some(outcome));
        }
        if stalled { Poll::Pending } else { Poll::Ready(None) }
    }

    /// Whether reading has to wait: for the window, for the producer's queue, or for the device to read its answers.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        if self.outbound.is_full() {
            return true;
        }
        let still = match &mut self.inbound.stall {
            None => return false,
            Some(Stall::Window { bytes }) => !self.window.fits(*bytes),
            Some(Stall::Room(room)) => room.as_mut().poll(cx).is_pending(),
        };
        if still {
            return true;
        }
        self.inbound.stall = None;
        // Time spent not reading is not the device's silence.
        self.timer.heard();
        false
    }
}

/// Waits for the receipts of publishes whose device is gone: nobody is acknowledged, but each failure is counted (G5).
async fn count_remaining(mut window: AckWindow, metrics: &Metrics) {
    while !window.is_empty() {
        let resolved = poll_fn(|cx| window.poll_head(cx)).await;
        if let Err(error) = resolved.delivery {
            metrics.count_delivery_failure(&error);
        } else if resolved.ack != Ack::None {
            metrics.delivered_unheard.inc();
        }
    }
}
