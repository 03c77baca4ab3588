//! One ClickHouse a test binary, one database a test.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod fleet;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use penstock_devstack::{ClickHouse, ClickHouseOptions};
use penstock_service::config;
use penstock_storage_writer::clickhouse::Client;

/// The ClickHouse of this test binary. It ends with the process.
pub fn clickhouse() -> &'static ClickHouse {
    static CLICKHOUSE: OnceLock<ClickHouse> = OnceLock::new();
    CLICKHOUSE.get_or_init(|| ClickHouse::start(&ClickHouseOptions::default()).expect("ClickHouse starts"))
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{prefix}_{nanos}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The configuration for a new database in `server`.
pub fn clickhouse_config(server: &ClickHouse) -> config::ClickHouse {
    let mut config = config::ClickHouse { database: unique("t"), ..config::ClickHouse::default() };
    // A server of the user's may be named with user and password.
    config.url = server.http_url();
    if let Some((scheme, rest)) = server.http_url().split_once("://")
        && let Some((credentials, host)) = rest.rsplit_once('@')
    {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        config.url = format!("{scheme}://{host}");
        config.user = user.to_owned();
        config.password = password.into();
    }
    config
}

/// A new database with the schema.
pub async fn migrated(server: &ClickHouse) -> (config::ClickHouse, Client) {
    let config = clickhouse_config(server);
    let client = Client::new(&config).unwrap();
    penstock_storage_writer::migrations::migrate(&client, &config).await.expect("migrations apply");
    (config, client)
}

/// Lines of an answer, trimmed.
pub async fn lines(client: &Client, sql: &str) -> Vec<String> {
    client
        .query(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The only value of an answer.
pub async fn value(client: &Client, sql: &str) -> String {
    lines(client, sql).await.join("\n")
}
