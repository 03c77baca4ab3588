//! Which packet id carries which readings: the publishes of one connection from hand-over to acknowledgement.
//!
//! Pure: no I/O, no clock of its own. The window is counted from the oldest publish that is not done, so that packet
//! ids, which are given in a circle, never meet one that is in use, even if acknowledgements come out of order.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

/// One publish: the bytes, and the readings of the device's ledger that are in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    /// What is published, the same bytes however often.
    pub(crate) payload: Bytes,
    /// Whether the payload is a `ReadingBatch`.
    pub(crate) batch: bool,
    /// Place of the first reading in the device's ledger.
    pub(crate) position: usize,
    /// How many readings from there on.
    pub(crate) readings: usize,
}

/// The peer or the client library did something that the protocol does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutOfStep(pub(crate) String);

#[derive(Debug)]
struct Slot {
    packet_id: u16,
    handed_over: Instant,
    /// `None` once it is acknowledged.
    publish: Option<Publish>,
    /// Whether the packet id is free again.
    complete: bool,
}

/// The publishes of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    window: usize,
    /// Handed to the client library, which has not named a packet id yet.
    queued: VecDeque<(Instant, Publish)>,
    slots: VecDeque<Slot>,
}

impl Session {
    pub(crate) fn new(window: u16) -> Self {
        Self { window: usize::from(window.max(1)), queued: VecDeque::new(), slots: VecDeque::new() }
    }

    /// The server allows fewer in flight.
    pub(crate) fn limit(&mut self, receive_max: u16) {
        self.window = self.window.min(usize::from(receive_max.max(1)));
    }

    pub(crate) fn has_room(&self) -> bool {
        self.queued.len() + self.slots.len() < self.window
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.slots.is_empty()
    }

    /// When the oldest publish that is not done was handed over.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.slots.front().map(|slot| slot.handed_over).or(self.queued.front().map(|(at, _)| *at))
    }

    /// A publish was handed to the client library.
    pub(crate) fn queue(&mut self, publish: Publish, now: Instant) {
        self.queued.push_back((now, publish));
    }

    /// The oldest queued publish got its packet id; 0 stands for QoS 0, which is then done and returned.
    pub(crate) fn sent(&mut self, packet_id: u16) -> Result<Option<Publish>, OutOfStep> {
        let Some((handed_over, publish)) = self.queued.pop_front() else {
            return Err(OutOfStep(format!("packet {packet_id} was sent, but nothing was handed over")));
        };
        if packet_id == 0 {
            return Ok(Some(publish));
        }
        if self.slots.iter().any(|slot| slot.packet_id == packet_id) {
            self.queued.push_front((handed_over, publish));
            return Err(OutOfStep(format!("packet id {packet_id} was given while it is in use")));
        }
        self.slots.push_back(Slot { packet_id, handed_over, publish: Some(publish), complete: false });
        Ok(None)
    }

    /// A publish was acknowledged; with QoS 2 it is not `complete` before [`Session::completed`].
    pub(crate) fn acked(&mut self, packet_id: u16, complete: bool) -> Result<Publish, OutOfStep> {
        let slot = self.slots.iter_mut().find(|slot| slot.packet_id == packet_id);
        let unknown = || OutOfStep(format!("packet {packet_id} was acknowledged, but it is not in flight"));
        let slot = slot.ok_or_else(unknown)?;
        let publish = slot.publish.take().ok_or_else(unknown)?;
        slot.complete = complete;
        self.free();
        Ok(publish)
    }

    /// The last packet of a QoS 2 exchange arrived.
    pub(crate) fn completed(&mut self, packet_id: u16) -> Result<(), OutOfStep> {
        let slot = self.slots.iter_mut().find(|slot| slot.packet_id == packet_id && slot.publish.is_none());
        let unknown = || OutOfStep(format!("packet {packet_id} was completed, but it was not acknowledged"));
        slot.ok_or_else(unknown)?.complete = true;
        self.free();
        Ok(())
    }

    fn free(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.complete) {
            self.slots.pop_front();
        }
    }

    /// The connection is gone: everything that was not acknowledged, in the order it was handed over.
    pub(crate) fn take_back(&mut self) -> impl DoubleEndedIterator<Item = Publish> + use<> {
        let slots = std::mem::take(&mut self.slots).into_iter().filter_map(|slot| slot.publish);
        slots.chain(std::mem::take(&mut self.queued).into_iter().map(|(_, publish)| publish))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publish(position: usize) -> Publish {
        Publish { payload: Bytes::from(position.to_string()), batch: false, position, readings: 1 }
    }

    fn session(window: u16, publishes: usize, sent: u16) -> Session {
        let mut session = Session::new(window);
        (0..publishes).for_each(|position| session.queue(publish(position), Instant::now()));
        (1..=sent).for_each(|packet_id| assert_eq!(session.sent(packet_id), Ok(None)));
        session
    }

    fn taken_back(mut session: Session) -> Vec<usize> {
        session.take_back().map(|publish| publish.position).collect()
    }

    #[test]
    fn an_acknowledgement_finds_the_publish_that_was_sent_under_its_packet_id() {
        let mut session = session(8, 4, 3);
        assert_eq!(session.acked(2, true).unwrap().position, 1);
        assert_eq!(session.acked(1, true).unwrap().position, 0);
        assert_eq!(taken_back(session), [2, 3]);
    }

    #[test]
    fn the_window_is_counted_from_the_oldest_that_is_not_done() {
        let mut session = session(3, 3, 3);
        assert!(!session.has_room());
        session.acked(2, true).unwrap();
        assert!(!session.has_room(), "the first is still in flight");
        session.acked(1, true).unwrap();
        assert!(session.has_room());
        session.queue(publish(3), Instant::now());
        session.queue(publish(4), Instant::now());
        assert!(!session.has_room());
    }

    #[test]
    fn a_server_may_allow_fewer_but_not_more() {
        let mut session = session(3, 2, 2);
        session.limit(100);
        assert!(session.has_room());
        session.limit(2);
        assert!(!session.has_room());
    }

    #[test]
    fn with_qos_2_the_packet_id_stays_in_use_until_the_exchange_is_complete() {
        let mut session = session(1, 1, 1);
        assert!(session.completed(1).is_err(), "PUBCOMP before PUBREC");
        assert_eq!(session.acked(1, false).unwrap().position, 0);
        assert!(!session.has_room() && !session.is_idle());
        session.completed(1).unwrap();
        assert!(session.has_room() && session.is_idle());
    }

    #[test]
    fn an_acknowledged_publish_is_not_taken_back_even_if_its_exchange_is_not_complete() {
        let mut session = session(4, 3, 2);
        session.acked(1, false).unwrap();
        assert_eq!(taken_back(session), [1, 2]);
    }

    #[test]
    fn a_publish_with_qos_0_is_done_when_it_is_sent() {
        let mut session = session(1, 1, 0);
        assert_eq!(session.sent(0).unwrap().unwrap().position, 0);
        assert!(session.is_idle());
    }

    #[test]
    fn what_the_protocol_does_not_allow_is_an_error() {
        let mut session = session(4, 2, 1);
        assert!(session.acked(9, true).is_err());
        assert!(session.sent(1).is_err(), "packet id 1 is in use");
        session.acked(1, false).unwrap();
        assert!(session.acked(1, true).is_err(), "acknowledged twice");
        session.sent(2).unwrap();
        assert!(session.sent(3).is_err(), "nothing was handed over");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish,
        Sent,
        Ack(prop::sample::Index, bool),
        Complete(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Publish),
            3 => Just(Step::Sent),
            2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(at, complete)| Step::Ack(at, complete)),
            2 => any::<prop::sample::Index>().prop_map(Step::Complete),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// A client library that gives packet ids in a circle of twice the window, and a server that acknowledges in
        /// any order: no id is ever given twice, and every publish is acknowledged once or taken back in order.
        #[test]
        fn no_publish_is_lost_or_mistaken_for_another(window in 1u16..6, steps in steps()) {
            let mut session = Session::new(window);
            let (mut made, mut next_id, mut on_the_wire) = (0, 0, Vec::<(u16, usize)>::new());
            let (mut releasing, mut queued, mut acked) = (Vec::new(), VecDeque::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Publish if session.has_room() => {
                        session.queue(publish(made), Instant::now());
                        queued.push_back(made);
                        made += 1;
                    }
                    Step::Sent if !queued.is_empty() => {
                        next_id = next_id % (window * 2) + 1;
                        prop_assert_eq!(session.sent(next_id), Ok(None));
                        on_the_wire.push((next_id, queued.pop_front().unwrap()));
                    }
                    Step::Ack(at, complete) if !on_the_wire.is_empty() => {
                        let (id, position) = on_the_wire.remove(at.index(on_the_wire.len()));
                        prop_assert_eq!(session.acked(id, complete).unwrap().position, position);
                        acked.push(position);
                        if !complete {
                            releasing.push(id);
                        }
                    }
                    Step::Complete(at) if !releasing.is_empty() => {
                        let id = releasing.remove(at.index(releasing.len()));
                        session.completed(id).unwrap();
                    }
                    _ => {}
                }
            }
            acked.sort_unstable();
            let back = taken_back(session);
            prop_assert!(back.is_sorted());
            let mut all = [acked, back].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..made).collect::<Vec<_>>());
        }
    }
}
