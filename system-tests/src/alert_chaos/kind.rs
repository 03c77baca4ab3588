//! The kinds of faults, and what they are done to. Pure.

use std::fmt;

/// Places for alerters in the group; two are taken at least.
pub const ALERTERS_MAX: usize = 3;

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

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::KillAlerter,
        Self::StopAlerter,
        Self::RestartAlerter,
        Self::Join,
        Self::Leave,
        Self::KillKafka,
        Self::StopKafka,
        Self::RestartKafka,
        Self::CutReset,
        Self::CutSilent,
        Self::Delay,
        Self::TouchRules,
    ];

    /// The target of this kind; `alerter` counts only where it is of an alerter.
    pub const fn target(self, alerter: usize) -> Target {
        match self {
            Self::KillAlerter | Self::StopAlerter | Self::RestartAlerter | Self::Join | Self::Leave => {
                Target::Alerter(alerter)
            }
            Self::CutReset | Self::CutSilent | Self::Delay => Target::Network(alerter),
            Self::KillKafka | Self::StopKafka | Self::RestartKafka => Target::Kafka,
            Self::TouchRules => Target::Rules,
        }
    }

    /// Whether it is done to one alerter, or to its network.
    pub const fn is_of_an_alerter(self) -> bool {
        matches!(self.target(0), Target::Alerter(_) | Target::Network(_))
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
