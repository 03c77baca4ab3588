//! The fencing protocol of the storage writer, in every state it can reach: two writers, one Kafka partition, one
//! `ClickHouse`. No test of the real writer can try all the orders in which a takeover, a sleeping writer's inserts and
//! lost answers can fall; this model does, and then shows for each part of the protocol what goes wrong without it.
//!
//! **The protocol.** A writer that is given a partition, or that has an insert whose outcome it does not know,
//! (1) reads the greatest claim (epoch, random), (2) writes one with the next epoch, (3) reads back and begins anew
//! unless its own is the greatest, (4) kills every running insert of the partition, (5) waits until each is gone, or is
//! cancelled without its whole body, (6) asks which of the offsets that it does not know to be stored are stored, and
//! (7) inserts the others under its claim. An insert checks, after `ClickHouse` has registered it, that no greater
//! claim exists. (6) is for *all* offsets from the committed one on, also in a takeover after an unknown insert: what
//! was not stored when it was last asked for may have been stored since by another writer ([`Protocol::AskForBatchOnly`]).
//!
//! **What is modelled.** Kafka moves the partition at any moment, and the old owner learns of it late or never. Writers
//! crash at any moment, and sleep: a writer takes no step until it does, in the middle of a body or of a takeover.
//! An insert waits in the network as long as it likes, stores its rows in up to two parts, can fail between them,
//! and can go on to its end after KILL if it has its whole body. Answers are lost, claims arrive after their writer has
//! given them up, `ClickHouse` restarts. None of these is limited in number; limited are offsets, writers, and the
//! inserts outstanding at once (forgotten ones included: where all slots are taken, nobody sends).
//!
//! **What is assumed.** `ClickHouse` is one node; what it has stored it keeps, and a query sees all that was stored
//! before it began. A request whose body ends early stores nothing. An insert is one block, stored only once the body
//! is whole ([`Protocol::TwoBlocks`]); it is registered before its check ([`Protocol::CheckBeforeRegister`]); an error is
//! answered only when it has ended ([`Protocol::ErrorBeforeEnd`]). That a body is not whole is seen when the insert is
//! cancelled or later, never before ([`Protocol::LookBeforeKill`]). Random numbers of claims differ.
//!
//! **What is not modelled.** Time, replicas, more than one partition in an insert, refused rows, merges and TTL.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod action;
mod explore;
mod protocol;
mod state;

use std::time::Instant;

use explore::{Explored, Trace, explore};
use protocol::{Model, Protocol};

/// Each writer waits for one insert at once, so that one of the two slots is always to be had.
const ONE_IN_FLIGHT: Model =
    Model { protocol: Protocol::AsDesigned, writers: 2, offsets: 2, inserts: 2, in_flight: 1 };
const TWO_IN_FLIGHT: Model = Model { in_flight: 2, ..ONE_IN_FLIGHT };

/// Every state of `model`; prints how many there are.
fn explored(model: Model, progress: bool) -> Explored {
    let begin = Instant::now();
    let explored = explore(&model, progress);
    let Explored { states, steps, depth, .. } = explored;
    println!("{model:?}: {states} states, {steps} steps, depth {depth}, {:.1?}", begin.elapsed());
    explored
}

fn print(trace: &Trace) {
    for (number, action) in (1..).zip(&trace.actions) {
        println!("{number:4}  {action}");
    }
    println!("      {}", trace.wrong);
}

/// Safe in every state, and every state has a way to the end that needs one writer only.
fn assert_holds(model: Model, progress: bool) {
    let explored = explored(model, progress);
    if let Some(trace) = explored.violation.or(explored.stuck) {
        print(&trace);
        panic!("{}", trace.wrong);
    }
}

#[test]
fn every_offset_becomes_one_row_and_one_awake_writer_is_enough_for_it() {
    assert_holds(ONE_IN_FLIGHT, true);
}

#[test]
fn no_offset_becomes_two_rows_with_two_inserts_in_flight() {
    // A sleeping writer can hold both slots of this small world, which real connections do not run out of: progress
    // with two in flight needs the three slots of the larger worlds.
    assert_holds(TWO_IN_FLIGHT, false);
}

#[test]
fn without_any_one_part_of_the_protocol_an_offset_becomes_two_rows() {
    for protocol in [
        Protocol::NoClaimCheck,
        Protocol::NoKill,
        Protocol::AskBeforeKill,
        Protocol::RetryUnderSameClaim,
        Protocol::CancelledIsGone,
        Protocol::LookBeforeKill,
        Protocol::NoTieBreak,
        Protocol::AskForBatchOnly,
        Protocol::ErrorBeforeEnd,
        Protocol::CheckBeforeRegister,
        Protocol::TwoBlocks,
    ] {
        let trace = explored(Model { protocol, ..ONE_IN_FLIGHT }, false).violation;
        let trace =
            trace.unwrap_or_else(|| panic!("{protocol:?} is as good as the protocol, or the model is blind"));
        assert_eq!(trace.wrong, "an offset has two rows");
        print(&trace);
    }
}

#[test]
fn a_takeover_that_waits_for_half_sent_bodies_waits_for_their_sleeping_sender() {
    let explored = explored(Model { protocol: Protocol::WaitForHalfSent, ..ONE_IN_FLIGHT }, true);
    assert!(explored.violation.is_none(), "waiting longer is safe");
    print(&explored.stuck.unwrap());
}

/// Kafka refuses them; the rows do not depend on it. A committed offset that goes back is asked for again.
#[test]
fn commits_of_old_generations_would_do_no_harm() {
    assert_holds(Model { protocol: Protocol::OldCommits, ..ONE_IN_FLIGHT }, true);
}

#[test]
#[ignore = "minutes and gigabytes: run with --release"]
fn larger_worlds() {
    assert_holds(Model { inserts: 3, ..TWO_IN_FLIGHT }, true);
    assert_holds(Model { offsets: 3, ..ONE_IN_FLIGHT }, true);
    assert_holds(Model { writers: 3, offsets: 1, inserts: 3, ..ONE_IN_FLIGHT }, true);
}
