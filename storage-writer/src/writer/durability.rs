//! Where rows are when an insert is done: what the configuration asks for is set, what is in force is found out.

use penstock_service::config::ClickHouse;

use crate::clickhouse::{CallError, Client};

/// Where rows are when an insert is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// In the page cache of one machine: they survive the end of ClickHouse, not that of the machine.
    PageCache,
    /// On the disk of one machine.
    Fsync,
    /// On several replicas.
    Quorum,
}

impl Level {
    /// The name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PageCache => "page-cache",
            Self::Fsync => "fsync",
            Self::Quorum => "quorum",
        }
    }

    /// The level of a table with this definition.
    fn of(create: &str, config: &ClickHouse) -> Self {
        let settings = create.rsplit_once("SETTINGS").map_or("", |(_, settings)| settings);
        let is_set = |name: &str| {
            let value = settings.split(',').find_map(|setting| {
                let (found, value) = setting.split_once('=')?;
                (found.trim() == name).then_some(value)
            });
            value.is_some_and(|value| value.trim_start().starts_with(['1', 't']))
        };
        if config.insert_quorum > 1 && create.contains("ENGINE = Replicated") {
            Self::Quorum
        } else if is_set("fsync_after_insert") && is_set("fsync_part_directory") {
            Self::Fsync
        } else {
            Self::PageCache
        }
    }
}

/// Sets what is asked for, and says what is in force.
///
/// # Errors
/// [`CallError`].
pub(super) async fn apply(client: &Client, config: &ClickHouse) -> Result<Level, CallError> {
    let database = &config.database;
    if config.fsync_after_insert {
        let on_cluster =
            if config.cluster.is_empty() { String::new() } else { format!("ON CLUSTER {}", config.cluster) };
        let sql = format!(
            "ALTER TABLE {database}.readings {on_cluster} MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1"
        );
        client.query(&sql).await?;
    }
    let sql = format!(
        "SELECT create_table_query FROM system.tables WHERE database = '{database}' AND name = 'readings' FORMAT TSVRaw"
    );
    let level = Level::of(&client.query(&sql).await?, config);
    let asked = config.fsync_after_insert || config.insert_quorum > 1;
    if asked && level == Level::PageCache {
        tracing::warn!(
            "clickhouse.insert_quorum asks for more than this table can give: it is not a replicated one"
        );
    }
    tracing::info!(level = level.name(), "durability of inserts");
    Ok(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_what_the_table_says() {
        let of = |create: &str, quorum| {
            Level::of(create, &ClickHouse { insert_quorum: quorum, ..ClickHouse::default() })
        };
        let plain = "CREATE TABLE d.readings (x UInt8) ENGINE = ReplacingMergeTree(x) SETTINGS index_granularity = 8192";
        assert_eq!(of(plain, 2), Level::PageCache);
        let synced = format!("{plain}, fsync_after_insert = true, fsync_part_directory = 1");
        assert_eq!(of(&synced, 0), Level::Fsync);
        assert_eq!(of(&format!("{plain}, fsync_after_insert = 1"), 0), Level::PageCache);
        assert_eq!(
            of(&format!("{plain}, fsync_after_insert = 0, fsync_part_directory = 0"), 0),
            Level::PageCache
        );
        let replicated =
            "CREATE TABLE d.readings (x UInt8) ENGINE = ReplicatedReplacingMergeTree(x) SETTINGS a = 1";
        assert_eq!(of(replicated, 2), Level::Quorum);
        assert_eq!(of(replicated, 0), Level::PageCache);
    }
}
