//! The pure part of the verifier: holds what is stored against what the ledger knows.
//!
//! Feed it every record, row and dead letter, then ask for the differences. One byte for each reading and source is all
//! it keeps besides (and 16 for each row), so some millions of readings are no burden.

use std::collections::{BTreeMap, HashMap};

use penstock_proto::{DeviceId, Reason};

use crate::ledger::{Entry, Ledger, Outcome};
use crate::verify::difference::{Difference, Differences, ReadingName};

/// Finds readings of the ledger by what is stored.
pub(crate) struct Oracle<'l> {
    ledger: &'l Ledger,
    index: HashMap<DeviceId, usize>,
}

/// Where a reading stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    device: usize,
    position: usize,
}

impl<'l> Oracle<'l> {
    pub(crate) fn new(ledger: &'l Ledger) -> Self {
        Self { index: ledger.index(), ledger }
    }

    /// The reading, if it is of this run: device, sequence number and timestamp agree.
    fn find(&self, device: DeviceId, sequence: u64, timestamp_ms: i64) -> Option<Place> {
        let device = *self.index.get(&device)?;
        let ledger = &self.ledger.devices[device];
        let position = ledger.position(sequence)?;
        (ledger.entries[position].timestamp_ms == timestamp_ms).then_some(Place { device, position })
    }

    fn entry(&self, place: Place) -> &Entry {
        &self.ledger.devices[place.device].entries[place.position]
    }

    fn name(&self, place: Place) -> ReadingName {
        let device = &self.ledger.devices[place.device];
        ReadingName {
            device: device.device,
            sequence: device.sequence(place.position),
            timestamp_ms: device.entries[place.position].timestamp_ms,
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let devices = self.ledger.devices.iter().enumerate();
        devices.flat_map(|(device, ledger)| {
            (0..ledger.entries.len()).map(move |position| Place { device, position })
        })
    }

    /// Readings that must be one row.
    pub(crate) fn rows_expected(&self) -> u64 {
        self.ledger.entries().filter(|(_, _, entry)| entry.must_be_stored()).count() as u64
    }

    /// The devices of the run.
    pub(crate) fn devices(&self) -> Vec<DeviceId> {
        self.ledger.devices.iter().map(|device| device.device).collect()
    }

    /// The first and the last timestamp of the run, Unix milliseconds.
    pub(crate) fn timestamps(&self) -> (i64, i64) {
        // Readings that were made too old or too new on purpose would only widen the search.
        let sound = self.ledger.entries().filter(|(_, _, entry)| entry.sends > 0 && entry.invalid.is_none());
        let timestamps = sound.map(|(_, _, entry)| entry.timestamp_ms);
        timestamps.fold((i64::MAX, i64::MIN), |(first, last), ms| (first.min(ms), last.max(ms)))
    }

    /// What no store needs to be asked for.
    pub(crate) fn differences(&self, differences: &mut Differences) {
        for place in self.places() {
            let entry = self.entry(place);
            if entry.outcome == Outcome::DeadLettered && entry.invalid.is_none() {
                differences.push(Difference::ValidDeadLettered(self.name(place)));
            }
        }
    }

    fn is_wrongly_stored(&self, place: Place) -> Option<Difference> {
        let entry = self.entry(place);
        match (entry.invalid, entry.outcome) {
            (Some(reason), _) => Some(Difference::InvalidStored(self.name(place), reason)),
            (None, Outcome::Refused) => Some(Difference::RefusedStored(self.name(place))),
            _ => None,
        }
    }
}

/// How often each reading was seen; 255 stands for that and more.
struct Copies(Vec<Vec<u8>>);

impl Copies {
    fn new(ledger: &Ledger) -> Self {
        Self(ledger.devices.iter().map(|device| vec![0; device.entries.len()]).collect())
    }

    fn add(&mut self, place: Place) {
        let copies = &mut self.0[place.device][place.position];
        *copies = copies.saturating_add(1);
    }

    fn of(&self, place: Place) -> u8 {
        self.0[place.device][place.position]
    }
}

/// What Kafka's readings topic holds. Feed it the records of a partition in the order of their offsets.
pub(crate) struct Records<'o> {
    oracle: &'o Oracle<'o>,
    copies: Copies,
    /// The last reading of each device that was sent only once.
    last: Vec<Option<usize>>,
    disorder: Differences,
    /// Records of the run's readings.
    pub(crate) found: u64,
}

impl<'o> Records<'o> {
    pub(crate) fn new(oracle: &'o Oracle<'o>) -> Self {
        Self {
            copies: Copies::new(oracle.ledger),
            last: vec![None; oracle.ledger.devices.len()],
            disorder: Differences::default(),
            found: 0,
            oracle,
        }
    }

    pub(crate) fn saw(
        &mut self,
        device: DeviceId,
        sequence: u64,
        timestamp_ms: i64,
        partition: i32,
        offset: i64,
    ) {
        let Some(place) = self.oracle.find(device, sequence, timestamp_ms) else { return };
        self.found += 1;
        self.copies.add(place);
        // A reading that was sent again may stand behind later ones, and its copies stand anywhere.
        if self.oracle.entry(place).was_resent() {
            return;
        }
        let last = &mut self.last[place.device];
        match *last {
            Some(before) if before >= place.position => {
                let after = self.oracle.ledger.devices[place.device].sequence(before);
                let reading = self.oracle.name(place);
                self.disorder.push(Difference::OutOfOrder { reading, after, partition, offset });
            }
            _ => *last = Some(place.position),
        }
    }

    /// The number of acknowledged readings that are missing.
    pub(crate) fn differences(self, differences: &mut Differences) -> Missing {
        let mut missing = Missing::new(self.oracle.ledger);
        for place in self.oracle.places() {
            let (entry, copies) = (self.oracle.entry(place), self.copies.of(place));
            let name = || self.oracle.name(place);
            if copies == 0 {
                if entry.must_be_stored() {
                    differences.push(Difference::MissingInKafka(name()));
                    missing.add(place);
                }
                continue;
            }
            if let Some(difference) = self.oracle.is_wrongly_stored(place) {
                differences.push(difference);
            }
            if u16::from(copies) > entry.sends {
                differences.push(Difference::ExtraRecords(name(), copies, entry.sends));
            }
        }
        differences.append(self.disorder);
        missing
    }
}

/// What ClickHouse's table holds.
pub(crate) struct Rows<'o> {
    oracle: &'o Oracle<'o>,
    copies: Copies,
    offsets: Vec<(i64, i64)>,
    /// Rows of the run's readings.
    pub(crate) found: u64,
}

/// Rows too many, by whether Kafka may hold the reading more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Duplicates {
    pub(crate) sent_once: u64,
    pub(crate) resent: u64,
    pub(crate) offsets: u64,
}

impl<'o> Rows<'o> {
    pub(crate) fn new(oracle: &'o Oracle<'o>) -> Self {
        Self { copies: Copies::new(oracle.ledger), offsets: Vec::new(), found: 0, oracle }
    }

    pub(crate) fn saw(
        &mut self,
        device: DeviceId,
        sequence: u64,
        timestamp_ms: i64,
        partition: i64,
        offset: i64,
    ) {
        if let Some(place) = self.oracle.find(device, sequence, timestamp_ms) {
            self.found += 1;
            self.copies.add(place);
            self.offsets.push((partition, offset));
        }
    }

    /// How many readings that must be there are not.
    pub(crate) fn missing(&self) -> u64 {
        let absent =
            |place: &Place| self.oracle.entry(*place).must_be_stored() && self.copies.of(*place) == 0;
        self.oracle.places().filter(absent).count() as u64
    }

    /// Several rows of a reading that was sent more than once are a difference unless they are allowed.
    pub(crate) fn differences(
        mut self,
        resent_allowed: bool,
        differences: &mut Differences,
    ) -> (Missing, Duplicates) {
        let mut missing = Missing::new(self.oracle.ledger);
        let mut duplicates = Duplicates::default();
        for place in self.oracle.places() {
            let (entry, copies) = (self.oracle.entry(place), self.copies.of(place));
            let name = || self.oracle.name(place);
            if copies == 0 {
                if entry.must_be_stored() {
                    differences.push(Difference::MissingInClickHouse(name()));
                    missing.add(place);
                }
                continue;
            }
            if let Some(difference) = self.oracle.is_wrongly_stored(place) {
                differences.push(difference);
            }
            if copies > 1 {
                let resent = entry.was_resent();
                let extra = if resent { &mut duplicates.resent } else { &mut duplicates.sent_once };
                *extra += u64::from(copies - 1);
                if !resent || !resent_allowed {
                    differences.push(Difference::DuplicateRows(name(), copies));
                }
            }
        }
        self.offsets.sort_unstable();
        for same in self.offsets.chunk_by(|a, b| a == b).filter(|same| same.len() > 1) {
            let (partition, offset) = same[0];
            let rows = same.len() as u64;
            duplicates.offsets += rows - 1;
            differences.push(Difference::DuplicateOffset { partition, offset, rows });
        }
        (missing, duplicates)
    }

    /// The rows are those of a table in which every reading is one row: what of those sent more than once is missing
    /// there or doubled; returns the rows too many.
    pub(crate) fn unique_differences(self, differences: &mut Differences) -> u64 {
        let mut duplicates = 0;
        for place in self.oracle.places().filter(|place| self.oracle.entry(*place).was_resent()) {
            match self.copies.of(place) {
                0 if self.oracle.entry(place).must_be_stored() => {
                    differences.push(Difference::MissingInClickHouse(self.oracle.name(place)));
                }
                0 | 1 => {}
                copies => {
                    duplicates += u64::from(copies - 1);
                    differences.push(Difference::DuplicateRows(self.oracle.name(place), copies));
                }
            }
        }
        duplicates
    }
}

/// Readings that a store lacks.
pub(crate) struct Missing(Copies, u64);

impl Missing {
    fn new(ledger: &Ledger) -> Self {
        Self(Copies::new(ledger), 0)
    }

    fn add(&mut self, place: Place) {
        self.0.add(place);
        self.1 += 1;
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.1
    }

    /// How many there are in either, each counted once.
    pub(crate) fn union(&self, other: &Self) -> u64 {
        let pairs = self.0.0.iter().flatten().zip(other.0.0.iter().flatten());
        pairs.filter(|(a, b)| **a + **b > 0).count() as u64
    }
}

/// What the dead-letter topic holds.
pub(crate) struct DeadLetters<'o> {
    oracle: &'o Oracle<'o>,
    copies: Copies,
    wrong: Differences,
    by_reason: BTreeMap<&'static str, u64>,
}

impl<'o> DeadLetters<'o> {
    pub(crate) fn new(oracle: &'o Oracle<'o>) -> Self {
        let (copies, wrong) = (Copies::new(oracle.ledger), Differences::default());
        Self { oracle, copies, wrong, by_reason: BTreeMap::new() }
    }

    pub(crate) fn saw(&mut self, device: DeviceId, sequence: u64, timestamp_ms: i64, reason: Reason) {
        let Some(place) = self.oracle.find(device, sequence, timestamp_ms) else { return };
        self.copies.add(place);
        *self.by_reason.entry(reason.name()).or_default() += 1;
        let made = self.oracle.entry(place).invalid;
        if made != Some(reason) {
            self.wrong.push(Difference::WrongDeadLetter(self.oracle.name(place), reason, made));
        }
    }

    /// Dead letters of the run's readings, by reason.
    pub(crate) fn differences(self, differences: &mut Differences) -> BTreeMap<&'static str, u64> {
        for place in self.oracle.places() {
            let (entry, copies) = (self.oracle.entry(place), self.copies.of(place));
            match entry.invalid {
                Some(reason) if copies == 0 && entry.must_be_dead_letter() => {
                    differences.push(Difference::MissingDeadLetter(self.oracle.name(place), reason));
                }
                _ if u16::from(copies) > entry.sends => {
                    differences.push(Difference::ExtraDeadLetters(
                        self.oracle.name(place),
                        copies,
                        entry.sends,
                    ));
                }
                _ => {}
            }
        }
        differences.append(self.wrong);
        self.by_reason
    }
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
