//! Every step that Kafka, `ClickHouse` and the writers can take from a state.
//!
//! Some events are one step where a pause between them would let nothing happen that cannot happen otherwise. The new
//! owner learns of its assignment at once (before that, the old one is merely stale). A writer reads the greatest claim
//! at once (a later reading is this one given up). An insert ends with its last rows (its end could only be waited for
//! longer). A fenced writer begins anew at once if it still thinks that the partition is its own, which is more than
//! the protocol allows. A forgotten claim is not remembered: one can arrive at any moment.

use crate::action::Action;
use crate::state::{Belief, Insert, NOBODY, Offsets, Phase, Reading, Stage, State, Writer};

/// The protocol, or the protocol with one thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    AsDesigned,
    /// Inserts do not check for a greater claim.
    NoClaimCheck,
    /// A takeover goes from its claim straight to asking.
    NoKill,
    /// A takeover asks which offsets are stored, and only then kills and waits.
    AskBeforeKill,
    /// An insert that got no answer is asked for and sent again under the same claim.
    RetryUnderSameClaim,
    /// A takeover takes any cancelled insert for gone.
    CancelledIsGone,
    /// Two claims with one epoch are equal, and neither is greater.
    NoTieBreak,
    /// Kafka takes commits from old generations.
    OldCommits,
    /// A takeover looks which bodies are whole, and only then kills; it waits for those that it saw whole.
    LookBeforeKill,
    /// A takeover waits for cancelled inserts whose body is not whole, too.
    WaitForHalfSent,
    /// A takeover after an unknown insert asks for the offsets of that insert only.
    AskForBatchOnly,
    /// An error is answered while the insert still runs.
    ErrorBeforeEnd,
    /// An insert is registered only after its check. Its trace says "registers" of the check, and the other way round.
    CheckBeforeRegister,
    /// A body is two blocks, and the first is stored while the second is on its way.
    TwoBlocks,
}

/// Who takes a step. A fault is nobody's: progress must not need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    Server,
    Writer(u8),
    Kafka(u8),
    Fault,
}

/// One step: what happens, by whom, and the state after it.
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) actor: Actor,
    pub(crate) next: State,
}

/// A protocol and the size of the world it runs in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) protocol: Protocol,
    pub(crate) writers: u8,
    pub(crate) offsets: u8,
    /// Inserts outstanding at once, over all writers, those that nobody waits for included.
    pub(crate) inserts: usize,
    /// Inserts that one writer waits for at once.
    pub(crate) in_flight: usize,
}

/// Rows of one insert.
const BATCH_ROWS_MAX: u32 = 2;
/// The offsets whose rows belong to the first of two monthly parts; all others belong to the second.
const FIRST_MONTH: Offsets = 0b0101_0101;

impl Model {
    fn all(&self) -> Offsets {
        (1 << self.offsets) - 1
    }

    /// Every offset has a row, and all are committed.
    pub(crate) fn done(&self, state: &State) -> bool {
        state.rows == self.all() && state.committed == self.offsets
    }

    /// What is wrong with a state, if anything is.
    pub(crate) fn violation(&self, state: &State) -> Option<&'static str> {
        if state.twice != 0 {
            return Some("an offset has two rows");
        }
        let committed: Offsets = (1 << state.committed) - 1;
        (committed & !state.rows != 0).then_some("an offset below the committed one has no row")
    }

    /// Replaces `steps` by all steps from `state`.
    pub(crate) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        steps.clear();
        for writer in 0..self.writers {
            self.kafka_steps(state, writer, steps);
            self.takeover_steps(state, writer, steps);
            if state.writers[usize::from(writer)].phase == Phase::Work {
                self.work_steps(state, writer, steps);
            }
            self.commit_steps(state, writer, steps);
        }
        let mut running = false;
        for slot in 0..self.inserts {
            // Slots that hold the same are one.
            let insert = state.inserts[slot];
            if insert.stage == Stage::Free || slot > 0 && insert == state.inserts[slot - 1] {
                continue;
            }
            running |= !insert.ended();
            if insert.sender != NOBODY {
                self.sender_steps(state, slot, steps);
            }
            self.server_steps(state, slot, steps);
        }
        if running {
            let mut next = *state;
            next.inserts.iter_mut().filter(|insert| insert.stage != Stage::Free && !insert.ended()).for_each(
                |insert| {
                    insert.end(Stage::Failed);
                },
            );
            steps.push(Step { action: Action::Restart, actor: Actor::Fault, next });
        }
        // A claim that its writer has given up arrives when it will, and becomes the greatest.
        for reading in [Reading::Latest, Reading::Tie] {
            let mut next = *state;
            self.claim_written(&mut next, reading, true, None);
            steps.push(Step { action: Action::LateClaim(reading), actor: Actor::Fault, next });
        }
        for step in steps {
            step.next.sort_inserts();
        }
    }

    /// Assignment, and what a writer learns of it.
    fn kafka_steps(&self, state: &State, writer: u8, steps: &mut Vec<Step>) {
        let mut next = *state;
        for other in &mut next.writers {
            if other.belief == Belief::Current {
                other.belief = Belief::Stale;
            }
        }
        forget(&mut next, writer);
        self.begin(&mut next, writer, Belief::Current);
        steps.push(Step { action: Action::Assign(writer), actor: Actor::Kafka(writer), next });

        let (action, actor) = match state.writers[usize::from(writer)].belief {
            Belief::NotMine => return,
            Belief::Stale => (Action::NoticeLoss(writer), Actor::Writer(writer)),
            Belief::Current => (Action::Crash(writer), Actor::Fault),
        };
        let mut next = *state;
        forget(&mut next, writer);
        steps.push(Step { action, actor, next });
    }

    /// (1) to (5).
    fn takeover_steps(&self, state: &State, writer: u8, steps: &mut Vec<Step>) {
        let at = usize::from(writer);
        let me = state.writers[at];
        let mut next = *state;
        let action = match me.phase {
            Phase::Idle | Phase::Work => return,
            Phase::Claim => return self.claim_steps(state, writer, steps),
            Phase::ReadBack if !me.greatest => {
                next.writers[at].read_claim();
                Action::ReadBack(writer, false)
            }
            Phase::ReadBack => {
                // The write may have got no answer: then the writer does not know that there is something to read back.
                next.writers[at].read_claim();
                steps.push(Step { action: Action::ClaimUnknown(writer), actor: Actor::Fault, next });
                next = *state;
                next.writers[at].phase = Phase::Kill;
                match self.protocol {
                    Protocol::LookBeforeKill => {
                        for insert in
                            next.inserts.iter_mut().filter(|insert| insert.registered() && insert.whole)
                        {
                            insert.awaited |= 1 << writer;
                        }
                    }
                    Protocol::NoKill => next.writers[at].work(),
                    Protocol::AskBeforeKill => {
                        next.writers[at].work();
                        ask(&mut next, writer);
                        next.writers[at].phase = Phase::Kill;
                    }
                    _ => {}
                }
                Action::ReadBack(writer, true)
            }
            Phase::Kill => {
                for insert in &mut next.inserts {
                    self.kill(insert, writer);
                }
                next.writers[at].phase = Phase::Wait;
                Action::Kill(writer)
            }
            Phase::Wait if state.inserts.iter().any(|insert| insert.awaited & (1 << writer) != 0) => return,
            Phase::Wait => {
                next.writers[at].work();
                Action::WaitOver(writer)
            }
        };
        steps.push(Step { action, actor: Actor::Writer(writer), next });
    }

    /// (2): the claim arrives, or the writer gives it up and reads anew.
    fn claim_steps(&self, state: &State, writer: u8, steps: &mut Vec<Step>) {
        let at = usize::from(writer);
        let reading = state.writers[at].reading;
        let outcomes: &[bool] = match reading {
            Reading::Latest => &[true],
            Reading::Tie => &[true, false],
            Reading::Old | Reading::None => &[false],
        };
        for &won in outcomes {
            let mut next = *state;
            if won {
                next.writers[at].reading = Reading::None;
                next.writers[at].phase = Phase::ReadBack;
            } else {
                // It reads back another claim, and begins anew.
                next.writers[at].read_claim();
            }
            self.claim_written(&mut next, reading, won, Some(writer));
            steps.push(Step { action: Action::Claim(writer, won), actor: Actor::Writer(writer), next });
        }
        let mut next = *state;
        next.writers[at].read_claim();
        steps.push(Step { action: Action::ClaimUnknown(writer), actor: Actor::Fault, next });
    }

    /// A claim reached the table.
    fn claim_written(&self, next: &mut State, reading: Reading, won: bool, writer: Option<u8>) {
        let equal = self.protocol == Protocol::NoTieBreak && reading == Reading::Tie;
        if won && !equal {
            next.inserts.iter_mut().for_each(|insert| insert.greatest = false);
            next.writers.iter_mut().for_each(|writer| writer.greatest = false);
            if reading == Reading::Latest {
                next.writers.iter_mut().for_each(|writer| writer.reading.age());
            }
        }
        if let Some(writer) = writer {
            next.writers[usize::from(writer)].greatest = won || equal;
        }
    }

    /// (4) for one insert. An insert with its whole body may go on to its end, stored or not: the wait is for that.
    fn kill(&self, insert: &mut Insert, writer: u8) {
        let unregistered =
            self.protocol == Protocol::CheckBeforeRegister && insert.stage == Stage::Registered;
        if !insert.registered() || unregistered {
            return;
        }
        if !insert.whole {
            let checked = insert.stage != Stage::Registered;
            insert.stage = Stage::CancelledHalf;
            insert.greatest = false;
            insert.current = false;
            // It stores nothing more, unless it is in the middle of the first of its blocks.
            if self.protocol != Protocol::TwoBlocks || !checked {
                insert.left = 0;
            }
        }
        let waits = match self.protocol {
            Protocol::CancelledIsGone | Protocol::LookBeforeKill => false,
            Protocol::WaitForHalfSent => true,
            _ => insert.whole,
        };
        if waits {
            insert.awaited |= 1 << writer;
        }
    }

    /// (6) and (7): asks for what it does not know, sends what it knows not to be stored.
    fn work_steps(&self, state: &State, writer: u8, steps: &mut Vec<Step>) {
        let me = state.writers[usize::from(writer)];
        let actor = Actor::Writer(writer);
        if me.ask != 0 {
            let mut next = *state;
            ask(&mut next, writer);
            steps.push(Step { action: Action::Ask(writer), actor, next });
        }
        let (mut sent, mut in_flight) = (0, 0);
        for insert in sent_by(state, writer) {
            sent |= insert.batch;
            in_flight += 1;
        }
        let free = state.inserts[..self.inserts].iter().position(|insert| insert.stage == Stage::Free);
        let Some(slot) = free.filter(|_| in_flight < self.in_flight) else { return };
        let mut to_do = self.all() & !(me.stored | me.ask | me.unknown | sent);
        let mut batch = 0;
        while to_do != 0 && batch_rows(batch) < BATCH_ROWS_MAX {
            batch |= to_do & to_do.wrapping_neg();
            to_do &= to_do - 1;
            let mut next = *state;
            next.inserts[slot] = Insert {
                stage: Stage::Wire,
                whole: false,
                sender: writer,
                greatest: me.greatest,
                current: true,
                batch,
                left: batch,
                awaited: 0,
            };
            steps.push(Step { action: Action::Send(writer, batch), actor, next });
        }
    }

    /// A takeover begins with nothing known but the committed offset.
    fn begin(&self, next: &mut State, writer: u8, belief: Belief) {
        let stored = (1 << next.committed) - 1;
        let me = &mut next.writers[usize::from(writer)];
        me.belief = belief;
        me.stored = stored;
        me.unknown = self.all() & !stored;
        me.read_claim();
    }

    fn commit_steps(&self, state: &State, writer: u8, steps: &mut Vec<Step>) {
        let me = state.writers[usize::from(writer)];
        let offset = u8::try_from(me.stored.trailing_ones()).unwrap();
        let accepted = match self.protocol {
            Protocol::OldCommits => me.belief != Belief::NotMine && offset != state.committed,
            _ => me.belief == Belief::Current && offset > state.committed,
        };
        if accepted {
            let next = State { committed: offset, ..*state };
            steps.push(Step { action: Action::Commit(writer, offset), actor: Actor::Writer(writer), next });
        }
    }

    /// What the sender of an insert does with it.
    fn sender_steps(&self, state: &State, slot: usize, steps: &mut Vec<Step>) {
        let insert = state.inserts[slot];
        let (writer, at) = (insert.sender, usize::from(insert.sender));
        let mut next = *state;
        if insert.ended() {
            next.inserts[slot] = Insert::default();
            match insert.stage {
                Stage::Stored => next.writers[at].stored |= insert.batch,
                // Another writer's claim: this one stops, and begins anew if the partition is still its own for all it knows.
                Stage::Fenced if insert.current => {
                    forget(&mut next, writer);
                    self.begin(&mut next, writer, state.writers[at].belief);
                }
                _ => next.writers[at].will_ask(insert.batch),
            }
            let action = Action::Receive(writer, insert.batch, insert.stage);
            steps.push(Step { action, actor: Actor::Writer(writer), next });
        } else if !insert.whole {
            next.inserts[slot].whole = true;
            if insert.stage == Stage::CancelledHalf {
                next.inserts[slot].end(Stage::Failed);
            }
            let action = Action::FinishBody(writer, insert.batch);
            steps.push(Step { action, actor: Actor::Writer(writer), next });
        }
        self.timeout_steps(state, slot, steps);
    }

    /// No answer comes: it was lost, or is not waited for any longer.
    fn timeout_steps(&self, state: &State, slot: usize, steps: &mut Vec<Step>) {
        let insert = state.inserts[slot];
        let (writer, at) = (insert.sender, usize::from(insert.sender));
        let action = Action::Timeout(writer, insert.batch);
        let mut next = *state;
        next.inserts[slot].orphan();
        if self.protocol == Protocol::RetryUnderSameClaim {
            next.writers[at].will_ask(insert.batch);
            steps.push(Step { action, actor: Actor::Fault, next });
            return;
        }
        let mut sent = 0;
        for other in
            next.inserts.iter_mut().filter(|other| other.stage != Stage::Free && other.sender == writer)
        {
            sent |= other.batch;
            other.current = false;
        }
        next.inserts.iter_mut().for_each(|insert| insert.awaited &= !(1 << writer));
        let me = &mut next.writers[at];
        me.read_claim();
        if self.protocol == Protocol::AskForBatchOnly {
            me.unknown |= insert.batch;
        } else {
            // What was not stored when it was last asked for may be stored by now: others may have held the partition.
            me.unknown = self.all() & !(me.stored | sent);
            me.ask = 0;
        }
        steps.push(Step { action, actor: Actor::Fault, next });
    }

    /// What `ClickHouse` does with an insert.
    fn server_steps(&self, state: &State, slot: usize, steps: &mut Vec<Step>) {
        let insert = state.inserts[slot];
        let mut push = |action, actor, change: &dyn Fn(&mut Insert)| {
            let mut next = *state;
            change(&mut next.inserts[slot]);
            steps.push(Step { action, actor, next });
        };
        match insert.stage {
            Stage::Wire if self.protocol == Protocol::CheckBeforeRegister && !insert.greatest => {
                push(Action::Check(insert, false), Actor::Server, &|insert| insert.end(Stage::Fenced));
            }
            Stage::Wire => {
                push(Action::Start(insert), Actor::Server, &|insert| insert.stage = Stage::Registered)
            }
            Stage::Registered
                if insert.greatest
                    || matches!(self.protocol, Protocol::NoClaimCheck | Protocol::CheckBeforeRegister) =>
            {
                push(Action::Check(insert, true), Actor::Server, &|insert| {
                    insert.stage = Stage::Checked;
                    insert.greatest = false;
                    insert.current = false;
                });
            }
            Stage::Registered => {
                push(Action::Check(insert, false), Actor::Server, &|insert| insert.end(Stage::Fenced));
            }
            _ => {}
        }
        if matches!(insert.stage, Stage::Registered | Stage::Checked) {
            push(Action::Fail(insert), Actor::Fault, &|insert| insert.end(Stage::Failed));
        }
        if self.protocol == Protocol::ErrorBeforeEnd && insert.stage == Stage::Checked && insert.whole {
            self.early_error(state, slot, steps);
        }
        let first_of_two = self.protocol == Protocol::TwoBlocks
            && insert.left == insert.batch
            && batch_rows(insert.batch) == 2
            && matches!(insert.stage, Stage::Checked | Stage::CancelledHalf);
        if insert.left != 0 && (insert.stage == Stage::Checked && insert.whole || first_of_two) {
            store(state, slot, steps);
        }
    }

    fn early_error(&self, state: &State, slot: usize, steps: &mut Vec<Step>) {
        let insert = state.inserts[slot];
        if insert.sender == NOBODY {
            return;
        }
        let mut next = *state;
        next.inserts[slot].orphan();
        next.writers[usize::from(insert.sender)].will_ask(insert.batch);
        steps.push(Step { action: Action::EarlyError(insert), actor: Actor::Fault, next });
    }
}

/// The rows of one monthly part become visible at once.
fn store(state: &State, slot: usize, steps: &mut Vec<Step>) {
    let insert = state.inserts[slot];
    let lowest = insert.left & insert.left.wrapping_neg();
    let month = if lowest & FIRST_MONTH != 0 { FIRST_MONTH } else { !FIRST_MONTH };
    let part = insert.left & month;
    let mut next = *state;
    next.twice |= next.rows & part;
    next.rows |= part;
    next.inserts[slot].left &= !part;
    if next.inserts[slot].left != 0 || !insert.whole {
        steps.push(Step { action: Action::Store(insert, part, None), actor: Actor::Server, next });
        return;
    }
    // Its end follows. Others may have to wait for it, which is as if this step came later.
    for (stage, actor) in [(Stage::Stored, Actor::Server), (Stage::Failed, Actor::Fault)] {
        next.inserts[slot] = Insert { left: 0, ..insert };
        next.inserts[slot].end(stage);
        steps.push(Step { action: Action::Store(insert, part, Some(stage)), actor, next });
    }
}

fn batch_rows(batch: Offsets) -> u32 {
    batch.count_ones()
}

fn sent_by(state: &State, writer: u8) -> impl Iterator<Item = &Insert> {
    state.inserts.iter().filter(move |insert| insert.stage != Stage::Free && insert.sender == writer)
}

/// The writer asks which of the offsets it has to ask for have a row.
fn ask(next: &mut State, writer: u8) {
    let me = &mut next.writers[usize::from(writer)];
    me.stored |= me.ask & next.rows;
    me.ask = 0;
}

/// The writer loses its memory of the partition and listens to none of its inserts.
fn forget(next: &mut State, writer: u8) {
    next.writers[usize::from(writer)] = Writer::default();
    for insert in &mut next.inserts {
        insert.awaited &= !(1 << writer);
        if insert.stage != Stage::Free && insert.sender == writer {
            insert.orphan();
        }
    }
}
