//! The tables and topics that a run ends up in: where they are, and the queries that the probe and the verifier ask.

use clickhouse::Client;
use penstock_kafka::ClientSettings;
use penstock_proto::DeviceId;
use penstock_service::Secret;
use serde::Deserialize;
use uuid::Uuid;

/// Where the rows are.
#[derive(Clone, Debug)]
pub struct ClickHouseTarget {
    /// HTTP address, like `http://127.0.0.1:8123`.
    pub url: String,
    /// Database of the table `readings`.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password; empty for none.
    pub password: Secret,
}

impl ClickHouseTarget {
    pub(crate) fn client(&self) -> Client {
        Client::default()
            .with_url(&self.url)
            .with_database(&self.database)
            .with_user(&self.user)
            .with_password(self.password.expose())
            .with_product_info("penstock-loadgen", env!("CARGO_PKG_VERSION"))
    }
}

/// Where the records are.
#[derive(Clone, Debug)]
pub struct KafkaTarget {
    /// How to reach Kafka.
    pub settings: ClientSettings,
    /// Put before every topic name.
    pub topic_prefix: String,
}

/// A row of `readings`, as far as it is looked at.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clickhouse::Row)]
pub(crate) struct RowKey {
    #[serde(with = "clickhouse::serde::uuid")]
    pub(crate) device_id: Uuid,
    pub(crate) timestamp_ms: i64,
    pub(crate) sequence: u64,
    pub(crate) kafka_partition: i64,
    pub(crate) kafka_offset: i64,
}

/// The query for the rows of these devices from a timestamp to a timestamp, in Unix milliseconds, both included.
pub(crate) fn rows_query(table: &str, devices: &[DeviceId], from_ms: i64, to_ms: i64) -> String {
    format!(
        "SELECT device_id, toUnixTimestamp64Milli(timestamp) AS timestamp_ms, toUInt64(sequence) AS sequence, \
         toInt64(kafka_partition) AS kafka_partition, toInt64(kafka_offset) AS kafka_offset \
         FROM {table} WHERE {}",
        condition(devices, from_ms, to_ms)
    )
}

/// The query for their number.
pub(crate) fn count_query(table: &str, devices: &[DeviceId], from_ms: i64, to_ms: i64) -> String {
    format!("SELECT count() FROM {table} WHERE {}", condition(devices, from_ms, to_ms))
}

fn condition(devices: &[DeviceId], from_ms: i64, to_ms: i64) -> String {
    let devices: Vec<_> = devices.iter().map(|device| format!("'{device}'")).collect();
    format!(
        "device_id IN ({}) AND timestamp BETWEEN fromUnixTimestamp64Milli({from_ms}, 'UTC') \
         AND fromUnixTimestamp64Milli({to_ms}, 'UTC')",
        devices.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_its_devices_and_its_times() {
        let devices = [DeviceId::from_bytes([0; 16]), DeviceId::from_bytes([1; 16])];
        let query = count_query("readings_unique", &devices, 5, 7);
        assert_eq!(
            query,
            "SELECT count() FROM readings_unique WHERE device_id IN ('00000000-0000-0000-0000-000000000000', \
             '01010101-0101-0101-0101-010101010101') AND timestamp BETWEEN fromUnixTimestamp64Milli(5, 'UTC') \
             AND fromUnixTimestamp64Milli(7, 'UTC')"
        );
    }
}
