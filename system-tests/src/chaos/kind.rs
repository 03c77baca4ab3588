//! The kinds of faults, and what they are done to. Pure.

use std::fmt;

/// Places for writers in the group; two are taken at least.
pub const WRITERS_MAX: usize = 4;

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

impl Kind {
    /// Every kind once.
    pub fn all() -> Vec<Self> {
        let processes =
            ROLES.into_iter().flat_map(|role| [Self::Kill(role), Self::Stop(role), Self::Restart(role)]);
        let networks = LINKS
            .into_iter()
            .flat_map(|link| [Self::CutReset(link), Self::CutSilent(link), Self::Delay(link)]);
        processes.chain(networks).chain([Self::Join, Self::Leave]).collect()
    }

    /// Whether it is done to one writer, or to a network of one.
    pub const fn is_of_a_writer(self) -> bool {
        match self {
            Self::Kill(role) | Self::Stop(role) | Self::Restart(role) => matches!(role, Role::Writer),
            Self::CutReset(link) | Self::CutSilent(link) | Self::Delay(link) => {
                !matches!(link, Link::GatewayKafka)
            }
            Self::Join | Self::Leave => true,
        }
    }
}

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

impl Kind {
    /// The target of this kind; `writer` counts only where it is of a writer.
    pub fn target(self, writer: usize) -> Target {
        let writer = if self.is_of_a_writer() { writer } else { 0 };
        match self {
            Self::Kill(role) | Self::Stop(role) | Self::Restart(role) => Target::Process(role, writer),
            Self::CutReset(link) | Self::CutSilent(link) | Self::Delay(link) => Target::Network(link, writer),
            Self::Join | Self::Leave => Target::Process(Role::Writer, writer),
        }
    }
}
