//! The MQTT 5 reason codes, and what a packet that breaks the standard is answered with.
//!
//! Nothing is decided here: the decoders choose the code, the connection chooses what to do about it.

use std::fmt;

macro_rules! reason_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal => $name:literal,)+) => {
        /// An MQTT 5 reason code (MQTT 5 2.4). Where MQTT has several names for one number, the first is used.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[doc = $doc])+ $variant = $code,)+
        }

        impl ReasonCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in metric labels and logs: lower-case words joined by hyphens.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The code with this number, `None` where MQTT 5 has none.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

reason_codes! {
    /// Success; also normal disconnection, and granted QoS 0.
    Success = 0x00 => "success",
    /// The subscription is accepted with QoS 1.
    GrantedQoS1 = 0x01 => "granted-qos-1",
    /// The subscription is accepted with QoS 2.
    GrantedQoS2 = 0x02 => "granted-qos-2",
    /// The client goes, and wants its will published.
    DisconnectWithWill = 0x04 => "disconnect-with-will",
    /// The message is accepted, nobody is subscribed.
    NoMatchingSubscribers = 0x10 => "no-matching-subscribers",
    /// There was no such subscription to end.
    NoSubscriptionExisted = 0x11 => "no-subscription-existed",
    /// The authentication goes on with another step.
    ContinueAuthentication = 0x18 => "continue-authentication",
    /// The client starts a new authentication.
    ReAuthenticate = 0x19 => "re-authenticate",
    /// The reason is not told, or no other code fits.
    UnspecifiedError = 0x80 => "unspecified-error",
    /// The packet cannot be parsed.
    MalformedPacket = 0x81 => "malformed-packet",
    /// The packet can be parsed, but not at this moment or not with these values.
    ProtocolError = 0x82 => "protocol-error",
    /// The packet is valid, and not accepted by this implementation.
    ImplementationSpecificError = 0x83 => "implementation-specific-error",
    /// The server does not speak this protocol version.
    UnsupportedProtocolVersion = 0x84 => "unsupported-protocol-version",
    /// The client identifier is valid, and not allowed.
    ClientIdentifierNotValid = 0x85 => "client-identifier-not-valid",
    /// The user name or the password is refused.
    BadUserNameOrPassword = 0x86 => "bad-user-name-or-password",
    /// The client may not do this.
    NotAuthorized = 0x87 => "not-authorized",
    /// The server cannot be used now.
    ServerUnavailable = 0x88 => "server-unavailable",
    /// The server has too much to do; try later.
    ServerBusy = 0x89 => "server-busy",
    /// The client is banned.
    Banned = 0x8A => "banned",
    /// The server shuts down.
    ServerShuttingDown = 0x8B => "server-shutting-down",
    /// The authentication method is not supported, or not the one in use.
    BadAuthenticationMethod = 0x8C => "bad-authentication-method",
    /// Nothing came within one and a half times the keep alive.
    KeepAliveTimeout = 0x8D => "keep-alive-timeout",
    /// Another connection uses the same client identifier.
    SessionTakenOver = 0x8E => "session-taken-over",
    /// The topic filter is not accepted.
    TopicFilterInvalid = 0x8F => "topic-filter-invalid",
    /// The topic name is not accepted.
    TopicNameInvalid = 0x90 => "topic-name-invalid",
    /// The packet identifier is in use already.
    PacketIdentifierInUse = 0x91 => "packet-identifier-in-use",
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92 => "packet-identifier-not-found",
    /// More publishes are unacknowledged than the receive maximum allows.
    ReceiveMaximumExceeded = 0x93 => "receive-maximum-exceeded",
    /// The topic alias is zero, above the maximum, or stands for nothing yet.
    TopicAliasInvalid = 0x94 => "topic-alias-invalid",
    /// The packet is larger than the maximum packet size.
    PacketTooLarge = 0x95 => "packet-too-large",
    /// Messages come too quickly.
    MessageRateTooHigh = 0x96 => "message-rate-too-high",
    /// A limit of the implementation or of its administrator is exceeded.
    QuotaExceeded = 0x97 => "quota-exceeded",
    /// An administrator ended the connection.
    AdministrativeAction = 0x98 => "administrative-action",
    /// The payload is not of the format it should have.
    PayloadFormatInvalid = 0x99 => "payload-format-invalid",
    /// Retained messages are not supported.
    RetainNotSupported = 0x9A => "retain-not-supported",
    /// The QoS is above the server's maximum.
    QoSNotSupported = 0x9B => "qos-not-supported",
    /// The client should use another server for a while.
    UseAnotherServer = 0x9C => "use-another-server",
    /// The client should use another server from now on.
    ServerMoved = 0x9D => "server-moved",
    /// Shared subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E => "shared-subscriptions-not-supported",
    /// Connections come too quickly.
    ConnectionRateExceeded = 0x9F => "connection-rate-exceeded",
    /// The connection lasted as long as it may.
    MaximumConnectTime = 0xA0 => "maximum-connect-time",
    /// Subscription identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1 => "subscription-identifiers-not-supported",
    /// Wildcards in subscriptions are not supported.
    WildcardSubscriptionsNotSupported = 0xA2 => "wildcard-subscriptions-not-supported",
}

impl ReasonCode {
    /// The number on the wire.
    #[inline]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// True for 0x80 and above: the operation failed (MQTT 5 2.4).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.code() >= 0x80
    }

    /// The CONNACK return code of MQTT 3.1.1 that says the same (table 3.1), `None` where it has none: then the
    /// connection is to be closed without a CONNACK [MQTT-3.2.2-6].
    pub const fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => Some(5),
            _ => None,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.code())
    }
}

/// A packet that breaks the standard; the connection it came on must be closed (MQTT 5 4.13, MQTT 3.1.1 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Violation {
    /// What to say in the DISCONNECT or CONNACK of MQTT 5, and in metrics.
    pub reason: ReasonCode,
    /// The rule that is broken, with its section or number in the standard (`5:` MQTT 5, `3.1.1:` MQTT 3.1.1).
    pub what: &'static str,
}

impl Violation {
    pub(super) const fn malformed(what: &'static str) -> Self {
        Self { reason: ReasonCode::MalformedPacket, what }
    }

    pub(super) const fn protocol_error(what: &'static str) -> Self {
        Self { reason: ReasonCode::ProtocolError, what }
    }

    pub(super) const fn topic_name(what: &'static str) -> Self {
        Self { reason: ReasonCode::TopicNameInvalid, what }
    }

    pub(super) const fn topic_filter(what: &'static str) -> Self {
        Self { reason: ReasonCode::TopicFilterInvalid, what }
    }
}
