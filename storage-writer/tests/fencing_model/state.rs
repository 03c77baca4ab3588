//! What the model remembers: one partition, the writers' memories, and the inserts between them and `ClickHouse`.
//!
//! Claims are kept by their order only. A check asks whether a greater claim exists, so an insert needs one bit (is its
//! claim the greatest?), and a writer that has read the greatest epoch needs to know only how old that reading is.
//! This makes the space finite without a limit on moves, crashes or takeovers.

/// Offsets as a bit mask: bit 0 is the first offset of the topic.
pub(crate) type Offsets = u8;

/// The most writers and inserts a configuration can have.
pub(crate) const WRITERS_MAX: usize = 3;
pub(crate) const INSERTS_MAX: usize = 3;

/// Nobody: no owner, or an insert whose sender is gone or listens no more.
pub(crate) const NOBODY: u8 = 0xff;

/// How far an insert has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// No insert: the slot is free.
    #[default]
    Free,
    /// In the network or a socket buffer; `ClickHouse` has not begun it.
    Wire,
    /// In `system.processes`; its check is still to come.
    Registered,
    /// It passed the check, and may have stored a part of its rows.
    Checked,
    /// Killed before its body was whole: stores nothing, and stays registered until its sender goes on.
    CancelledHalf,
    /// Ended, answer not yet received: stored.
    Stored,
    /// Ended, answer not yet received: an error, with some, all or no rows stored.
    Failed,
    /// Ended, answer not yet received: a greater claim exists.
    Fenced,
}

/// One insert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Insert {
    pub(crate) stage: Stage,
    /// The whole body has left the sender.
    pub(crate) whole: bool,
    /// Who waits for the answer.
    pub(crate) sender: u8,
    /// No greater claim than this insert's exists. Kept until the check.
    pub(crate) greatest: bool,
    /// Sent under the claim that its sender holds now.
    pub(crate) current: bool,
    /// The offsets of its rows, and those it has not stored yet.
    pub(crate) batch: Offsets,
    pub(crate) left: Offsets,
    /// The writers whose takeover waits for its end, as a bit mask.
    pub(crate) awaited: u8,
}

impl Insert {
    pub(crate) fn registered(&self) -> bool {
        matches!(self.stage, Stage::Registered | Stage::Checked | Stage::CancelledHalf)
    }

    pub(crate) fn ended(&self) -> bool {
        matches!(self.stage, Stage::Stored | Stage::Failed | Stage::Fenced)
    }

    /// The insert leaves `system.processes`; its answer is of use only if somebody waits for it.
    pub(crate) fn end(&mut self, stage: Stage) {
        if self.sender == NOBODY {
            *self = Self::default();
        } else {
            // What no later step reads is cleared, so that states that behave alike are one.
            *self = Self {
                stage,
                sender: self.sender,
                current: self.current,
                batch: self.batch,
                ..Self::default()
            };
        }
    }

    /// Its sender listens no more. A half-sent body ends with the connection, and the insert with it.
    pub(crate) fn orphan(&mut self) {
        if self.ended() || !self.whole {
            *self = Self::default();
        } else {
            self.sender = NOBODY;
            self.current = false;
        }
    }

    fn key(&self) -> u32 {
        (self.stage as u32) << 28
            | u32::from(self.whole) << 27
            | u32::from(self.greatest) << 26
            | u32::from(self.current) << 25
            | u32::from(self.sender) << 16
            | u32::from(self.batch) << 10
            | u32::from(self.left) << 4
            | u32::from(self.awaited)
    }
}

/// Where a writer is in its takeover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Does not work on the partition.
    #[default]
    Idle,
    /// (1) and (2): has read the greatest claim; its own is about to be sent or on its way.
    Claim,
    /// (3) has written its claim and is to read back.
    ReadBack,
    /// (4) has seen its own claim as the greatest and is to kill.
    Kill,
    /// (5) waits for the inserts it has killed.
    Wait,
    /// (6) and (7): asks, inserts, commits.
    Work,
}

/// How the epoch that a claim in the making was read from stands to the greatest claim now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    /// No claim is in the making.
    #[default]
    None,
    /// Still the greatest: the claim will be greater than all.
    Latest,
    /// Another claim has since taken the next epoch: the random numbers decide.
    Tie,
    /// Older: the claim will be smaller.
    Old,
}

impl Reading {
    /// A claim with a new epoch was written.
    pub(crate) fn age(&mut self) {
        *self = match self {
            Self::None => Self::None,
            Self::Latest => Self::Tie,
            Self::Tie | Self::Old => Self::Old,
        }
    }
}

/// What a writer thinks of Kafka's assignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Belief {
    /// That the partition is not its own.
    #[default]
    NotMine,
    /// That it is its own; but Kafka has moved on.
    Stale,
    /// That it is its own, and so it is.
    Current,
}

/// A writer's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) phase: Phase,
    pub(crate) reading: Reading,
    pub(crate) belief: Belief,
    /// Its claim is the greatest. The writer itself does not know this.
    pub(crate) greatest: bool,
    /// Known to be stored.
    pub(crate) stored: Offsets,
    /// To be asked for: what could have stored them has ended.
    pub(crate) ask: Offsets,
    /// Not to be asked for before the next takeover is through: an insert may still run.
    pub(crate) unknown: Offsets,
}

impl Writer {
    /// (1), at once: a reading that comes later is as if the claim made from this one were given up.
    pub(crate) fn read_claim(&mut self) {
        self.phase = Phase::Claim;
        self.reading = Reading::Latest;
        self.greatest = false;
    }

    /// The takeover is through: what was unknown can be asked for.
    pub(crate) fn work(&mut self) {
        self.phase = Phase::Work;
        self.ask |= self.unknown;
        self.unknown = 0;
    }

    /// The insert of these offsets has ended, and has not stored all.
    pub(crate) fn will_ask(&mut self, batch: Offsets) {
        if self.phase == Phase::Work { self.ask |= batch } else { self.unknown |= batch }
    }

    fn key(&self) -> u64 {
        (self.phase as u64) << 40
            | (self.reading as u64) << 36
            | (self.belief as u64) << 32
            | u64::from(self.greatest) << 28
            | u64::from(self.stored) << 16
            | u64::from(self.ask) << 8
            | u64::from(self.unknown)
    }
}

/// One state of the whole system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The committed offset.
    pub(crate) committed: u8,
    /// Offsets with a row, and offsets with two.
    pub(crate) rows: Offsets,
    pub(crate) twice: Offsets,
    pub(crate) writers: [Writer; WRITERS_MAX],
    pub(crate) inserts: [Insert; INSERTS_MAX],
}

impl State {
    pub(crate) fn initial() -> Self {
        Self {
            committed: 0,
            rows: 0,
            twice: 0,
            writers: [Writer::default(); WRITERS_MAX],
            inserts: [Insert::default(); INSERTS_MAX],
        }
    }

    /// Slots have no identity: one order for all of their orders.
    pub(crate) fn sort_inserts(&mut self) {
        for end in 1..INSERTS_MAX {
            let mut at = end;
            while at > 0 && self.inserts[at].key() > self.inserts[at - 1].key() {
                self.inserts.swap(at, at - 1);
                at -= 1;
            }
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        let mut hash = u64::from(self.committed) << 16 | u64::from(self.rows) << 8 | u64::from(self.twice);
        for writer in &self.writers {
            hash = mix(hash ^ writer.key());
        }
        for insert in &self.inserts {
            hash = mix(hash ^ u64::from(insert.key()));
        }
        hash
    }
}

fn mix(word: u64) -> u64 {
    let product = word.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd6e8_feb8_6659_fd93);
    product ^ (product >> 32)
}
