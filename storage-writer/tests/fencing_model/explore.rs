//! Breadth first through every reachable state; then backward from the good ends. Knows nothing of the protocol.

use crate::action::Action;
use crate::protocol::{Actor, Model, Step};
use crate::state::State;

/// What an exploration found.
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// The longest of the shortest ways to a state.
    pub(crate) depth: usize,
    /// The shortest way to a state that must not be.
    pub(crate) violation: Option<Trace>,
    /// The shortest way to a state from which a lone writer, faults over, cannot reach the good end.
    pub(crate) stuck: Option<Trace>,
}

/// The actions of a way, and what is wrong where it ends.
pub(crate) struct Trace {
    pub(crate) actions: Vec<Action>,
    pub(crate) wrong: &'static str,
}

/// All states found, each once, with the state it was found from.
struct Found {
    states: Vec<State>,
    parents: Vec<u32>,
    /// Open addressing: indices into `states`, `EMPTY` where none.
    table: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

impl Found {
    fn new() -> Self {
        Self { states: Vec::new(), parents: Vec::new(), table: vec![EMPTY; 1 << 16] }
    }

    /// The index of `state`, which becomes a child of `parent` if it is new.
    fn index(&mut self, state: &State, parent: u32) -> u32 {
        if self.states.len() * 2 > self.table.len() {
            self.grow();
        }
        let slot = self.slot(state);
        if self.table[slot] == EMPTY {
            self.table[slot] = u32::try_from(self.states.len()).unwrap();
            self.states.push(*state);
            self.parents.push(parent);
        }
        self.table[slot]
    }

    fn slot(&self, state: &State) -> usize {
        let mask = self.table.len() - 1;
        #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        let mut slot = state.hash() as usize & mask;
        while self.table[slot] != EMPTY && self.states[self.table[slot] as usize] != *state {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        self.table = vec![EMPTY; self.table.len() * 4];
        for index in 0..self.states.len() {
            let slot = self.slot(&self.states[index]);
            self.table[slot] = u32::try_from(index).unwrap();
        }
    }

    /// The shortest way to the state `index`.
    fn trace(&self, model: &Model, index: u32, wrong: &'static str) -> Trace {
        let mut path = vec![index];
        while self.parents[path[path.len() - 1] as usize] != EMPTY {
            path.push(self.parents[path[path.len() - 1] as usize]);
        }
        path.reverse();
        let mut actions = Vec::new();
        let mut steps = Vec::new();
        for pair in path.windows(2) {
            model.steps(&self.states[pair[0] as usize], &mut steps);
            let child = &self.states[pair[1] as usize];
            actions.push(steps.iter().find(|step| step.next == *child).unwrap().action);
        }
        Trace { actions, wrong }
    }
}

/// Visits every state that `model` can reach, or stops at the first that must not be. With `progress` it then looks
/// for states from which there is no way to the good end.
pub(crate) fn explore(model: &Model, progress: bool) -> Explored {
    let mut found = Found::new();
    found.index(&State::initial(), EMPTY);
    let mut edges: Vec<(u32, u32, Actor)> = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    let mut explored = Explored { states: 0, steps: 0, depth: 0, violation: None, stuck: None };
    let (mut at, mut level_end) = (0, 1);
    while at < found.states.len() {
        if at == level_end {
            level_end = found.states.len();
            explored.depth += 1;
        }
        let from = u32::try_from(at).unwrap();
        let state = found.states[at];
        if let Some(wrong) = model.violation(&state) {
            explored.violation = Some(found.trace(model, from, wrong));
            break;
        }
        model.steps(&state, &mut steps);
        explored.steps += steps.len();
        for step in &steps {
            let to = found.index(&step.next, from);
            if progress && step.actor != Actor::Fault {
                edges.push((from, to, step.actor));
            }
        }
        at += 1;
    }
    explored.states = found.states.len();
    if progress && explored.violation.is_none() {
        explored.stuck = (0..model.writers).find_map(|writer| stuck(model, &found, &edges, writer));
    }
    explored
}

/// A state from which the good end cannot be reached by the steps of one writer, `ClickHouse` and Kafka alone: every
/// other writer sleeps for ever, in the middle of whatever it did.
fn stuck(model: &Model, found: &Found, edges: &[(u32, u32, Actor)], awake: u8) -> Option<Trace> {
    let taken = |actor: Actor| match actor {
        Actor::Server => true,
        Actor::Writer(writer) | Actor::Kafka(writer) => writer == awake,
        Actor::Fault => false,
    };
    let states = found.states.len();
    // The edges by their ends: `begins[to]..begins[to + 1]` of `sources`.
    let mut begins = vec![0_u32; states + 2];
    for &(_, to, actor) in edges {
        begins[to as usize + 2] += u32::from(taken(actor));
    }
    for to in 2..begins.len() {
        begins[to] += begins[to - 1];
    }
    let mut sources = vec![0_u32; begins[states + 1] as usize];
    for &(from, to, actor) in edges {
        if taken(actor) {
            sources[begins[to as usize + 1] as usize] = from;
            begins[to as usize + 1] += 1;
        }
    }
    let mut good: Vec<bool> = found.states.iter().map(|state| model.done(state)).collect();
    let mut open: Vec<usize> = (0..states).filter(|&index| good[index]).collect();
    while let Some(to) = open.pop() {
        for &from in &sources[begins[to] as usize..begins[to + 1] as usize] {
            if !good[from as usize] {
                good[from as usize] = true;
                open.push(from as usize);
            }
        }
    }
    let index = good.iter().position(|good| !good)?;
    Some(found.trace(
        model,
        u32::try_from(index).unwrap(),
        "no way from here to every row stored and committed",
    ))
}
