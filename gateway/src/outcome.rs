//! How a connection can end: one table, used for metrics, logs and MQTT 5 reason codes (G5).

use crate::mqtt::{ReasonCode, Violation};

/// Why a connection ended, or was refused before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The device said DISCONNECT.
    Disconnected,
    /// The device closed the connection, or the network did, without DISCONNECT.
    ConnectionLost,
    /// All of `connections_max` were in use.
    ConnectionLimit,
    /// Nothing, or too little, came within the handshake's deadline.
    TlsTimeout,
    /// What came was not TLS, or broken TLS.
    TlsMalformed,
    /// The device's certificate is missing, foreign, expired or revoked.
    CertificateRefused,
    /// The device's certificate names no device.
    NoIdentity,
    /// No CONNECT within its deadline.
    ConnectTimeout,
    /// CONNECT asked for a protocol version other than 3.1.1 and 5.
    UnsupportedVersion,
    /// CONNECT asked for something that is not offered: a will, or enhanced authentication.
    ConnectRefused,
    /// The client identifier is empty where it must not be, or too long.
    ClientIdRefused,
    /// The bytes are not MQTT, or not what the standard allows.
    Violation(ReasonCode),
    /// A topic name longer than `topic_bytes_max`.
    TopicTooLong,
    /// All connections together hold `unfinished_bytes_max` bytes of packets that have not arrived whole.
    UnfinishedBytesExceeded,
    /// A publish that is not allowed and cannot be refused by itself (3.1.1, or QoS 0).
    NotAuthorized,
    /// More publishes in flight than the Receive Maximum.
    ReceiveMaximumExceeded,
    /// No packet within one and a half times the keep-alive.
    KeepAliveTimeout,
    /// The device did not read what it was sent within `write_timeout_ms`.
    WriteTimeout,
    /// Kafka did not confirm a publish in time.
    DeliveryTimedOut,
    /// Kafka refused a publish, or the producer failed.
    DeliveryFailed,
    /// The same device connected again with the same client identifier.
    TakenOver,
    /// The gateway is stopping.
    ServerShutdown,
}

impl Outcome {
    /// The name in metric labels and logs: never changes meaning.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::ConnectionLost => "connection-lost",
            Self::ConnectionLimit => "connection-limit",
            Self::TlsTimeout => "tls-timeout",
            Self::TlsMalformed => "tls-malformed",
            Self::CertificateRefused => "certificate-refused",
            Self::NoIdentity => "no-identity",
            Self::ConnectTimeout => "connect-timeout",
            Self::UnsupportedVersion => "unsupported-version",
            Self::ConnectRefused => "connect-refused",
            Self::ClientIdRefused => "client-id-refused",
            Self::Violation(reason) => reason.name(),
            Self::TopicTooLong => "topic-too-long",
            Self::UnfinishedBytesExceeded => "unfinished-bytes-exceeded",
            Self::NotAuthorized => "not-authorized",
            Self::ReceiveMaximumExceeded => "receive-maximum-exceeded",
            Self::KeepAliveTimeout => "keep-alive-timeout",
            Self::WriteTimeout => "write-timeout",
            Self::DeliveryTimedOut => "delivery-timed-out",
            Self::DeliveryFailed => "delivery-failed",
            Self::TakenOver => "taken-over",
            Self::ServerShutdown => "server-shutdown",
        }
    }

    /// What an MQTT 5 device is told by DISCONNECT; `None` where there is nobody to tell or nothing to say.
    pub const fn disconnect_code(self) -> Option<ReasonCode> {
        match self {
            Self::Violation(reason) => Some(reason),
            Self::TopicTooLong => Some(ReasonCode::TopicNameInvalid),
            Self::UnfinishedBytesExceeded => Some(ReasonCode::QuotaExceeded),
            Self::NotAuthorized => Some(ReasonCode::NotAuthorized),
            Self::ReceiveMaximumExceeded => Some(ReasonCode::ReceiveMaximumExceeded),
            Self::KeepAliveTimeout => Some(ReasonCode::KeepAliveTimeout),
            Self::DeliveryTimedOut => Some(ReasonCode::ServerUnavailable),
            Self::DeliveryFailed => Some(ReasonCode::ServerBusy),
            Self::TakenOver => Some(ReasonCode::SessionTakenOver),
            Self::ServerShutdown => Some(ReasonCode::ServerShuttingDown),
            _ => None,
        }
    }
}

impl From<Violation> for Outcome {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation.reason)
    }
}
