//! The planner: from a seed and a number, which faults come when. Pure: the same seed gives the same plan.
//!
//! The first faults are one of each kind, in a drawn order; those after them are drawn. Faults of a round overlap unless
//! they have the same target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fastrand::Rng;

/// A target is left alone for this long after a fault, so that the next one meets it at work.
const RECOVERY_MS: u64 = 3_000;
const DRAWS_MAX: usize = 6;

/// The kinds of faults of a suite, whose processes of one role are a group that members join and leave.
pub trait Kind: Copy + Ord + fmt::Debug + fmt::Display + Send + Sync {
    /// What a fault is done to. Faults of one target come one after the other.
    type Target: Copy + Ord;

    /// One more member.
    const JOIN: Self;
    /// SIGTERM to a member, which is not started again.
    const LEAVE: Self;
    /// Members when the first round begins.
    const MEMBERS_AT_FIRST: usize;
    /// The group never gets smaller.
    const MEMBERS_MIN: usize;
    /// The group never gets larger: places for members.
    const MEMBERS_MAX: usize;

    /// Every kind once.
    fn all() -> Vec<Self>;

    /// What this kind is done to; `member` counts only where it is of a member.
    fn target(self, member: usize) -> Self::Target;

    /// The networks that end with a member.
    fn networks(member: usize) -> Vec<Self::Target>;

    /// Whether it is done to one member, or to a network of one.
    fn is_of_a_member(self) -> bool;

    /// Whether it is done to a network.
    fn is_of_a_network(self) -> bool;

    /// Whether it delays what goes through a network.
    fn is_delay(self) -> bool;

    /// A kind, after each has had its first turn.
    fn draw(rng: &mut Rng) -> Self {
        let all = Self::all();
        all[rng.usize(..all.len())]
    }

    /// How long a fault of this kind lasts, in milliseconds; a SIGSTOP no longer than `stop_ms_max`.
    fn hold_ms(self, rng: &mut Rng, stop_ms_max: u64) -> u64;
}

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
    /// No SIGSTOP is longer; a suite can have shorter limits of its own.
    pub stop_ms_max: u64,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<K> {
    /// Counted from 1 through the whole plan.
    pub number: usize,
    /// What is done.
    pub kind: K,
    /// Which member of the group, where the kind is of one.
    pub member: usize,
    /// When, from the beginning of its round.
    pub start_ms: u64,
    /// How long it lasts.
    pub hold_ms: u64,
    /// What a delay comes to on the way forth and back.
    pub delay_ms: (u64, u64),
}

impl<K: Kind> Fault<K> {
    /// What it is done to.
    pub fn target(&self) -> K::Target {
        self.kind.target(self.member)
    }
}

#[allow(clippy::cast_precision_loss, reason = "minutes in milliseconds")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

impl<K: Kind> fmt::Display for Fault<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}", self.number, self.kind)?;
        if self.kind.is_of_a_member() {
            write!(f, " {}", self.member)?;
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
pub struct Round<K> {
    /// Counted from 1.
    pub number: usize,
    /// Its faults.
    pub faults: Vec<Fault<K>>,
}

/// The plan.
pub fn plan<K: Kind>(options: &PlanOptions) -> Vec<Round<K>> {
    let mut rng = Rng::with_seed(options.seed);
    let mut left = K::all();
    rng.shuffle(&mut left);
    let mut planner = Planner {
        rng,
        options: *options,
        group: (0..K::MEMBERS_AT_FIRST).collect(),
        left,
        old: BTreeSet::new(),
        free_at: BTreeMap::new(),
        group_changes_ms: 0,
    };
    let mut rounds: Vec<Round<K>> = Vec::new();
    let mut next = 1;
    while next <= options.faults {
        let size = options.round_of.max(1).min(options.faults - next + 1);
        let faults = planner.round(next, size);
        rounds.push(Round { number: rounds.len() + 1, faults });
        next += size;
    }
    rounds
}

struct Planner<K: Kind> {
    rng: Rng,
    options: PlanOptions,
    /// Members that run.
    group: BTreeSet<usize>,
    /// Kinds that have not had their first turn.
    left: Vec<K>,
    /// Members that ran when the round began.
    old: BTreeSet<usize>,
    /// When the faults of a target in this round are over, so far.
    free_at: BTreeMap<K::Target, u64>,
    /// When the group changes for the last time in this round, so far.
    group_changes_ms: u64,
}

impl<K: Kind> Planner<K> {
    fn round(&mut self, first: usize, size: usize) -> Vec<Fault<K>> {
        let mut starts: Vec<u64> = (0..size).map(|_| self.rng.u64(..=self.options.window_ms)).collect();
        starts.sort_unstable();
        self.free_at.clear();
        self.group_changes_ms = 0;
        self.old.clone_from(&self.group);
        let mut faults: Vec<Fault<K>> = starts.into_iter().map(|start_ms| self.fault(start_ms)).collect();
        faults.sort_by_key(|fault| fault.start_ms);
        for (fault, number) in faults.iter_mut().zip(first..) {
            fault.number = number;
        }
        faults
    }

    /// A fault that begins at `start_ms`, or later where its target has one before.
    fn fault(&mut self, start_ms: u64) -> Fault<K> {
        let (kind, member) = self.choose(start_ms);
        let start_ms = self.earliest(kind, member, start_ms);
        let hold_ms = kind.hold_ms(&mut self.rng, self.options.stop_ms_max);
        let delay_ms = self.delay_ms(kind);
        let busy = start_ms + hold_ms + RECOVERY_MS;
        self.free_at.insert(kind.target(member), busy);
        if kind == K::JOIN {
            self.group.insert(member);
            self.free_at.extend(K::networks(member).into_iter().map(|network| (network, busy)));
        }
        if kind == K::LEAVE {
            self.group.remove(&member);
        }
        if Self::changes_the_group(kind) {
            self.group_changes_ms = start_ms;
        }
        let member = if kind.is_of_a_member() { member } else { 0 };
        Fault { number: 0, kind, member, start_ms, hold_ms, delay_ms }
    }

    fn changes_the_group(kind: K) -> bool {
        kind == K::JOIN || kind == K::LEAVE
    }

    /// What and to whom: a few are drawn until one has a target that is free, because a round whose faults wait for each
    /// other is long.
    fn choose(&mut self, start_ms: u64) -> (K, usize) {
        for _ in 1..DRAWS_MAX {
            let first_turn = self.left.pop();
            let (kind, member) = self.draw(first_turn);
            if self.earliest(kind, member, start_ms) == start_ms {
                return (kind, member);
            }
            // A kind that has not had its first turn has it later.
            if let Some(kind) = first_turn {
                self.left.insert(0, kind);
            }
        }
        let first_turn = self.left.pop();
        self.draw(first_turn)
    }

    fn draw(&mut self, first_turn: Option<K>) -> (K, usize) {
        let kind = first_turn.unwrap_or_else(|| K::draw(&mut self.rng));
        // The group never gets too small or too large: then the one kind takes the place of the other.
        let kind = if kind == K::LEAVE && self.group.len() <= K::MEMBERS_MIN {
            K::JOIN
        } else if kind == K::JOIN && self.group.len() >= K::MEMBERS_MAX {
            K::LEAVE
        } else {
            kind
        };
        let member = if kind == K::JOIN {
            (0..K::MEMBERS_MAX).find(|place| !self.group.contains(place)).unwrap_or(0)
        } else if kind.is_of_a_network() {
            // A network needs somebody at its end.
            let both: Vec<usize> = self.group.intersection(&self.old).copied().collect();
            if both.is_empty() { self.one_of_the_group() } else { self.one_of(&both) }
        } else {
            self.one_of_the_group()
        };
        (kind, member)
    }

    /// When a fault can begin, at `start_ms` at the earliest.
    fn earliest(&self, kind: K, member: usize, start_ms: u64) -> u64 {
        let free = |target| self.free_at.get(&target).copied().unwrap_or(0);
        let start_ms = start_ms.max(free(kind.target(member)));
        if !Self::changes_the_group(kind) {
            return start_ms;
        }
        // In the order they were drawn in: that is what keeps the group's size. And who leaves does not take what is
        // still to be done to its networks with it.
        K::networks(member).into_iter().map(free).fold(start_ms.max(self.group_changes_ms), u64::max)
    }

    fn one_of_the_group(&mut self) -> usize {
        let all: Vec<usize> = self.group.iter().copied().collect();
        self.one_of(&all)
    }

    fn one_of(&mut self, members: &[usize]) -> usize {
        members.get(self.rng.usize(..members.len().max(1))).copied().unwrap_or(0)
    }

    fn delay_ms(&mut self, kind: K) -> (u64, u64) {
        let mut ms = || self.rng.u64(10..1_000);
        let (forth, back) = (ms(), ms());
        match (kind.is_delay(), self.rng.u8(..3)) {
            (false, _) => (0, 0),
            (true, 0) => (forth, 0),
            (true, 1) => (0, back),
            (true, _) => (forth, back),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
