//! The planner: from a seed and a number, which faults come when. Pure: the same seed gives the same plan.
//!
//! The first faults are one of each kind, in a drawn order; those after them are drawn. Faults of a round overlap unless
//! they have the same target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fastrand::Rng;

use super::kind::{Kind, Link, Role, Target, WRITERS_MAX};
use super::timeline::Scheduled;

/// Writers in the group when the first round begins.
pub const WRITERS_AT_FIRST: usize = 3;
const WRITERS_MIN: usize = 2;
/// A target is left alone for this long after a fault, so that the next one meets it at work.
const RECOVERY_MS: u64 = 3_000;
/// Longer than a writer's session: its partitions move while it sleeps.
const PAST_SESSION_MS: u64 = 7_000;
/// One SIGSTOP in this many is long.
const LONG_ONE_IN: u32 = 16;
const USUAL_MS: u64 = 15_000;
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
    /// No SIGSTOP is longer.
    pub stop_ms_max: u64,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1 through the whole plan.
    pub number: usize,
    /// What is done.
    pub kind: Kind,
    /// Which writer, where the kind is of one.
    pub writer: usize,
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
        self.kind.target(self.writer)
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
        if self.kind.is_of_a_writer() {
            write!(f, " {}", self.writer)?;
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
    let mut left = Kind::all();
    rng.shuffle(&mut left);
    let mut planner = Planner {
        rng,
        options: *options,
        group: (0..WRITERS_AT_FIRST).collect(),
        left,
        old: BTreeSet::new(),
        free_at: BTreeMap::new(),
        group_changes_ms: 0,
    };
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
    /// Writers that run.
    group: BTreeSet<usize>,
    /// Kinds that have not had their first turn.
    left: Vec<Kind>,
    /// Writers that ran when the round began.
    old: BTreeSet<usize>,
    /// When the faults of a target in this round are over, so far.
    free_at: BTreeMap<Target, u64>,
    /// When the group changes for the last time in this round, so far.
    group_changes_ms: u64,
}

fn networks(writer: usize) -> [Target; 2] {
    [Link::WriterKafka, Link::WriterClickHouse].map(|link| Target::Network(link, writer))
}

impl Planner {
    fn round(&mut self, first: usize, size: usize) -> Vec<Fault> {
        let mut starts: Vec<u64> = (0..size).map(|_| self.rng.u64(..=self.options.window_ms)).collect();
        starts.sort_unstable();
        self.free_at.clear();
        self.group_changes_ms = 0;
        self.old.clone_from(&self.group);
        let mut faults: Vec<Fault> = starts.into_iter().map(|start_ms| self.fault(start_ms)).collect();
        faults.sort_by_key(|fault| fault.start_ms);
        for (fault, number) in faults.iter_mut().zip(first..) {
            fault.number = number;
        }
        faults
    }

    /// A fault that begins at `start_ms`, or later where its target has one before.
    fn fault(&mut self, start_ms: u64) -> Fault {
        let (kind, writer) = self.choose(start_ms);
        match kind {
            Kind::Join => self.group.insert(writer),
            Kind::Leave => self.group.remove(&writer),
            _ => false,
        };
        let start_ms = self.earliest(kind, writer, start_ms);
        let (hold_ms, delay_ms) = (self.hold_ms(kind), self.delay_ms(kind));
        let busy = start_ms + hold_ms + RECOVERY_MS;
        self.free_at.insert(kind.target(writer), busy);
        if matches!(kind, Kind::Join | Kind::Leave) {
            self.group_changes_ms = start_ms;
        }
        if kind == Kind::Join {
            self.free_at.extend(networks(writer).map(|network| (network, busy)));
        }
        let writer = if kind.is_of_a_writer() { writer } else { 0 };
        Fault { number: 0, kind, writer, start_ms, hold_ms, delay_ms }
    }

    /// What and to whom: a few are drawn until one has a target that is free, because a round whose faults wait for each
    /// other is long.
    fn choose(&mut self, start_ms: u64) -> (Kind, usize) {
        for _ in 1..DRAWS_MAX {
            let first_turn = self.left.pop();
            let (kind, writer) = self.draw(first_turn);
            if self.earliest(kind, writer, start_ms) == start_ms {
                return (kind, writer);
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
        let all = Kind::all();
        let kind = first_turn.unwrap_or_else(|| all[self.rng.usize(..all.len())]);
        // The group never gets too small or too large: then the one kind takes the place of the other.
        let kind = match kind {
            Kind::Leave if self.group.len() <= WRITERS_MIN => Kind::Join,
            Kind::Join if self.group.len() >= WRITERS_MAX => Kind::Leave,
            kind => kind,
        };
        let writer = match kind {
            Kind::Join => (0..WRITERS_MAX).find(|slot| !self.group.contains(slot)).unwrap_or(0),
            Kind::CutReset(_) | Kind::CutSilent(_) | Kind::Delay(_) => {
                // A network needs somebody at its end.
                let both: Vec<usize> = self.group.intersection(&self.old).copied().collect();
                if both.is_empty() { self.one_of_the_group() } else { self.one_of(&both) }
            }
            _ => self.one_of_the_group(),
        };
        (kind, writer)
    }

    /// When a fault can begin, at `start_ms` at the earliest.
    fn earliest(&self, kind: Kind, writer: usize, start_ms: u64) -> u64 {
        let free = |target| self.free_at.get(&target).copied().unwrap_or(0);
        let start_ms = start_ms.max(free(kind.target(writer)));
        if !matches!(kind, Kind::Join | Kind::Leave) {
            return start_ms;
        }
        // In the order they were drawn in: that is what keeps the group's size. And who leaves does not take what is
        // still to be done to its networks with it.
        networks(writer).into_iter().map(free).fold(start_ms.max(self.group_changes_ms), u64::max)
    }

    fn one_of_the_group(&mut self) -> usize {
        let all: Vec<usize> = self.group.iter().copied().collect();
        self.one_of(&all)
    }

    fn one_of(&mut self, slots: &[usize]) -> usize {
        slots.get(self.rng.usize(..slots.len().max(1))).copied().unwrap_or(0)
    }

    fn hold_ms(&mut self, kind: Kind) -> u64 {
        let past_session = self.rng.bool();
        match kind {
            Kind::Stop(Role::Writer) if past_session => {
                self.stop_ms().max(PAST_SESSION_MS + self.rng.u64(..4_000)).min(self.options.stop_ms_max)
            }
            Kind::Stop(_) => self.stop_ms(),
            Kind::Kill(Role::Writer) => self.rng.u64(..9_000),
            Kind::Kill(_) => self.rng.u64(..4_000),
            Kind::Restart(_) => self.rng.u64(..1_000),
            Kind::CutReset(Link::WriterKafka) | Kind::CutSilent(Link::WriterKafka) if past_session => {
                self.rng.u64(PAST_SESSION_MS..12_000)
            }
            Kind::CutReset(_) | Kind::CutSilent(_) => self.rng.u64(500..9_000),
            Kind::Delay(_) => self.rng.u64(3_000..9_000),
            Kind::Join | Kind::Leave => 0,
        }
    }

    /// Mostly short, now and then up to a minute.
    fn stop_ms(&mut self) -> u64 {
        let (longest, shortest) = (self.options.stop_ms_max, 1_000);
        if longest > USUAL_MS && self.rng.u32(..LONG_ONE_IN) == 0 {
            return self.rng.u64(USUAL_MS..=longest);
        }
        let span = longest.min(USUAL_MS).saturating_sub(shortest);
        // The lesser of two draws is the lesser more often.
        shortest + self.rng.u64(..=span).min(self.rng.u64(..=span))
    }

    fn delay_ms(&mut self, kind: Kind) -> (u64, u64) {
        let mut ms = || self.rng.u64(10..1_000);
        let (forth, back) = (ms(), ms());
        match (kind, self.rng.u8(..3)) {
            (Kind::Delay(_), 0) => (forth, 0),
            (Kind::Delay(_), 1) => (0, back),
            (Kind::Delay(_), _) => (forth, back),
            _ => (0, 0),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
