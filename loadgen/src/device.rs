//! One virtual device: connects, publishes when due, notes every acknowledgement, and after a lost connection publishes
//! again, with the same bytes and in the same order, what was not acknowledged.
//!
//! It never marks a reading as acknowledged without the acknowledgement of the connection that carried it last.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use penstock_proto::{DeviceId, topics};
use penstock_service::backoff::Backoff;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::generator::push_to_batch;
use crate::ledger::{DeviceLedger, Entry, Outcome};
use crate::ledger_file::{LedgerFileError, LedgerWriter};
use crate::mqtt::{self, Ack, Endpoint, Event, Lost, Publisher, Qos};
use crate::session::{OutOfStep, Publish, Session};
use crate::source::{Budget, Pace, Source};
use crate::stats::Stats;

const BACKOFF_MIN_MS: u64 = 100;
const BACKOFF_MAX_MS: u64 = 5_000;
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// A reading whose way into ClickHouse is timed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) device: DeviceId,
    pub(crate) sequence: u64,
    pub(crate) timestamp_ms: i64,
    pub(crate) sent: Instant,
}

/// What the devices of a fleet share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) stats: Arc<Stats>,
    pub(crate) qos: Qos,
    pub(crate) budget: Budget,
    /// Publishing may begin.
    pub(crate) go: CancellationToken,
    /// Nothing is waited for any more.
    pub(crate) abandon: CancellationToken,
    /// Handshakes at the same time.
    pub(crate) connecting: Semaphore,
    pub(crate) ack_timeout: Duration,
    pub(crate) writer: Option<LedgerWriter>,
    pub(crate) failure: Mutex<Option<LedgerFileError>>,
}

/// What one device is to do.
pub(crate) struct Plan {
    pub(crate) device: DeviceId,
    pub(crate) endpoint: Endpoint,
    pub(crate) source: Source,
    pub(crate) first_sequence: u64,
    /// Readings a publish; 1 publishes single readings.
    pub(crate) batch: usize,
    pub(crate) pace: Pace,
    /// Where in its interval the first publish lies, 0 to 1.
    pub(crate) phase: f64,
    /// Whether the fleet's budget counts this device's readings.
    pub(crate) budgeted: bool,
    /// No new readings from then on.
    pub(crate) stop: CancellationToken,
    pub(crate) samples: Option<mpsc::Sender<Sample>>,
}

pub(crate) struct Device {
    plan: Plan,
    shared: Arc<Shared>,
    ledger: DeviceLedger,
    resend: VecDeque<Publish>,
    /// The source has no more readings, or no more are wanted.
    exhausted: bool,
    began: bool,
    ever_connected: bool,
    topic: String,
    batch_topic: String,
}

/// Why a connection is over.
enum Ended {
    /// Everything is published and acknowledged, or nothing is waited for any more.
    Finished,
    /// rumqttc has to be made anew, though nothing is wrong.
    Recycle,
    Lost(Lost),
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<OutOfStep> for Ended {
    fn from(OutOfStep(why): OutOfStep) -> Self {
        Self::Lost(Lost(why))
    }
}

/// The state of one connection.
struct Link<'d> {
    publisher: Publisher,
    session: Session,
    connected: bool,
    /// PUBRECs with a failure: rumqttc counts them as in flight for ever.
    leaked: u16,
    leaked_max: u16,
    permit: Option<SemaphorePermit<'d>>,
}

impl Link<'_> {
    /// Whether so much has leaked that the rest is too little.
    fn is_worn_out(&self) -> bool {
        self.leaked >= self.leaked_max
    }

    fn may_publish(&self) -> bool {
        self.connected && !self.is_worn_out() && self.session.has_room()
    }
}

impl Device {
    pub(crate) fn new(plan: Plan, shared: Arc<Shared>) -> Self {
        Self {
            ledger: DeviceLedger::new(plan.device, plan.first_sequence),
            topic: topics::readings_topic(plan.device),
            batch_topic: topics::batch_topic(plan.device),
            plan,
            shared,
            resend: VecDeque::new(),
            exhausted: false,
            began: false,
            ever_connected: false,
        }
    }

    /// Publishes until there is nothing left to do.
    pub(crate) async fn run(mut self) -> DeviceLedger {
        let mut backoff = Backoff::new(BACKOFF_MIN_MS, BACKOFF_MAX_MS);
        let abandon = self.shared.abandon.clone();
        loop {
            let ended = tokio::select! {
                ended = self.connection(&mut backoff) => ended,
                () = abandon.cancelled() => Ended::Finished,
            };
            match ended {
                Ended::Finished => return self.ledger,
                Ended::Recycle => {}
                Ended::Lost(Lost(why)) => {
                    tracing::debug!(device = %self.plan.device, why, "connection lost");
                    self.shared.stats.set_last_error(why);
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next()) => {}
                        () = abandon.cancelled() => return self.ledger,
                    }
                }
            }
        }
    }

    async fn connection(&mut self, backoff: &mut Backoff) -> Ended {
        let shared = Arc::clone(&self.shared);
        let (publisher, events) = mqtt::open(&self.plan.endpoint);
        let window = self.plan.endpoint.window;
        let mut link = Link {
            publisher,
            session: Session::new(window),
            connected: false,
            leaked: 0,
            leaked_max: window,
            permit: shared.connecting.acquire().await.ok(),
        };
        let ended = self.serve(&mut link, events, backoff).await;
        if link.connected {
            shared.stats.connected.sub(1);
            if matches!(ended, Ended::Lost(_)) {
                shared.stats.reconnects.add(1);
            }
        }
        // What was in flight was handed over before what still waits to be sent again.
        link.session.take_back().rev().for_each(|publish| self.resend.push_front(publish));
        ended
    }

    async fn serve(
        &mut self,
        link: &mut Link<'_>,
        events: impl Stream<Item = Result<Event, Lost>>,
        backoff: &mut Backoff,
    ) -> Ended {
        let mut events = pin!(events);
        let shared = Arc::clone(&self.shared);
        let stop = self.plan.stop.clone();
        loop {
            if let Err(ended) = self.fill(link) {
                return ended;
            }
            if self.exhausted && self.resend.is_empty() && link.session.is_idle() {
                self.close(link, events.as_mut()).await;
                return Ended::Finished;
            }
            if link.is_worn_out() && link.session.is_idle() {
                self.close(link, events.as_mut()).await;
                return Ended::Recycle;
            }
            let wake = self.wake(link);
            tokio::select! {
                biased;
                event = events.next() => {
                    let event = event.unwrap_or_else(|| Err(Lost("the client ended".to_owned())));
                    match event {
                        Ok(event) => {
                            if let Err(ended) = self.on(event, link, backoff) {
                                return ended;
                            }
                        }
                        Err(lost) => return lost.into(),
                    }
                }
                () = stop.cancelled(), if !self.exhausted => self.exhausted = true,
                () = shared.go.cancelled(), if !self.began => self.begin(),
                () = tokio::time::sleep_until(wake.into()) => {
                    if link.session.oldest().is_some_and(|oldest| oldest.elapsed() >= shared.ack_timeout) {
                        return Lost(format!("no acknowledgement within {:?}", shared.ack_timeout)).into();
                    }
                }
            }
        }
    }

    /// Says goodbye, so that the server does not take the device for lost.
    async fn close(&self, link: &Link<'_>, mut events: Pin<&mut impl Stream<Item = Result<Event, Lost>>>) {
        if link.connected {
            link.publisher.disconnect();
            // The stream ends with an error once DISCONNECT is written and the server has closed; a server that does
            // not is not waited for.
            let goodbye = async { while let Some(Ok(_)) = events.next().await {} };
            let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
        }
    }

    fn begin(&mut self) {
        self.began = true;
        self.plan.pace.begin(Instant::now(), self.plan.phase);
    }

    /// The moment something is to be done though nothing happens.
    fn wake(&self, link: &Link<'_>) -> Instant {
        let timeout = link.session.oldest().map(|oldest| oldest + self.shared.ack_timeout);
        let due =
            if link.may_publish() && self.began && !self.exhausted { self.plan.pace.next() } else { None };
        let never = Instant::now() + Duration::from_secs(3600);
        [timeout, due].into_iter().flatten().fold(never, Instant::min)
    }

    /// Publishes what is due while the window has room.
    fn fill(&mut self, link: &mut Link<'_>) -> Result<(), Ended> {
        while link.may_publish() {
            let Some(publish) = self.resend.pop_front().or_else(|| self.make()) else { break };
            self.hand_over(&publish, link)?;
        }
        Ok(())
    }

    fn hand_over(&mut self, publish: &Publish, link: &mut Link<'_>) -> Result<(), Ended> {
        let now = Instant::now();
        let now_us = self.shared.clock.us(now);
        let stats = &self.shared.stats;
        let entries = &mut self.ledger.entries[publish.position..publish.position + publish.readings];
        let first_time = entries[0].sends == 0;
        for entry in entries.iter_mut() {
            entry.sends = entry.sends.saturating_add(1);
            if first_time {
                entry.sent_us = now_us;
            }
        }
        let count = if first_time { &stats.published } else { &stats.resent };
        count.add(publish.readings as u64);
        if first_time && entries[0].invalid.is_none() {
            self.sample(publish.position, now);
        }
        let topic = if publish.batch { &self.batch_topic } else { &self.topic };
        link.session.queue(publish.clone(), now);
        link.publisher.publish(topic, self.shared.qos, publish.payload.clone())?;
        Ok(())
    }

    fn sample(&self, position: usize, sent: Instant) {
        if let Some(samples) = &self.plan.samples {
            let timestamp_ms = self.ledger.entries[position].timestamp_ms;
            let sequence = self.ledger.sequence(position);
            // A sample that finds no room is not taken: the probe measures some readings, not all.
            let _ = samples.try_send(Sample { device: self.plan.device, sequence, timestamp_ms, sent });
        }
    }

    /// The next publish, if one is due.
    fn make(&mut self) -> Option<Publish> {
        if self.exhausted || !self.began || self.plan.stop.is_cancelled() {
            return None;
        }
        if !self.plan.pace.take(Instant::now()) {
            return None;
        }
        let wanted = self.plan.batch.max(1);
        let granted = if self.plan.budgeted { self.shared.budget.take(wanted) } else { wanted };
        let position = self.ledger.entries.len();
        let now_ms = self.shared.clock.now_ms();
        let batch = self.plan.batch > 1;
        let mut payload = Vec::new();
        while self.ledger.entries.len() < position + granted {
            let Some(made) = self.plan.source.next(now_ms) else { break };
            let entry = Entry { timestamp_ms: made.timestamp_ms, invalid: made.invalid, ..Entry::HOLE };
            self.ledger.entries.push(entry);
            if batch {
                push_to_batch(&mut payload, &made.bytes);
            } else {
                payload = made.bytes;
            }
        }
        let readings = self.ledger.entries.len() - position;
        self.exhausted = readings < wanted;
        (readings > 0).then(|| Publish { payload: Bytes::from(payload), batch, position, readings })
    }

    fn on(&mut self, event: Event, link: &mut Link<'_>, backoff: &mut Backoff) -> Result<(), Ended> {
        match event {
            Event::Connected { receive_max } => {
                backoff.reset();
                self.on_connected(receive_max, link);
            }
            Event::Sent(packet_id) => drop(link.session.sent(packet_id)?),
            Event::Acked { packet_id, ack, complete } => {
                let publish = link.session.acked(packet_id, complete)?;
                if self.shared.qos == Qos::ExactlyOnce && ack != Ack::Accepted {
                    link.leaked += 1;
                }
                self.note(&publish, ack);
            }
            Event::Completed(packet_id) => link.session.completed(packet_id)?,
            Event::Other => {}
        }
        Ok(())
    }

    fn on_connected(&mut self, receive_max: Option<u16>, link: &mut Link<'_>) {
        link.connected = true;
        link.permit = None;
        if let Some(receive_max) = receive_max {
            // Where PUBRECs with a failure leak, half of what is allowed is kept for them.
            let leaks = self.shared.qos == Qos::ExactlyOnce;
            let window = if leaks { receive_max.div_ceil(2) } else { receive_max };
            link.session.limit(window);
            link.leaked_max = link.leaked_max.min(receive_max.saturating_sub(window).max(1));
        }
        self.shared.stats.connected.add(1);
        if !std::mem::replace(&mut self.ever_connected, true) {
            self.shared.stats.ever_connected.add(1);
        }
    }

    /// Enters an acknowledgement in the ledger.
    fn note(&mut self, publish: &Publish, ack: Ack) {
        let stats = &self.shared.stats;
        let readings = publish.readings as u64;
        let outcome = match ack {
            Ack::Accepted => Outcome::Acknowledged,
            Ack::DeadLetter => Outcome::DeadLettered,
            Ack::Refused => Outcome::Refused,
        };
        match outcome {
            Outcome::Acknowledged => stats.acked.add(readings),
            Outcome::DeadLettered => stats.dead_letters.add(readings),
            _ => stats.refused.add(readings),
        }
        let acked_us = self.shared.clock.us(Instant::now());
        let entries = &mut self.ledger.entries[publish.position..publish.position + publish.readings];
        stats.puback.record(Duration::from_micros(acked_us.saturating_sub(entries[0].sent_us)));
        for entry in entries.iter_mut() {
            entry.outcome = outcome;
            entry.acked_us = acked_us;
        }
        if let Some(writer) = &self.shared.writer {
            let sequence = self.plan.first_sequence + publish.position as u64;
            if let Err(error) = writer.append(self.plan.device, sequence, entries) {
                self.shared.failure.lock().get_or_insert(error);
                self.shared.abandon.cancel();
            }
        }
    }
}
