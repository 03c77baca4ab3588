//! The topics of the contract, as one cluster is to have them. Pure.

use penstock_proto::topics::{CONTRACTS, Cleanup, TopicContract};

use crate::TopicSpec;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What [`crate::provision`] needs to create and check the topics of [`CONTRACTS`]: names with `prefix` before them,
/// `replication_factor` replicas (-1: the broker's default).
pub fn topic_specs(prefix: &str, replication_factor: i16) -> Vec<TopicSpec> {
    let spec = |contract: &TopicContract| {
        let (policy, initial) = match contract.cleanup {
            Cleanup::Delete { retention_days } => {
                let retention_ms = u64::from(retention_days) * DAY_MS;
                ("delete", vec![("retention.ms".to_owned(), retention_ms.to_string())])
            }
            Cleanup::Compact => ("compact", Vec::new()),
        };
        TopicSpec {
            name: format!("{prefix}{}", contract.name),
            partitions: i32::from(contract.partitions),
            replication_factor: i32::from(replication_factor),
            config: vec![
                ("cleanup.policy".to_owned(), policy.to_owned()),
                ("max.message.bytes".to_owned(), contract.record_bytes_max.to_string()),
            ],
            initial,
        }
    };
    CONTRACTS.iter().map(spec).collect()
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::DEAD_LETTERS_HANDLED;

    use super::*;

    #[test]
    fn every_topic_of_the_contract_gets_its_prefix_partitions_and_settings() {
        let specs = topic_specs("t.", -1);
        assert_eq!(specs.len(), CONTRACTS.len());
        assert_eq!(specs[0].name, "t.iot.events.sensor-readings");
        assert_eq!((specs[0].partitions, specs[0].replication_factor), (48, -1));
        assert!(specs[0].initial.contains(&("retention.ms".to_owned(), "604800000".to_owned())));
        assert!(specs[0].config.contains(&("max.message.bytes".to_owned(), "1048576".to_owned())));
    }

    #[test]
    fn marks_of_dead_letters_are_compacted_and_never_deleted_by_age() {
        let specs = topic_specs("", -1);
        let marks = specs.iter().find(|spec| spec.name == DEAD_LETTERS_HANDLED).unwrap();
        assert!(marks.config.contains(&("cleanup.policy".to_owned(), "compact".to_owned())));
        assert_eq!(marks.initial, []);
    }
}
