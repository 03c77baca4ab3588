//! The kinds of faults, and what they are done to. Pure.

use std::fmt;

use fastrand::Rng;

use crate::faults::plan;

/// Places for alerters in the group.
pub const ALERTERS_MAX: usize = 3;
/// Alerters in the group when the first round begins, and at least.
pub const ALERTERS_MIN: usize = 2;
/// Longer than an alerter's session: its partitions move while it sleeps, and it comes back as if it still had them.
const PAST_SESSION_MS: u64 = 7_000;
/// No SIGSTOP of Kafka is longer: what lay in its sockets must arrive within the grace for silent devices.
pub const KAFKA_STOP_MS_MAX: u64 = 8_000;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL to an alerter, and started again.
    KillAlerter,
    /// SIGSTOP and SIGCONT.
    StopAlerter,
    /// SIGTERM, and started again when it has ended.
    RestartAlerter,
    /// One more alerter in the group.
    Join,
    /// SIGTERM to an alerter, which is not started again.
    Leave,
    /// SIGKILL to Kafka, and started again.
    KillKafka,
    /// SIGSTOP and SIGCONT.
    StopKafka,
    /// Shut down in order, and started again.
    RestartKafka,
    /// Connections of an alerter to Kafka are reset, new ones too.
    CutReset,
    /// Nothing comes through, connections stay.
    CutSilent,
    /// Everything comes later.
    Delay,
    /// The rules file is written anew and means the same.
    TouchRules,
}

/// What a fault is done to. Faults of one target come one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An alerter's process.
    Alerter(usize),
    /// The network between an alerter and Kafka.
    Network(usize),
    /// Kafka.
    Kafka,
    /// The rules file.
    Rules,
}

const KINDS: [Kind; 12] = [
    Kind::KillAlerter,
    Kind::StopAlerter,
    Kind::RestartAlerter,
    Kind::Join,
    Kind::Leave,
    Kind::KillKafka,
    Kind::StopKafka,
    Kind::RestartKafka,
    Kind::CutReset,
    Kind::CutSilent,
    Kind::Delay,
    Kind::TouchRules,
];

impl plan::Kind for Kind {
    type Target = Target;

    const JOIN: Self = Self::Join;
    const LEAVE: Self = Self::Leave;
    const MEMBERS_AT_FIRST: usize = ALERTERS_MIN;
    const MEMBERS_MIN: usize = ALERTERS_MIN;
    const MEMBERS_MAX: usize = ALERTERS_MAX;

    fn all() -> Vec<Self> {
        KINDS.into()
    }

    fn target(self, alerter: usize) -> Target {
        match self {
            Self::KillAlerter | Self::StopAlerter | Self::RestartAlerter | Self::Join | Self::Leave => {
                Target::Alerter(alerter)
            }
            Self::CutReset | Self::CutSilent | Self::Delay => Target::Network(alerter),
            Self::KillKafka | Self::StopKafka | Self::RestartKafka => Target::Kafka,
            Self::TouchRules => Target::Rules,
        }
    }

    fn networks(alerter: usize) -> Vec<Target> {
        vec![Target::Network(alerter)]
    }

    fn is_of_a_member(self) -> bool {
        matches!(self.target(0), Target::Alerter(_) | Target::Network(_))
    }

    fn is_of_a_network(self) -> bool {
        matches!(self.target(0), Target::Network(_))
    }

    fn is_delay(self) -> bool {
        self == Self::Delay
    }

    /// Every other one kills, stops or restarts an alerter: that is what the suite is about.
    fn draw(rng: &mut Rng) -> Self {
        let some = if rng.bool() { &KINDS[..3] } else { &KINDS[3..] };
        some[rng.usize(..some.len())]
    }

    fn hold_ms(self, rng: &mut Rng, stop_ms_max: u64) -> u64 {
        let past_session = rng.bool();
        let longest = stop_ms_max.max(1_001);
        match self {
            Self::StopAlerter if past_session => rng.u64(PAST_SESSION_MS.min(longest - 1)..longest),
            Self::StopAlerter => rng.u64(1_000..longest.min(PAST_SESSION_MS)),
            Self::StopKafka => rng.u64(1_000..KAFKA_STOP_MS_MAX),
            Self::KillAlerter => rng.u64(..9_000),
            Self::KillKafka => rng.u64(..3_000),
            Self::RestartAlerter | Self::RestartKafka => rng.u64(..1_000),
            Self::CutReset | Self::CutSilent if past_session => rng.u64(PAST_SESSION_MS..14_000),
            Self::CutReset | Self::CutSilent => rng.u64(500..PAST_SESSION_MS),
            Self::Delay => rng.u64(3_000..9_000),
            Self::Join | Self::Leave | Self::TouchRules => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillAlerter => "kill -9 alerter",
            Self::StopAlerter => "SIGSTOP alerter",
            Self::RestartAlerter => "restart alerter",
            Self::Join => "alerter joins",
            Self::Leave => "alerter leaves",
            Self::KillKafka => "kill -9 Kafka",
            Self::StopKafka => "SIGSTOP Kafka",
            Self::RestartKafka => "restart Kafka",
            Self::CutReset => "cut alerter-Kafka (reset)",
            Self::CutSilent => "cut alerter-Kafka (silent)",
            Self::Delay => "delay alerter-Kafka",
            Self::TouchRules => "rules rewritten",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::plan::{Fault, PlanOptions};

    #[test]
    fn half_of_the_stops_outlast_the_session_and_no_stop_of_kafka_outlasts_what_the_oracle_allows() {
        let options =
            PlanOptions { seed: 1, faults: 10_000, round_of: 10, window_ms: 12_000, stop_ms_max: 20_000 };
        let all: Vec<Fault<Kind>> = plan::plan(&options).into_iter().flat_map(|round| round.faults).collect();
        let stops: Vec<_> = all.iter().filter(|fault| fault.kind == Kind::StopAlerter).collect();
        let past = stops.iter().filter(|stop| stop.hold_ms >= PAST_SESSION_MS).count();
        assert!((40..60).contains(&(past * 100 / stops.len())), "{past} of {}", stops.len());
        assert!(stops.iter().all(|stop| (1_000..20_000).contains(&stop.hold_ms)));
        let kafka = all.iter().filter(|fault| fault.kind == Kind::StopKafka);
        assert!(kafka.map(|fault| fault.hold_ms).max() < Some(KAFKA_STOP_MS_MAX));
        let alerters = all.iter().filter(|fault| matches!(fault.target(), Target::Alerter(_))).count();
        assert!(alerters * 100 / all.len() >= 40, "{alerters}");
    }
}
