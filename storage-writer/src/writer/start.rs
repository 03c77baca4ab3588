//! Before the first record: topics in Kafka, schema in ClickHouse. Waits for servers that are not there yet, says so
//! once, and fails at once where waiting cannot help.

use std::time::Duration;

use penstock_kafka::{ClientSettings, ProvisionError, provision};
use penstock_service::Config;
use penstock_service::admin::{Latch, Readiness};
use penstock_service::backoff::Backoff;
use penstock_service::waiting::until_works;
use tokio_util::sync::CancellationToken;

use super::WriterError;
use super::durability::{self, Level};
use crate::clickhouse::{CallError, Class, Client};
use crate::migrations::{self, MigrateError, State};

const PROVISION_TIMEOUT: Duration = Duration::from_secs(10);

/// What has to be there before the writer is ready.
pub(super) struct Latches {
    pub(super) kafka: Latch,
    pub(super) clickhouse: Latch,
    pub(super) schema: Latch,
}

impl Latches {
    pub(super) fn new(readiness: &Readiness) -> Self {
        Self {
            kafka: readiness.latch("kafka"),
            clickhouse: readiness.latch("clickhouse"),
            schema: readiness.latch("schema"),
        }
    }
}

pub(super) fn client_settings(config: &Config) -> ClientSettings {
    ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: config.writer.group.clone(),
        properties: config.kafka.properties.clone(),
    }
}

fn backoff(config: &Config) -> Backoff {
    Backoff::new(config.writer.backoff_min_ms, config.writer.backoff_max_ms)
}

/// Waits until the topics are as they must be. `None` if the writer is to stop before.
pub(super) async fn topics(config: &Config, shutdown: &CancellationToken) -> Result<Option<()>, WriterError> {
    let specs = penstock_kafka::topic_specs(&config.kafka.topic_prefix, config.kafka.replication_factor);
    let settings = client_settings(config);
    let passing = |error: &ProvisionError| error.is_transient().then_some("unreachable");
    let attempt = || provision(&settings, &specs, PROVISION_TIMEOUT);
    let ready = until_works("preparing topics in Kafka", backoff(config), shutdown, passing, attempt).await?;
    Ok(ready)
}

/// Waits until ClickHouse answers and has the schema. `None` if the writer is to stop before.
pub(super) async fn schema(
    client: &Client,
    config: &Config,
    latches: &Latches,
    shutdown: &CancellationToken,
) -> Result<Option<()>, WriterError> {
    let passing = |error: &MigrateError| {
        error.is_transient().then(|| error.call_error().map_or("schema", CallError::kind))
    };
    let attempt = || prepare(client, config, latches);
    let what = "preparing the schema in ClickHouse";
    let ready = until_works(what, backoff(config), shutdown, passing, attempt).await?;
    latches.schema.set(ready.is_some());
    Ok(ready)
}

/// Waits until the durability of inserts is what was asked for, and says which it is. `None` if the writer is to stop
/// before.
pub(super) async fn durability(
    client: &Client,
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<Option<Level>, WriterError> {
    let passing = |error: &CallError| {
        let passes = !matches!(error.class(), Class::Permanent | Class::Rows);
        passes.then(|| error.kind())
    };
    let attempt = || durability::apply(client, &config.clickhouse);
    let what = "setting the durability of inserts";
    let level = until_works(what, backoff(config), shutdown, passing, attempt).await;
    level.map_err(|error| WriterError::Durability(Box::new(error)))
}

async fn prepare(client: &Client, config: &Config, latches: &Latches) -> Result<(), MigrateError> {
    let asked =
        |error| MigrateError::Statement { what: "ask ClickHouse whether it is there".to_owned(), error };
    client.ping().await.map_err(asked)?;
    latches.clickhouse.set(true);
    match migrations::migrate(client, &config.clickhouse).await {
        Ok(applied) => {
            if !applied.applied.is_empty() {
                tracing::info!(versions = ?applied.applied, "migrations applied");
            }
            if !applied.newer.is_empty() {
                tracing::warn!(versions = ?applied.newer, "the schema is newer than this build");
            }
            Ok(())
        }
        Err(error) if is_forbidden(&error) => current(client, config, error).await,
        Err(error) => Err(error),
    }
}

/// A user that may insert but not change the schema will do, if somebody else has brought it up to date.
async fn current(client: &Client, config: &Config, forbidden: MigrateError) -> Result<(), MigrateError> {
    let status = migrations::status(client, &config.clickhouse).await?;
    if let Some(error) = status.iter().find_map(migrations::changed) {
        return Err(error);
    }
    if status.iter().any(|status| status.state == State::Pending) { Err(forbidden) } else { Ok(()) }
}

fn is_forbidden(error: &MigrateError) -> bool {
    const ACCESS_DENIED: u32 = 497;
    const READONLY: u32 = 164;
    match error.call_error() {
        Some(CallError::Server(error)) => matches!(error.code, Some(ACCESS_DENIED | READONLY)),
        _ => false,
    }
}
