//! The kinds of faults, and what they are done to. Pure.

use std::fmt;

use fastrand::Rng;

use crate::faults::plan;

/// Places for writers in the group; two are taken at least.
pub const WRITERS_MAX: usize = 4;
/// Writers in the group when the first round begins.
pub const WRITERS_AT_FIRST: usize = 3;
/// Longer than a writer's session: its partitions move while it sleeps.
const PAST_SESSION_MS: u64 = 7_000;
/// One SIGSTOP in this many is long.
const LONG_ONE_IN: u32 = 16;
const USUAL_MS: u64 = 15_000;

/// A part of the chain that is a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The gateway.
    Gateway,
    /// One writer of the group.
    Writer,
    /// Kafka.
    Kafka,
    /// ClickHouse.
    ClickHouse,
}

/// A network between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Between the gateway and Kafka.
    GatewayKafka,
    /// Between one writer and Kafka.
    WriterKafka,
    /// Between one writer and ClickHouse.
    WriterClickHouse,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL, and started again.
    Kill(Role),
    /// SIGSTOP, and SIGCONT.
    Stop(Role),
    /// SIGTERM, and started again when it has ended.
    Restart(Role),
    /// Connections are reset, new ones too.
    CutReset(Link),
    /// Nothing comes through, connections stay.
    CutSilent(Link),
    /// Everything comes later.
    Delay(Link),
    /// One more writer in the group.
    Join,
    /// SIGTERM to a writer, which is not started again.
    Leave,
}

const ROLES: [Role; 4] = [Role::Gateway, Role::Writer, Role::Kafka, Role::ClickHouse];
const LINKS: [Link; 3] = [Link::GatewayKafka, Link::WriterKafka, Link::WriterClickHouse];

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Writer => "writer",
            Self::Kafka => "Kafka",
            Self::ClickHouse => "ClickHouse",
        })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GatewayKafka => "gateway-Kafka",
            Self::WriterKafka => "writer-Kafka",
            Self::WriterClickHouse => "writer-ClickHouse",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(role) => write!(f, "kill -9 {role}"),
            Self::Stop(role) => write!(f, "SIGSTOP {role}"),
            Self::Restart(role) => write!(f, "restart {role}"),
            Self::CutReset(link) => write!(f, "cut {link} (reset)"),
            Self::CutSilent(link) => write!(f, "cut {link} (silent)"),
            Self::Delay(link) => write!(f, "delay {link}"),
            Self::Join => f.write_str("writer joins"),
            Self::Leave => f.write_str("writer leaves"),
        }
    }
}

/// What a fault is done to. Faults of one target come one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A process; the number says which writer.
    Process(Role, usize),
    /// A network; the number says of which writer.
    Network(Link, usize),
}

impl plan::Kind for Kind {
    type Target = Target;

    const JOIN: Self = Self::Join;
    const LEAVE: Self = Self::Leave;
    const MEMBERS_AT_FIRST: usize = WRITERS_AT_FIRST;
    const MEMBERS_MIN: usize = 2;
    const MEMBERS_MAX: usize = WRITERS_MAX;

    fn all() -> Vec<Self> {
        let processes =
            ROLES.into_iter().flat_map(|role| [Self::Kill(role), Self::Stop(role), Self::Restart(role)]);
        let networks = LINKS
            .into_iter()
            .flat_map(|link| [Self::CutReset(link), Self::CutSilent(link), Self::Delay(link)]);
        processes.chain(networks).chain([Self::Join, Self::Leave]).collect()
    }

    fn target(self, writer: usize) -> Target {
        let writer = if self.is_of_a_member() { writer } else { 0 };
        match self {
            Self::Kill(role) | Self::Stop(role) | Self::Restart(role) => Target::Process(role, writer),
            Self::CutReset(link) | Self::CutSilent(link) | Self::Delay(link) => Target::Network(link, writer),
            Self::Join | Self::Leave => Target::Process(Role::Writer, writer),
        }
    }

    fn networks(writer: usize) -> Vec<Target> {
        [Link::WriterKafka, Link::WriterClickHouse].map(|link| Target::Network(link, writer)).into()
    }

    fn is_of_a_member(self) -> bool {
        match self {
            Self::Kill(role) | Self::Stop(role) | Self::Restart(role) => role == Role::Writer,
            Self::CutReset(link) | Self::CutSilent(link) | Self::Delay(link) => link != Link::GatewayKafka,
            Self::Join | Self::Leave => true,
        }
    }

    fn is_of_a_network(self) -> bool {
        matches!(self, Self::CutReset(_) | Self::CutSilent(_) | Self::Delay(_))
    }

    fn is_delay(self) -> bool {
        matches!(self, Self::Delay(_))
    }

    fn hold_ms(self, rng: &mut Rng, stop_ms_max: u64) -> u64 {
        let past_session = rng.bool();
        match self {
            Self::Stop(Role::Writer) if past_session => {
                stop_ms(rng, stop_ms_max).max(PAST_SESSION_MS + rng.u64(..4_000)).min(stop_ms_max)
            }
            Self::Stop(_) => stop_ms(rng, stop_ms_max),
            Self::Kill(Role::Writer) => rng.u64(..9_000),
            Self::Kill(_) => rng.u64(..4_000),
            Self::Restart(_) => rng.u64(..1_000),
            Self::CutReset(Link::WriterKafka) | Self::CutSilent(Link::WriterKafka) if past_session => {
                rng.u64(PAST_SESSION_MS..12_000)
            }
            Self::CutReset(_) | Self::CutSilent(_) => rng.u64(500..9_000),
            Self::Delay(_) => rng.u64(3_000..9_000),
            Self::Join | Self::Leave => 0,
        }
    }
}

/// Mostly short, now and then up to the longest.
fn stop_ms(rng: &mut Rng, longest: u64) -> u64 {
    let shortest = 1_000;
    if longest > USUAL_MS && rng.u32(..LONG_ONE_IN) == 0 {
        return rng.u64(USUAL_MS..=longest);
    }
    let span = longest.min(USUAL_MS).saturating_sub(shortest);
    // The lesser of two draws is the lesser more often.
    shortest + rng.u64(..=span).min(rng.u64(..=span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::plan::PlanOptions;

    fn stops(seed: u64, faults: usize, stop_ms_max: u64) -> Vec<(Kind, u64)> {
        let options = PlanOptions { seed, faults, round_of: 12, window_ms: 12_000, stop_ms_max };
        let faults = plan::plan::<Kind>(&options).into_iter().flat_map(|round| round.faults);
        let stops = faults.filter(|fault| matches!(fault.kind, Kind::Stop(_)));
        stops.map(|fault| (fault.kind, fault.hold_ms)).collect()
    }

    #[test]
    fn stops_are_mostly_short_and_those_of_writers_often_outlast_their_session() {
        let share = |few: usize, all: usize| few * 100 / all;
        let all = stops(1, 20_000, 60_000);
        assert!(all.iter().all(|(_, ms)| (1_000..=60_000).contains(ms)));
        let long = all.iter().filter(|(_, ms)| *ms > USUAL_MS).count();
        assert!((3..12).contains(&share(long, all.len())), "{long} of {}", all.len());
        let writers: Vec<_> = all.iter().filter(|(kind, _)| *kind == Kind::Stop(Role::Writer)).collect();
        let past = writers.iter().filter(|(_, ms)| *ms >= PAST_SESSION_MS).count();
        assert!(share(past, writers.len()) >= 50, "{past} of {}", writers.len());
        assert!(stops(1, 500, 9_000).iter().all(|(_, ms)| *ms <= 9_000));
    }
}
