//! The schema in ClickHouse: numbered SQL files, applied once and in order, recorded in `schema_migrations`.
//!
//! The same files serve a single node and a replicated cluster. Every statement can be run again without harm
//! (`IF NOT EXISTS`, a view that is replaced by itself, a setting that is set again, a check), so any number of writers
//! may migrate at once: each applies what is missing, all record the same row, and rows of the same migration merge into
//! one. Never changes or removes rows that are there: a file that was applied must not be changed, a change is a new
//! file.

mod render;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use penstock_service::config::ClickHouse;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::clickhouse::{CallError, Client};
pub use render::RenderError;
use render::{render, statements};

/// Every migration, by version.
const FILES: &[(u32, &str, &str)] = &[
    (1, "readings", include_str!("../../deploy/sql/0001_readings.sql")),
    (2, "latest", include_str!("../../deploy/sql/0002_latest.sql")),
    (3, "rollups", include_str!("../../deploy/sql/0003_rollups.sql")),
    (4, "alerts", include_str!("../../deploy/sql/0004_alerts.sql")),
    (5, "exactly_once", include_str!("../../deploy/sql/0005_exactly_once.sql")),
    (6, "rollups", include_str!("../../deploy/sql/0006_rollups.sql")),
    (7, "alerts", include_str!("../../deploy/sql/0007_alerts.sql")),
];

const CREATE_DATABASE: &str = "CREATE DATABASE IF NOT EXISTS {database} {on_cluster}";
const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS {database}.schema_migrations {on_cluster}
(
    version UInt32 COMMENT 'Number of the migration',
    name String COMMENT 'Its name',
    sha256 FixedString(64) COMMENT 'Checksum of its file, in hexadecimal digits',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When it was applied'
)
ENGINE = {engine_replacing:}
ORDER BY (version, name, sha256)
COMMENT 'Which migrations of Penstock this database has'";

/// One numbered SQL file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number, from 1 without gaps.
    pub version: u32,
    /// Its name, from the file's.
    pub name: &'static str,
    /// Its text, with placeholders.
    pub sql: &'static str,
}

impl Migration {
    /// All migrations that this build knows, by version.
    pub fn all() -> Vec<Self> {
        FILES.iter().map(|&(version, name, sql)| Self { version, name, sql }).collect()
    }

    /// Checksum of the file in hexadecimal digits.
    pub fn sha256(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(self.sql) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The statements that it runs with this configuration.
    ///
    /// # Errors
    /// [`RenderError`] if the configuration holds a name that cannot be used.
    pub fn statements(&self, config: &ClickHouse) -> Result<Vec<String>, RenderError> {
        statements(self.sql).into_iter().map(|statement| render(&statement, config)).collect()
    }
}

/// Where a migration stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Not applied yet.
    Pending,
    /// Applied.
    Applied {
        /// When, in UTC.
        applied_at: String,
    },
    /// Applied, but from a file with another content.
    Changed {
        /// Checksum of the file that was applied.
        applied_sha256: String,
        /// When, in UTC.
        applied_at: String,
    },
    /// Applied by a newer build; this one does not know it.
    Newer {
        /// When, in UTC.
        applied_at: String,
    },
}

/// A migration and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Number of the migration.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Checksum of the file in this build; of the applied one if this build has none.
    pub sha256: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
}

/// What [`migrate`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Versions that were applied now.
    pub applied: Vec<u32>,
    /// Versions that had been applied before.
    pub present: Vec<u32>,
    /// Versions in the database that only a newer build knows.
    pub newer: Vec<u32>,
}

/// Why the schema could not be brought up to date.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MigrateError {
    /// A file was changed after it had been applied.
    #[error(
        "migration {version} ({name}) was applied with checksum {applied}, but this build has {built}: an applied \
         file must not be changed. Use the build that applied it, or put the change into a new migration"
    )]
    Changed {
        /// Number of the migration.
        version: u32,
        /// Its name.
        name: String,
        /// Checksum of the file that was applied.
        applied: String,
        /// Checksum of the file in this build.
        built: String,
    },
    /// The configuration holds a name that cannot be used.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// A statement failed.
    #[error("{what}: {error}")]
    Statement {
        /// What was being done.
        what: String,
        /// How the statement failed.
        error: CallError,
    },
    /// The record in the database is not what was written there.
    #[error("{database}.schema_migrations holds a row that cannot be read: {row:?}; repair or remove it")]
    Record {
        /// The database.
        database: String,
        /// The row.
        row: String,
    },
}

impl MigrateError {
    /// Whether trying again can help without a person's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Statement { error, .. } => {
                matches!(
                    error.class(),
                    crate::clickhouse::Class::Transient | crate::clickhouse::Class::Unknown
                )
            }
            Self::Changed { .. } | Self::Render(_) | Self::Record { .. } => false,
        }
    }

    /// How the statement failed, if it was a statement.
    pub const fn call_error(&self) -> Option<&CallError> {
        match self {
            Self::Statement { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Applies what is missing, in order. Safe to run from any number of processes at once.
///
/// # Errors
/// [`MigrateError`]; migrations before the one that failed stay applied.
pub async fn migrate(client: &Client, config: &ClickHouse) -> Result<Applied, MigrateError> {
    run(client, config, "create the database", CREATE_DATABASE).await?;
    run(client, config, "create the record of migrations", CREATE_RECORD).await?;
    let mut applied = Applied::default();
    let status = status_of(&Migration::all(), &recorded(client, config).await?);
    if let Some(error) = status.iter().find_map(changed) {
        return Err(error);
    }
    for migration in Migration::all() {
        let state =
            status.iter().find(|status| status.version == migration.version).map(|status| &status.state);
        if matches!(state, Some(State::Applied { .. })) {
            applied.present.push(migration.version);
            continue;
        }
        apply(client, config, &migration).await?;
        applied.applied.push(migration.version);
    }
    let newer = status.iter().filter(|status| matches!(status.state, State::Newer { .. }));
    applied.newer = newer.map(|status| status.version).collect();
    Ok(applied)
}

/// Where every migration stands. Changes nothing; a database that does not exist has none.
///
/// # Errors
/// [`MigrateError`] if the server cannot be asked.
pub async fn status(client: &Client, config: &ClickHouse) -> Result<Vec<Status>, MigrateError> {
    let recorded = match recorded(client, config).await {
        Err(MigrateError::Statement { error: CallError::Server(error), .. })
            if matches!(error.code, Some(60 | 81)) =>
        {
            BTreeMap::new()
        }
        recorded => recorded?,
    };
    Ok(status_of(&Migration::all(), &recorded))
}

/// The error of a migration that was changed after it had been applied.
pub fn changed(status: &Status) -> Option<MigrateError> {
    let State::Changed { applied_sha256, .. } = &status.state else { return None };
    Some(MigrateError::Changed {
        version: status.version,
        name: status.name.clone(),
        applied: applied_sha256.clone(),
        built: status.sha256.clone(),
    })
}

async fn apply(client: &Client, config: &ClickHouse, migration: &Migration) -> Result<(), MigrateError> {
    let Migration { version, name, .. } = migration;
    let what = format!("migration {version} ({name})");
    for statement in migration.statements(config)? {
        call(client, &what, &statement).await?;
    }
    // Last: a migration that broke off is applied again.
    let record = format!(
        "INSERT INTO {}.schema_migrations (version, name, sha256) VALUES ({version}, '{name}', '{}')",
        render::identifier("clickhouse.database", &config.database)?,
        migration.sha256()
    );
    call(client, &what, &record).await
}

async fn run(client: &Client, config: &ClickHouse, what: &str, template: &str) -> Result<(), MigrateError> {
    call(client, what, &render(template, config)?).await
}

async fn call(client: &Client, what: &str, sql: &str) -> Result<(), MigrateError> {
    let failed = |error| MigrateError::Statement { what: what.to_owned(), error };
    client.query(sql).await.map(drop).map_err(failed)
}

/// What one version's rows in the database say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recorded {
    name: String,
    /// More than one if builds with different files both applied it.
    sha256: Vec<String>,
    applied_at: String,
}

async fn recorded(client: &Client, config: &ClickHouse) -> Result<BTreeMap<u32, Recorded>, MigrateError> {
    let database = render::identifier("clickhouse.database", &config.database)?;
    let sql = format!(
        "SELECT version, any(name), arrayStringConcat(arraySort(groupUniqArray(sha256)), ','), \
         concat(toString(min(applied_at)), 'Z') FROM {database}.schema_migrations \
         GROUP BY version ORDER BY version FORMAT TSVRaw"
    );
    let failed = |error| MigrateError::Statement { what: "read the record of migrations".to_owned(), error };
    let text = client.query(&sql).await.map_err(failed)?;
    text.lines().map(|row| record_of(row, database)).collect()
}

fn record_of(row: &str, database: &str) -> Result<(u32, Recorded), MigrateError> {
    let unreadable = || MigrateError::Record { database: database.to_owned(), row: row.to_owned() };
    let mut fields = row.split('\t');
    let mut next = || fields.next().ok_or_else(unreadable);
    let version = next()?.parse().map_err(|_| unreadable())?;
    let name = next()?.to_owned();
    let sha256 = next()?.split(',').map(str::to_owned).collect();
    let applied_at = next()?.to_owned();
    Ok((version, Recorded { name, sha256, applied_at }))
}

fn status_of(known: &[Migration], recorded: &BTreeMap<u32, Recorded>) -> Vec<Status> {
    let ours = known.iter().map(|migration| {
        let sha256 = migration.sha256();
        let state = match recorded.get(&migration.version) {
            None => State::Pending,
            Some(Recorded { sha256: applied, applied_at, .. }) => {
                match applied.iter().find(|applied| **applied != sha256) {
                    None => State::Applied { applied_at: applied_at.clone() },
                    Some(other) => {
                        State::Changed { applied_sha256: other.clone(), applied_at: applied_at.clone() }
                    }
                }
            }
        };
        Status { version: migration.version, name: migration.name.to_owned(), sha256, state }
    });
    let unknown = |version: &u32| known.iter().all(|migration| migration.version != *version);
    let newer = recorded.iter().filter(|(version, _)| unknown(version)).map(|(version, recorded)| Status {
        version: *version,
        name: recorded.name.clone(),
        sha256: recorded.sha256.join(","),
        state: State::Newer { applied_at: recorded.applied_at.clone() },
    });
    ours.chain(newer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_up_from_one_without_gaps() {
        for (migration, version) in Migration::all().iter().zip(1..) {
            assert_eq!(migration.version, version);
        }
    }

    #[test]
    fn every_statement_can_be_run_again() {
        for migration in Migration::all() {
            for statement in migration.statements(&ClickHouse::default()).unwrap() {
                let repeatable =
                    ["IF NOT EXISTS", "MODIFY SETTING", "CREATE OR REPLACE VIEW", "SELECT throwIf("];
                assert!(repeatable.iter().any(|words| statement.contains(words)), "{statement}");
                assert!(!statement.contains(" {"), "a placeholder is left: {statement}");
            }
        }
    }

    #[test]
    fn a_migration_is_pending_applied_changed_or_newer() {
        let known = Migration::all();
        let row = |sha256: String| Recorded {
            name: "x".to_owned(),
            sha256: vec![sha256],
            applied_at: "2026-01-01 00:00:00.000Z".to_owned(),
        };
        let recorded =
            [(1, row(known[0].sha256())), (2, row("0".repeat(64))), (99, row("f".repeat(64)))].into();
        let states: Vec<_> =
            status_of(&known, &recorded).into_iter().map(|status| (status.version, status.state)).collect();
        assert!(matches!(states[0], (1, State::Applied { .. })));
        assert!(matches!(states[1], (2, State::Changed { .. })));
        assert!(matches!(states[2], (3, State::Pending)));
        assert!(matches!(states.last(), Some((99, State::Newer { .. }))));
    }

    #[test]
    fn a_row_that_nobody_wrote_is_an_error() {
        assert!(record_of("1\tx\tabc\t2026", "db").is_ok());
        for row in ["", "one\tx\tabc\t2026", "1\tx"] {
            assert!(matches!(record_of(row, "db"), Err(MigrateError::Record { .. })), "{row:?}");
        }
    }
}
