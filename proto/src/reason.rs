//! Why a payload or a record could not go on.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a payload or a record could not go on: the one table used in dead-letter headers, metric labels and docs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in headers and metric labels: lower-case words joined by hyphens; never changes meaning.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The reason with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.name() == name)
            }
        }
    };
}

reasons! {
    /// The payload is not the protobuf message that the topic calls for.
    Undecodable => "undecodable",
    /// The payload holds no reading: an empty batch.
    Empty => "empty",
    /// `device_id` is present and is not the 16 bytes of the topic's (or key's) device.
    WrongDevice => "wrong-device",
    /// `timestamp` is further back than the configured window.
    TooOld => "too-old",
    /// `timestamp` is further ahead of receipt than the configured window.
    InFuture => "in-future",
    /// A measurement or metric is NaN or infinite.
    NotFinite => "not-finite",
    /// `battery_level` is outside 0 to 100 %.
    BatteryOutOfRange => "battery-out-of-range",
    /// `humidity` is outside 0 to 100 %.
    HumidityOutOfRange => "humidity-out-of-range",
    /// More entries in `metrics` than allowed.
    TooManyMetrics => "too-many-metrics",
    /// A name in `metrics` is empty or longer than allowed.
    MetricNameLength => "metric-name-length",
    /// More readings in a batch than allowed.
    TooManyReadings => "too-many-readings",
    /// The payload is larger than a record may be.
    TooLarge => "too-large",
    /// The record's key is not a device id (a record of another producer).
    BadKey => "bad-key",
    /// ClickHouse does not take the row: a constraint, or a view that fails on it.
    RefusedByStorage => "refused-by-storage",
    /// The receiver of alerts answered that it will never take this one.
    RefusedByReceiver => "refused-by-receiver",
    /// The receiver of alerts could not be reached, or did not take the alert, for as long as it is tried.
    Undelivered => "undelivered",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_is_found_by_it() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
        assert_eq!(Reason::from_name("no-such-reason"), None);
    }
}
