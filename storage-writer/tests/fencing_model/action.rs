//! What happens in a step, and how a trace says it.

use std::fmt;

use crate::state::{Insert, NOBODY, Offsets, Reading, Stage};

/// What happens in a step. Writers count from 0; a batch is a mask of offsets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Assign(u8),
    NoticeLoss(u8),
    Crash(u8),
    /// The claim reached the table; whether it is the greatest.
    Claim(u8, bool),
    ClaimUnknown(u8),
    LateClaim(Reading),
    ReadBack(u8, bool),
    Kill(u8),
    WaitOver(u8),
    Ask(u8),
    Send(u8, Offsets),
    FinishBody(u8, Offsets),
    Receive(u8, Offsets, Stage),
    Timeout(u8, Offsets),
    Commit(u8, u8),
    Start(Insert),
    Check(Insert, bool),
    /// Rows of one part, and how the insert ends if they were its last.
    Store(Insert, Offsets, Option<Stage>),
    Fail(Insert),
    EarlyError(Insert),
    Restart,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Assign(writer) => write!(f, "Kafka gives the partition to {}", name(writer)),
            Self::NoticeLoss(writer) => {
                write!(f, "{} learns that Kafka has moved the partition", name(writer))
            }
            Self::Crash(writer) => write!(f, "{} crashes", name(writer)),
            Self::Claim(writer, true) => write!(f, "{}'s claim is written and is the greatest", name(writer)),
            Self::Claim(writer, false) => {
                write!(f, "{}'s claim is written, but is not the greatest: it reads anew", name(writer))
            }
            Self::ClaimUnknown(writer) => {
                write!(f, "{} gets no answer to its claim and reads anew", name(writer))
            }
            Self::LateClaim(Reading::Tie) => {
                write!(f, "a forgotten claim arrives and is greater by its random number")
            }
            Self::LateClaim(_) => write!(f, "a forgotten claim arrives with a new epoch"),
            Self::ReadBack(writer, true) => write!(f, "{} reads back its own claim", name(writer)),
            Self::ReadBack(writer, false) => {
                write!(f, "{} reads back another claim and begins anew", name(writer))
            }
            Self::Kill(writer) => write!(f, "{} kills all running inserts", name(writer)),
            Self::WaitOver(writer) => write!(f, "{} sees that what it must wait for is gone", name(writer)),
            Self::Ask(writer) => write!(f, "{} asks which offsets are stored", name(writer)),
            Self::Send(writer, batch) => write!(f, "{} begins to send {}", name(writer), list(batch)),
            Self::FinishBody(writer, batch) => write!(f, "{} has sent all of {}", name(writer), list(batch)),
            Self::Receive(writer, batch, stage) => {
                write!(f, "{} receives the answer for {}: {}", name(writer), list(batch), answer(stage))
            }
            Self::Timeout(writer, batch) => write!(f, "{} gets no answer for {}", name(writer), list(batch)),
            Self::Commit(writer, offset) => write!(f, "{} commits {offset}", name(writer)),
            Self::Start(insert) => write!(f, "ClickHouse registers {}", whose(&insert)),
            Self::Check(insert, true) => write!(f, "{} passes its check", whose(&insert)),
            Self::Check(insert, false) => write!(f, "{} is fenced", whose(&insert)),
            Self::Store(insert, part, end) => {
                write!(f, "{} stores {}", whose(&insert), list(part))?;
                end.map_or(Ok(()), |stage| write!(f, " and ends: {}", answer(stage)))
            }
            Self::Fail(insert) => write!(f, "{} ends with an error", whose(&insert)),
            Self::EarlyError(insert) => write!(f, "{} answers with an error and runs on", whose(&insert)),
            Self::Restart => write!(f, "ClickHouse restarts"),
        }
    }
}

fn name(writer: u8) -> String {
    format!("W{}", writer + 1)
}

fn list(batch: Offsets) -> String {
    let offsets: Vec<String> =
        (0..Offsets::BITS).filter(|bit| batch & (1 << bit) != 0).map(|bit| bit.to_string()).collect();
    format!("{{{}}}", offsets.join(", "))
}

fn answer(stage: Stage) -> &'static str {
    match stage {
        Stage::Stored => "stored",
        Stage::Fenced => "fenced",
        _ => "error",
    }
}

fn whose(insert: &Insert) -> String {
    let sender =
        if insert.sender == NOBODY { "a forgotten".into() } else { format!("{}'s", name(insert.sender)) };
    format!("{sender} insert of {}", list(insert.batch))
}
