//! The topics of the contract, as one cluster is to have them. Pure.

use penstock_proto::topics::{CONTRACTS, TopicContract};

use crate::TopicSpec;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What [`crate::provision`] needs to create and check the topics of [`CONTRACTS`]: names with `prefix` before them,
/// `replication_factor` replicas (-1: the broker's default).
pub fn topic_specs(prefix: &str, replication_factor: i16) -> Vec<TopicSpec> {
    let spec = |contract: &TopicContract| TopicSpec {
        name: format!("{prefix}{}", contract.name),
        partitions: i32::from(contract.partitions),
        replication_factor: i32::from(replication_factor),
        config: vec![
            ("cleanup.policy".to_owned(), "delete".to_owned()),
            ("max.message.bytes".to_owned(), contract.record_bytes_max.to_string()),
        ],
        initial: vec![("retention.ms".to_owned(), (u64::from(contract.retention_days) * DAY_MS).to_string())],
    };
    CONTRACTS.iter().map(spec).collect()
}

#[cfg(test)]
mod tests {
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
}
