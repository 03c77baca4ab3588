//! `telemetry::init` belongs to the whole process, so it has a process of its own.

use std::process::{Command, Stdio};

use penstock_service::config::{LogFormat, Telemetry};
use penstock_service::telemetry::{TelemetryError, init};

/// Not a test: the process whose standard error the test below reads.
#[test]
#[ignore = "run by the other test as a process of its own"]
fn child_that_logs_and_panics() {
    let telemetry = Telemetry { log_format: LogFormat::Json, ..Telemetry::default() };
    init(&telemetry).unwrap();
    assert!(matches!(init(&telemetry), Err(TelemetryError::AlreadySet(_))));
    tracing::info!(partition = 7, "stored");
    let panicked = std::thread::spawn(|| panic!("out of\npatience")).join();
    assert!(panicked.is_err());
}

#[test]
fn events_and_panics_are_json_lines_on_standard_error() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_logs_and_panics", "--ignored", "--nocapture"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["message"], &lines[0]["partition"]), (&"stored".into(), &7.into()));
    assert_eq!(lines[1]["level"], "ERROR");
    assert!(lines[1]["message"].as_str().unwrap().contains("out of\npatience"), "{text}");
}
