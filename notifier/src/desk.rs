//! Everything one receiver's reader decides: what becomes of a record, what is sent next, what may be committed. Pure:
//! it reads no clock and sends nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_proto::Reason;
use penstock_proto::alert_json::from_json;
use penstock_service::config::{GroupBy, Notify};

use crate::active::Active;
use crate::controls::Controls;
use crate::lanes::{self, Lanes};
use crate::ledger::{Epoch, Ledger, Part};
use crate::notice::{Former, Item, Letter, Notice, Receiver, Why};
use crate::payload::{check, group_key};

/// Bytes of alerts in one request, unless a single alert has more.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// The one lane of the Alertmanager.
const ALL: &str = "all";

/// How the desk works.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whose desk it is.
    pub receiver: Receiver,
    /// What is sent together.
    pub group_by: GroupBy,
    /// When.
    pub lanes: lanes::Limits,
    /// How often the receiver is told again what fires.
    pub resend: Option<Duration>,
    /// Alerts that may wait.
    pub records_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// Bytes of alerts that fire and are remembered.
    pub active_bytes_max: usize,
}

impl Rules {
    /// The rules for a receiver. An Alertmanager groups by itself, and is to see everything in order: it has one lane,
    /// in which nothing waits for others.
    pub fn of(receiver: Receiver, config: &Notify) -> Self {
        let (is_manager, alone) = (receiver == Receiver::Alertmanager, config.group_by == GroupBy::None);
        let wait_ms = if is_manager || alone { 0 } else { config.group_wait_ms };
        let lanes = lanes::Limits {
            wait: Duration::from_millis(wait_ms),
            most: if alone && !is_manager { 1 } else { config.group_alerts_max },
            bytes: REQUEST_BYTES_MAX,
            busy: if is_manager { 1 } else { config.requests_inflight_max },
        };
        Self {
            receiver,
            group_by: config.group_by,
            lanes,
            resend: is_manager.then(|| Duration::from_millis(config.alertmanager_resend_ms)),
            records_max: config.queue_records_max,
            bytes_max: config.queue_bytes_max,
            active_bytes_max: config.active_bytes_max,
        }
    }
}

/// What a record is.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Not this reader's, or read before.
    Foreign,
    /// An alert; it waits to be sent.
    Taken,
    /// No alert: it goes to the topic of delivery failures.
    Malformed(Box<Letter>),
}

/// What is sent in one request.
#[derive(Clone, Debug)]
pub struct Post {
    /// Its lane, which is also the key of the group.
    pub key: Arc<str>,
    /// At least one.
    pub items: Vec<Item>,
}

/// What became of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The receiver has it.
    Delivered,
    /// The receiver will never take it; it is in the topic of delivery failures.
    Refused,
    /// It was given up; it is in the topic of delivery failures.
    GivenUp,
    /// It needs no delivery: there is a next time.
    Skipped,
}

/// What was held back, since it was last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    /// By silences.
    pub silenced: u64,
    /// By acknowledgements.
    pub acknowledged: u64,
}

/// One receiver's desk.
#[derive(Debug)]
pub struct Desk {
    rules: Rules,
    /// Which offsets can be committed.
    pub ledger: Ledger,
    lanes: Lanes<Item>,
    active: Active,
    /// News that wait or are under way.
    records: usize,
    bytes: usize,
    /// Reminders that wait or are under way.
    refreshing: usize,
    held_back: HeldBack,
}

impl Desk {
    /// Nothing is read.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ledger: Ledger::default(),
            lanes: Lanes::new(rules.lanes),
            active: Active::new(rules.resend, rules.active_bytes_max),
            records: 0,
            bytes: 0,
            refreshing: 0,
            held_back: HeldBack::default(),
        }
    }

    /// Takes in a record.
    pub fn read(
        &mut self,
        part: Part,
        offset: i64,
        key: Option<&[u8]>,
        payload: &[u8],
        now: Instant,
    ) -> Read {
        let Some(source) = self.ledger.read(part, offset) else { return Read::Foreign };
        let (key, payload) = (key.map(<[u8]>::to_vec), payload.to_vec());
        let alert = match from_json(&payload) {
            Ok(alert) => check(&alert).map(|()| alert).map_err(str::to_owned),
            Err(error) => Err(error.to_string()),
        };
        let alert = match alert {
            Ok(alert) => alert,
            Err(detail) => {
                let letter = Letter { key, payload, source, reason: Reason::Undecodable, detail };
                self.weigh_in(letter.payload.len());
                return Read::Malformed(Box::new(letter));
            }
        };
        let notice = Arc::new(Notice { alert, key, payload, source });
        let mut severity = notice.alert.severity;
        if let Some(known) = self.active.get(&notice.alert.id)
            && self.rules.receiver == Receiver::Alertmanager
            && known.alert.severity != severity
        {
            if notice.is_resolved() {
                severity = known.alert.severity;
            } else if self.active.is_told(&notice.alert.id) {
                let former = Arc::clone(known);
                let severity = former.alert.severity;
                self.refreshing += 1;
                self.push(Item { notice: former, why: Why::Replaced, severity, since: now }, now);
            }
        }
        if notice.is_resolved() {
            self.active.ends(&notice.alert.id);
        } else {
            self.active.fires(&notice, now);
        }
        self.weigh_in(notice.bytes());
        self.push(Item { notice, why: Why::News, severity, since: now }, now);
        Read::Taken
    }

    /// An alert that fired before its partition was taken over, and still does. Who was told of it is not known: the
    /// receiver is taken to know, unless a silence held when it was written. Rather twice than never.
    pub fn restore(&mut self, former: &Former, controls: &Controls, now_ms: i64, now: Instant) {
        let Former { notice, written_ms, is_old } = former;
        let alert = &notice.alert;
        let silenced =
            controls.silencing(alert, now_ms).is_some() || controls.was_silenced(alert, *written_ms);
        self.active.restore(notice, *is_old || silenced, now);
    }

    fn push(&mut self, item: Item, now: Instant) {
        let key: Arc<str> = match self.rules.receiver {
            Receiver::Alertmanager => ALL.into(),
            Receiver::Webhook => group_key(self.rules.group_by, &item.notice.alert).into(),
        };
        let bytes = item.notice.bytes();
        self.lanes.push(&key, item, bytes, now);
    }

    fn weigh_in(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes;
    }

    fn weigh_out(&mut self, bytes: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Alerts whose silence has ended are to be sent now, if they still fire.
    pub fn end_silences(&mut self, controls: &Controls, now_ms: i64, now: Instant) {
        let receiver = self.rules.receiver;
        let wanted = |notice: &Notice| {
            controls.silencing(&notice.alert, now_ms).is_none()
                && !is_acknowledged(receiver, controls, notice)
        };
        for notice in self.active.unmuted(wanted) {
            let severity = notice.alert.severity;
            self.weigh_in(notice.bytes());
            self.push(Item { notice, why: Why::News, severity, since: now }, now);
        }
    }

    /// What is to be sent next. What a silence or an acknowledgement holds back is done with.
    pub fn next(&mut self, controls: &Controls, now_ms: i64, now: Instant) -> Option<Post> {
        if self.refreshing == 0 && self.lanes.busy() == 0 {
            for notice in self.active.due(now, self.rules.lanes.most) {
                let severity = notice.alert.severity;
                self.refreshing += 1;
                self.push(Item { notice, why: Why::Refresh, severity, since: now }, now);
            }
        }
        loop {
            let (key, mut items) = self.lanes.take(now)?;
            items.retain(|item| self.is_sent(item, controls, now_ms, now));
            if !items.is_empty() {
                return Some(Post { key, items });
            }
            self.lanes.free(&key);
        }
    }

    /// Whether the receiver gets it now; otherwise it is done with.
    fn is_sent(&mut self, item: &Item, controls: &Controls, now_ms: i64, now: Instant) -> bool {
        let Item { notice, why, .. } = item;
        let id = notice.alert.id.as_str();
        match why {
            Why::Refresh | Why::Replaced => true,
            Why::News if notice.is_resolved() => {
                let muted = self.active.unmute(id);
                if muted {
                    self.held_back.silenced += 1;
                    self.drop_item(item);
                }
                !muted
            }
            Why::News => {
                let told = self.active.is_told(id);
                // An Alertmanager that knows of an alert is told the truth; it would take silence for an end.
                let is_manager = self.rules.receiver == Receiver::Alertmanager;
                if is_acknowledged(self.rules.receiver, controls, notice) {
                    self.held_back.acknowledged += 1;
                    self.drop_item(item);
                    return false;
                }
                if controls.silencing(&notice.alert, now_ms).is_some() && !(is_manager && told) {
                    if !told {
                        self.active.mute(id);
                    }
                    self.held_back.silenced += 1;
                    self.drop_item(item);
                    return false;
                }
                self.active.told(id, now);
                true
            }
        }
    }

    fn drop_item(&mut self, item: &Item) {
        self.ledger.done(&item.notice.source);
        self.weigh_out(item.notice.bytes());
    }

    /// A request has ended for good, each item of it in one way.
    pub fn ended(&mut self, key: &Arc<str>, items: &[(Item, Fate)]) {
        for (item, fate) in items {
            match item.why {
                Why::News => self.drop_item(item),
                Why::Refresh | Why::Replaced => self.refreshing = self.refreshing.saturating_sub(1),
            }
            if *fate == Fate::Refused && item.why != Why::Replaced {
                self.active.ends(&item.notice.alert.id);
            }
        }
        self.lanes.free(key);
    }

    /// A malformed record is in the topic of delivery failures.
    pub fn lettered(&mut self, letter: &Letter) {
        self.ledger.done(&letter.source);
        self.weigh_out(letter.payload.len());
    }

    /// A partition is another's now: what waits of it is not sent.
    pub fn revoke(&mut self, part: Part) {
        let (mut records, mut bytes, mut refreshing) = (0, 0, 0);
        self.lanes.retain(|item| {
            let gone = item.notice.source.part == part;
            match item.why {
                Why::News if gone => (records, bytes) = (records + 1, bytes + item.notice.bytes()),
                Why::Refresh | Why::Replaced if gone => refreshing += 1,
                _ => {}
            }
            !gone
        });
        self.records = self.records.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.refreshing = self.refreshing.saturating_sub(refreshing);
        self.active.forget(part);
        self.ledger.revoke(part);
    }

    /// Whether an assignment of a partition is in force.
    pub fn is_current(&self, part: Part, epoch: Epoch) -> bool {
        self.ledger.is_current(part, epoch)
    }

    /// Whether more may be read.
    pub const fn has_room(&self) -> bool {
        self.records < self.rules.records_max && self.bytes < self.rules.bytes_max
    }

    /// Whether so much room is there that reading can go on after a pause.
    pub const fn has_plenty_of_room(&self) -> bool {
        self.records <= self.rules.records_max / 2 && self.bytes <= self.rules.bytes_max / 2
    }

    /// Nothing waits for others any longer.
    pub fn hurry(&mut self, now: Instant) {
        self.lanes.hurry(now);
    }

    /// When something is to be sent next, as far as it is known and may be sent.
    pub fn next_due(&self) -> Option<Instant> {
        self.lanes.next_due()
    }

    /// Whether everything that was read is dealt with.
    pub fn is_idle(&self) -> bool {
        self.records == 0 && self.lanes.is_empty()
    }

    /// News that wait or are under way, and their bytes.
    pub const fn waiting(&self) -> (usize, usize) {
        (self.records, self.bytes)
    }

    /// Alerts that fire and are remembered, and those there was no room for.
    pub fn firing(&self) -> (usize, u64) {
        (self.active.len(), self.active.dropped())
    }

    /// What was held back since the last call.
    pub fn take_held_back(&mut self) -> HeldBack {
        std::mem::take(&mut self.held_back)
    }

    /// Requests under way.
    pub const fn under_way(&self) -> usize {
        self.lanes.busy()
    }
}

/// An Alertmanager is told all the same: an acknowledgement is shown there, and it repeats as it is configured.
fn is_acknowledged(receiver: Receiver, controls: &Controls, notice: &Notice) -> bool {
    receiver == Receiver::Webhook && controls.ack(&notice.alert.id).is_some()
}

#[cfg(test)]
mod tests;
