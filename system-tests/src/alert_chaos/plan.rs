//! The planner: from a seed and a number, which faults come when. Pure: the same seed gives the same plan.
//!
//! The first faults are one of each kind, in a drawn order; those after them are drawn, those of alerters more often.
//! Faults of a round overlap unless they have the same target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fastrand::Rng;

use super::kind::{ALERTERS_MAX, Kind, Target};
use crate::chaos::timeline::Scheduled;

/// Alerters in the group when the first round begins, and at least.
pub const ALERTERS_MIN: usize = 2;
/// A target is left alone for this long after a fault, so that the next one meets it at work.
const RECOVERY_MS: u64 = 3_000;
/// Longer than an alerter's session: its partitions move while it sleeps, and it comes back as if it still had them.
const PAST_SESSION_MS: u64 = 7_000;
/// No SIGSTOP of Kafka is longer: what lay in its sockets must arrive within the grace for silent devices.
pub const KAFKA_STOP_MS_MAX: u64 = 8_000;
const DRAWS_MAX: usize = 6;

/// What a plan is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Everything drawn follows from it.
    pub seed: u64,
    /// How many faults.
    pub faults: usize,
    /// How many a round.
    pub round_of: usize,
    /// Faults of a round begin within this time.
    pub window_ms: u64,
    /// No SIGSTOP of an alerter is longer.
    pub stop_ms_max: u64,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1 through the whole plan.
    pub number: usize,
    /// What is done.
    pub kind: Kind,
    /// Which alerter, where the kind is of one.
    pub alerter: usize,
    /// When, from the beginning of its round.
    pub start_ms: u64,
    /// How long it lasts.
    pub hold_ms: u64,
    /// What a delay comes to on the way forth and back.
    pub delay_ms: (u64, u64),
}

impl Scheduled for Fault {
    type Target = Target;

    fn target(&self) -> Target {
        self.kind.target(self.alerter)
    }

    fn start_ms(&self) -> u64 {
        self.start_ms
    }
}

#[allow(clippy::cast_precision_loss, reason = "minutes in milliseconds")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}", self.number, self.kind)?;
        if self.kind.is_of_an_alerter() {
            write!(f, " {}", self.alerter)?;
        }
        if let (forth @ 1.., back) | (forth, back @ 1..) = self.delay_ms {
            write!(f, " by {forth} ms forth and {back} ms back")?;
        }
        if self.hold_ms > 0 {
            write!(f, " for {:.1} s", seconds(self.hold_ms))?;
        }
        write!(f, " at {:.1} s", seconds(self.start_ms))
    }
}

/// Faults that overlap, in the order of their beginning. After them everything is healed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Counted from 1.
    pub number: usize,
    /// Its faults.
    pub faults: Vec<Fault>,
}

/// The plan.
pub fn plan(options: &PlanOptions) -> Vec<Round> {
    let mut rng = Rng::with_seed(options.seed);
    let mut left = Kind::ALL.to_vec();
    rng.shuffle(&mut left);
    let group = (0..ALERTERS_MIN).collect();
    let mut planner =
        Planner { rng, options: *options, group, left, free_at: BTreeMap::new(), group_changes_ms: 0 };
    let mut rounds: Vec<Round> = Vec::new();
    let mut next = 1;
    while next <= options.faults {
        let size = options.round_of.max(1).min(options.faults - next + 1);
        let faults = planner.round(next, size);
        rounds.push(Round { number: rounds.len() + 1, faults });
        next += size;
    }
    rounds
}

struct Planner {
    rng: Rng,
    options: PlanOptions,
    /// Alerters that run.
    group: BTreeSet<usize>,
    /// Kinds that have not had their first turn.
    left: Vec<Kind>,
    /// When the faults of a target in this round are over, so far.
    free_at: BTreeMap<Target, u64>,
    /// When the group changes for the last time in this round, so far.
    group_changes_ms: u64,
}

impl Planner {
    fn round(&mut self, first: usize, size: usize) -> Vec<Fault> {
        let mut starts: Vec<u64> = (0..size).map(|_| self.rng.u64(..=self.options.window_ms)).collect();
        starts.sort_unstable();
        self.free_at.clear();
        self.group_changes_ms = 0;
        let mut faults: Vec<Fault> = starts.into_iter().map(|start_ms| self.fault(start_ms)).collect();
        faults.sort_by_key(|fault| fault.start_ms);
        for (fault, number) in faults.iter_mut().zip(first..) {
            fault.number = number;
        }
        faults
    }

    /// A fault that begins at `start_ms`, or later where its target has one before.
    fn fault(&mut self, start_ms: u64) -> Fault {
        let (kind, alerter) = self.choose(start_ms);
        let start_ms = self.earliest(kind, alerter, start_ms);
        let (hold_ms, delay_ms) = (self.hold_ms(kind), self.delay_ms(kind));
        let busy = start_ms + hold_ms + RECOVERY_MS;
        self.free_at.insert(kind.target(alerter), busy);
        match kind {
            Kind::Join => {
                self.group.insert(alerter);
                self.free_at.insert(Target::Network(alerter), busy);
                self.group_changes_ms = start_ms;
            }
            Kind::Leave => {
                self.group.remove(&alerter);
                self.group_changes_ms = start_ms;
            }
            _ => {}
        }
        Fault { number: 0, kind, alerter, start_ms, hold_ms, delay_ms }
    }

    /// What and to whom: a few are drawn until one has a target that is free, because a round whose faults wait for each
    /// other is long.
    fn choose(&mut self, start_ms: u64) -> (Kind, usize) {
        for _ in 1..DRAWS_MAX {
            let first_turn = self.left.pop();
            let (kind, alerter) = self.draw(first_turn);
            if self.earliest(kind, alerter, start_ms) == start_ms {
                return (kind, alerter);
            }
            // A kind that has not had its first turn has it later.
            if let Some(kind) = first_turn {
                self.left.insert(0, kind);
            }
        }
        let first_turn = self.left.pop();
        self.draw(first_turn)
    }

    fn draw(&mut self, first_turn: Option<Kind>) -> (Kind, usize) {
        // Every other one kills, stops or restarts an alerter: that is what the suite is about.
        let kind = first_turn.unwrap_or_else(|| {
            let some = if self.rng.bool() { &Kind::ALL[..3] } else { &Kind::ALL[3..] };
            some[self.rng.usize(..some.len())]
        });
        // The group never gets too small or too large: then the one kind takes the place of the other.
        let kind = match kind {
            Kind::Leave if self.group.len() <= ALERTERS_MIN => Kind::Join,
            Kind::Join if self.group.len() >= ALERTERS_MAX => Kind::Leave,
            kind => kind,
        };
        let alerter = match kind {
            Kind::Join => (0..ALERTERS_MAX).find(|slot| !self.group.contains(slot)).unwrap_or(0),
            kind if kind.is_of_an_alerter() => {
                let group: Vec<usize> = self.group.iter().copied().collect();
                group[self.rng.usize(..group.len())]
            }
            _ => 0,
        };
        (kind, alerter)
    }

    /// When a fault can begin, at `start_ms` at the earliest.
    fn earliest(&self, kind: Kind, alerter: usize, start_ms: u64) -> u64 {
        let free = |target| self.free_at.get(&target).copied().unwrap_or(0);
        let start_ms = start_ms.max(free(kind.target(alerter)));
        if !matches!(kind, Kind::Join | Kind::Leave) {
            return start_ms;
        }
        // In the order they were drawn in: that is what keeps the group's size. And who leaves does not take what is
        // still to be done to its network with it.
        start_ms.max(self.group_changes_ms).max(free(Target::Network(alerter)))
    }

    fn hold_ms(&mut self, kind: Kind) -> u64 {
        let past_session = self.rng.bool();
        let longest = self.options.stop_ms_max.max(1_001);
        match kind {
            Kind::StopAlerter if past_session => self.rng.u64(PAST_SESSION_MS.min(longest - 1)..longest),
            Kind::StopAlerter => self.rng.u64(1_000..longest.min(PAST_SESSION_MS)),
            Kind::StopKafka => self.rng.u64(1_000..KAFKA_STOP_MS_MAX),
            Kind::KillAlerter => self.rng.u64(..9_000),
            Kind::KillKafka => self.rng.u64(..3_000),
            Kind::RestartAlerter | Kind::RestartKafka => self.rng.u64(..1_000),
            Kind::CutReset | Kind::CutSilent if past_session => self.rng.u64(PAST_SESSION_MS..14_000),
            Kind::CutReset | Kind::CutSilent => self.rng.u64(500..PAST_SESSION_MS),
            Kind::Delay => self.rng.u64(3_000..9_000),
            Kind::Join | Kind::Leave | Kind::TouchRules => 0,
        }
    }

    fn delay_ms(&mut self, kind: Kind) -> (u64, u64) {
        let mut ms = || self.rng.u64(10..1_000);
        let (forth, back) = (ms(), ms());
        match (kind, self.rng.u8(..3)) {
            (Kind::Delay, 0) => (forth, 0),
            (Kind::Delay, 1) => (0, back),
            (Kind::Delay, _) => (forth, back),
            _ => (0, 0),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
