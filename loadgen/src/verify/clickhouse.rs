//! Waits for the run's rows in ClickHouse and reads them.

use std::time::{Duration, Instant};

use clickhouse::Client;
use clickhouse::error::Error;
use penstock_proto::DeviceId;

use super::oracle::{Oracle, Rows};
use super::{Expectation, Progress, VerifyError};
use crate::store::{ClickHouseTarget, RowKey, count_query, rows_query};

/// Devices named in one query: 2,000 UUIDs stay far below ClickHouse's limit of 256 KiB a query.
const DEVICES_A_QUERY: usize = 2_000;
const POLL: Duration = Duration::from_millis(100);

/// The queries of one verification.
struct Questions<'q> {
    client: Client,
    url: &'q str,
    table: &'q str,
    devices: Vec<DeviceId>,
    from_ms: i64,
    to_ms: i64,
}

impl<'q> Questions<'q> {
    fn new(oracle: &Oracle<'_>, target: &'q ClickHouseTarget, table: &'q str) -> Self {
        let (from_ms, to_ms) = oracle.timestamps();
        Self { client: target.client(), url: &target.url, table, devices: oracle.devices(), from_ms, to_ms }
    }
}

/// Reads the run's rows of a table once.
pub(super) async fn read<'o>(
    oracle: &'o Oracle<'o>,
    target: &ClickHouseTarget,
    table: &str,
) -> Result<Rows<'o>, VerifyError> {
    let questions = Questions::new(oracle, target, table);
    questions.rows(oracle).await.map_err(|cause| questions.failed(cause))
}

/// Asks until no row is missing, or their number stands still, or the deadline is over; then hands out what is there.
pub(super) async fn wait<'o>(
    oracle: &'o Oracle<'o>,
    target: &ClickHouseTarget,
    expectation: &Expectation,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Rows<'o>, VerifyError> {
    let questions = Questions::new(oracle, target, "readings");
    let expected = oracle.rows_expected();
    let began = Instant::now();
    let (mut count, mut grew_at) = (0, began);
    loop {
        let over = began.elapsed() >= expectation.deadline || grew_at.elapsed() >= expectation.stall;
        match questions.count().await {
            Ok(now) => {
                progress(Progress { store: "clickhouse", found: now, expected });
                if now != count {
                    (count, grew_at) = (now, Instant::now());
                }
            }
            Err(cause) if over => return Err(questions.failed(cause)),
            // ClickHouse may be restarting; while there is time it is asked again.
            Err(error) => tracing::debug!(%error, "the verifier's query failed"),
        }
        if over || count >= expected {
            match questions.rows(oracle).await {
                Ok(rows) if over || rows.missing() == 0 => return Ok(rows),
                Err(cause) if over => {
                    return Err(questions.failed(cause));
                }
                _ => {}
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Questions<'_> {
    fn failed(&self, cause: Error) -> VerifyError {
        VerifyError::ClickHouse { url: self.url.to_owned(), cause }
    }

    async fn count(&self) -> Result<u64, Error> {
        let mut count = 0;
        for devices in self.devices.chunks(DEVICES_A_QUERY) {
            let query = count_query(self.table, devices, self.from_ms, self.to_ms);
            count += self.client.query(&query).fetch_one::<u64>().await?;
        }
        Ok(count)
    }

    async fn rows<'o>(&self, oracle: &'o Oracle<'o>) -> Result<Rows<'o>, Error> {
        let mut rows = Rows::new(oracle);
        for devices in self.devices.chunks(DEVICES_A_QUERY) {
            let query = rows_query(self.table, devices, self.from_ms, self.to_ms);
            let mut cursor = self.client.query(&query).fetch::<RowKey>()?;
            while let Some(row) = cursor.next().await? {
                let device = DeviceId::from(row.device_id);
                rows.saw(device, row.sequence, row.timestamp_ms, row.kafka_partition, row.kafka_offset);
            }
        }
        Ok(rows)
    }
}
