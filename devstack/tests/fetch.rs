//! What a user sees when a server cannot be fetched. Nothing is downloaded: `npm` and `mvn` are missing or false.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is the failure of the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use penstock_devstack::{ClickHouse, ClickHouseOptions, Kafka, KafkaOptions};

const HELPER: &str = "PENSTOCK_FETCH_HELPER";

/// Not a test: the process that the tests start with an environment of its own.
#[test]
#[ignore = "run by the other tests of this file"]
fn helper_which_prints_the_error() {
    let error = match std::env::var(HELPER).as_deref() {
        Ok("kafka") => Kafka::start(&KafkaOptions::default()).unwrap_err(),
        Ok("clickhouse") => ClickHouse::start(&ClickHouseOptions::default()).unwrap_err(),
        _ => return,
    };
    println!("error: {error}");
}

/// The error of starting `server` with an empty cache and only the programs of `bin`.
fn error_of(server: &str, bin: &Path, cache: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "helper_which_prints_the_error"])
        .env(HELPER, server)
        .env("PATH", bin)
        .env("PENSTOCK_CACHE", cache)
        .env_remove(penstock_devstack::KAFKA_ENV)
        .env_remove(penstock_devstack::CLICKHOUSE_ENV)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, error) = text.split_once("error: ").unwrap();
    error.to_owned()
}

fn program(bin: &Path, name: &str, script: &str) {
    let path = bin.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the cache holds, locks left out.
fn artifacts(cache: &Path) -> Vec<String> {
    let names = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

#[test]
fn a_missing_program_names_its_package() {
    let (bin, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let error = error_of("clickhouse", bin.path(), cache.path());
    assert!(error.contains("`npm` was not found") && error.contains("apt-get install npm"), "{error}");
    let error = error_of("kafka", bin.path(), cache.path());
    assert!(error.contains("`java` was not found"), "{error}");
    program(bin.path(), "java", "");
    let error = error_of("kafka", bin.path(), cache.path());
    assert!(error.contains("`mvn` was not found") && error.contains("apt-get install maven"), "{error}");
    assert_eq!(artifacts(cache.path()), [""; 0]);
}

#[test]
fn a_package_with_other_contents_is_refused_and_not_kept() {
    let (bin, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(bin.path(), "npm", "echo false > chdb-lib-linux-x64-gnu-26.7.3-stable.1.tgz");
    let error = error_of("clickhouse", bin.path(), cache.path());
    for part in ["chdb-lib-linux-x64-gnu-26.7.3-stable.1.tgz", "expected c0d32b12", "found ", "Run again"] {
        assert!(error.contains(part), "{error} does not contain {part}");
    }
    assert_eq!(artifacts(cache.path()), [""; 0]);
}

#[test]
fn a_fetch_which_fails_shows_what_the_program_said() {
    let (bin, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(bin.path(), "java", "");
    program(bin.path(), "mvn", "echo 'Could not transfer artifact'; exit 1");
    let error = error_of("kafka", bin.path(), cache.path());
    assert!(error.contains("mvn") && error.contains("Could not transfer artifact"), "{error}");
    assert_eq!(artifacts(cache.path()), [""; 0]);
}
