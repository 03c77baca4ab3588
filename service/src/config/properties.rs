//! Which librdkafka properties are not the operator's to set, and whose values must not be shown. Pure
//! tables.

/// Properties that Penstock sets itself, and why they cannot be changed. Aliases are listed by their own
/// names.
const FORBIDDEN: &[(&str, &str)] = &[
    ("acks", "a PUBACK promises the record on every in-sync replica (G1)"),
    ("request.required.acks", "a PUBACK promises the record on every in-sync replica (G1)"),
    ("enable.idempotence", "without it a retry can store a record twice or out of order (G2)"),
    ("queuing.strategy", "readings of one device must stay in order (G2)"),
    ("partitioner", "every producer must agree on the partition of a device (G2)"),
    ("delivery.report.only.error", "an acknowledgement waits for the report of success (G1)"),
    ("transaction.timeout.ms", "after it Kafka aborts what a dead role left open (G3, G4)"),
    ("transactional.id", "transactions belong to the role that opens them (G4)"),
    ("enable.auto.commit", "offsets are committed after the insert, not by a timer (G3)"),
    ("auto.commit.enable", "offsets are committed after the insert, not by a timer (G3)"),
    ("enable.auto.offset.store", "offsets are committed after the insert, not by a timer (G3)"),
    ("auto.offset.reset", "a new consumer group must begin with the oldest record (G3)"),
    ("partition.assignment.strategy", "partitions change hands one by one (G3)"),
    ("isolation.level", "what is read depends on the role (G4)"),
    ("group.id", "the key for it is writer.group"),
    ("bootstrap.servers", "the key for it is kafka.brokers"),
    ("metadata.broker.list", "the key for it is kafka.brokers"),
];

/// Why `name` cannot be set in `[kafka.properties]`; `None` if it can.
pub(crate) fn forbidden(name: &str) -> Option<&'static str> {
    FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name).map(|(_, why)| *why)
}

/// The properties that cannot be set, each with the reason, in a fixed order.
pub(crate) fn all_forbidden() -> &'static [(&'static str, &'static str)] {
    FORBIDDEN
}

/// Whether the value of `name` is a password, a private key or the like.
///
/// Penstock shows `***` in the place of such values; whoever prints properties must do the same.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passphrase", "secret", "private.key", "key.pem", "oauthbearer.config"]
        .iter()
        .any(|mark| name.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_keys_are_secret_and_file_names_are_not() {
        for name in ["sasl.password", "ssl.key.password", "ssl.keystore.password", "SASL.PASSWORD"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.oauthbearer.client.secret", "ssl.key.pem", "sasl.oauthbearer.config"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["ssl.key.location", "ssl.certificate.pem", "sasl.username", "security.protocol"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn what_carries_a_guarantee_is_forbidden() {
        for name in [
            "acks",
            "enable.idempotence",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "group.id",
            "isolation.level",
        ] {
            assert!(forbidden(name).is_some(), "{name}");
        }
        assert_eq!(forbidden("socket.timeout.ms"), None);
    }
}
