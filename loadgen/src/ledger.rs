//! What the load generator knows: which readings it published, and what became of each as far as a device can see.
//!
//! The ledger is the oracle of the fault tests, so it never guesses: a reading is acknowledged only when its
//! acknowledgement was read from the connection it was last sent on.

use std::collections::HashMap;

use penstock_proto::{DeviceId, Reason};

/// What a device saw of a reading it published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// No acknowledgement was seen (or the reading was published with QoS 0): it may be stored or not.
    #[default]
    Unacknowledged,
    /// PUBACK (QoS 1) or PUBREC (QoS 2) that promises durability.
    Acknowledged,
    /// PUBACK or PUBREC 0x99: stored as a dead letter.
    DeadLettered,
    /// PUBACK or PUBREC with another failure: not stored.
    Refused,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Unacknowledged, Self::Acknowledged, Self::DeadLettered, Self::Refused];

    /// The name in ledger files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unacknowledged => "unacknowledged",
            Self::Acknowledged => "acknowledged",
            Self::DeadLettered => "dead-lettered",
            Self::Refused => "refused",
        }
    }

    /// The outcome with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// One reading of the ledger. Its device and its sequence number follow from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The reading's timestamp, Unix milliseconds.
    pub timestamp_ms: i64,
    /// When it was first handed to the MQTT client, in microseconds since the run began.
    pub sent_us: u64,
    /// When its acknowledgement was read, in microseconds since the run began; 0 without one.
    pub acked_us: u64,
    /// How often it was handed to the MQTT client; 0 marks a hole in a ledger that was read from a file.
    pub sends: u16,
    /// What the device saw.
    pub outcome: Outcome,
    /// Why the reading is no valid one, where the load generator made it so on purpose.
    pub invalid: Option<Reason>,
}

impl Entry {
    /// A sequence number of which a ledger file says nothing.
    pub(crate) const HOLE: Self = Self {
        timestamp_ms: 0,
        sent_us: 0,
        acked_us: 0,
        sends: 0,
        outcome: Outcome::Unacknowledged,
        invalid: None,
    };

    /// Whether exactly one row of it must be stored.
    pub fn must_be_stored(&self) -> bool {
        self.outcome == Outcome::Acknowledged && self.invalid.is_none()
    }

    /// Whether a dead letter of it must be stored.
    pub fn must_be_dead_letter(&self) -> bool {
        self.invalid.is_some() && matches!(self.outcome, Outcome::Acknowledged | Outcome::DeadLettered)
    }

    /// Whether it was sent more than once, so that Kafka may hold it more than once.
    pub fn was_resent(&self) -> bool {
        self.sends > 1
    }
}

/// The readings of one device, by sequence number without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLedger {
    /// The device.
    pub device: DeviceId,
    /// The sequence number of the first entry.
    pub first_sequence: u64,
    /// One entry for each sequence number from the first on.
    pub entries: Vec<Entry>,
}

impl DeviceLedger {
    /// A ledger without entries.
    pub const fn new(device: DeviceId, first_sequence: u64) -> Self {
        Self { device, first_sequence, entries: Vec::new() }
    }

    /// The place of a sequence number among the entries.
    pub fn position(&self, sequence: u64) -> Option<usize> {
        let position = usize::try_from(sequence.checked_sub(self.first_sequence)?).ok()?;
        (position < self.entries.len()).then_some(position)
    }

    /// The sequence number of the entry at a place.
    pub fn sequence(&self, position: usize) -> u64 {
        self.first_sequence.saturating_add(position as u64)
    }
}

/// The ledger of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// When the run began, Unix milliseconds.
    pub started_at_ms: i64,
    /// One for each device.
    pub devices: Vec<DeviceLedger>,
}

impl Ledger {
    /// Every entry with its device and sequence number.
    pub fn entries(&self) -> impl Iterator<Item = (DeviceId, u64, &Entry)> {
        self.devices.iter().flat_map(|device| {
            let numbered = device.entries.iter().enumerate();
            numbered.map(move |(position, entry)| (device.device, device.sequence(position), entry))
        })
    }

    /// Where each device stands in [`Ledger::devices`].
    pub(crate) fn index(&self) -> HashMap<DeviceId, usize> {
        self.devices.iter().enumerate().map(|(index, device)| (device.device, index)).collect()
    }

    /// The counts over all entries.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (_, _, entry) in self.entries().filter(|(_, _, entry)| entry.sends > 0) {
            totals.published += 1;
            totals.resent += u64::from(entry.sends - 1);
            match entry.outcome {
                Outcome::Unacknowledged => totals.unacknowledged += 1,
                Outcome::Acknowledged | Outcome::DeadLettered if entry.invalid.is_some() => {
                    totals.dead_letters += 1
                }
                Outcome::Acknowledged => totals.acked += 1,
                Outcome::DeadLettered => totals.dead_letters += 1,
                Outcome::Refused => totals.refused += 1,
            }
        }
        totals
    }
}

/// Counts of readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Distinct readings handed to the MQTT client.
    pub published: u64,
    /// Times a reading was handed over again after a lost connection.
    pub resent: u64,
    /// Valid readings that were acknowledged.
    pub acked: u64,
    /// Readings that are acknowledged as dead letters, or that are acknowledged and were made invalid on purpose.
    pub dead_letters: u64,
    /// Readings that were refused.
    pub refused: u64,
    /// Readings of which no acknowledgement was seen.
    pub unacknowledged: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn entry(outcome: Outcome, invalid: Option<Reason>, sends: u16) -> Entry {
        Entry { timestamp_ms: 1_000, sent_us: 5, acked_us: 9, sends, outcome, invalid }
    }

    #[test]
    fn a_sequence_number_has_a_place_only_inside_the_ledger() {
        let mut ledger = DeviceLedger::new(DeviceId::from_bytes([1; 16]), 10);
        assert_eq!(ledger.position(10), None);
        ledger.entries = vec![Entry::HOLE; 3];
        assert_eq!(
            [9, 10, 12, 13, u64::MAX].map(|sequence| ledger.position(sequence)),
            [None, Some(0), Some(2), None, None]
        );
        assert_eq!(ledger.sequence(2), 12);
    }

    #[test]
    fn every_reading_is_counted_under_exactly_one_outcome() {
        let invalid = Some(Reason::NotFinite);
        let mut device = DeviceLedger::new(DeviceId::from_bytes([1; 16]), 1);
        device.entries = vec![
            entry(Outcome::Acknowledged, None, 3),
            entry(Outcome::Acknowledged, invalid, 1),
            entry(Outcome::DeadLettered, invalid, 1),
            entry(Outcome::DeadLettered, None, 1),
            entry(Outcome::Refused, invalid, 1),
            entry(Outcome::Unacknowledged, None, 2),
            Entry::HOLE,
        ];
        let totals = Ledger { started_at_ms: 0, devices: vec![device] }.totals();
        let expected =
            Totals { published: 6, resent: 3, acked: 1, dead_letters: 3, refused: 1, unacknowledged: 1 };
        assert_eq!(totals, expected);
        assert_eq!(
            totals.acked + totals.dead_letters + totals.refused + totals.unacknowledged,
            totals.published
        );
    }

    #[test]
    fn outcomes_are_found_by_their_names() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_name(outcome.name()), Some(outcome));
        }
        assert_eq!(Outcome::from_name("lost"), None);
    }
}
