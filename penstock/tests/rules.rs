//! `penstock rules`, as people call it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const RULES: &str =
    "[rules.hot]\nkind = \"threshold\"\nmetric = \"temperature\"\nabove = 80\nseverity = \"critical\"\n";
const READINGS: &str = "device_id,timestamp,temperature\n\
    0a1b2c3d-0000-4000-8000-0123456789ab,2026-01-31T12:00:00Z,81.5\n\
    0a1b2c3d-0000-4000-8000-0123456789ab,2026-01-31T12:01:00Z,79\n";

fn penstock(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock")).args(args).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_good_file_is_summed_up_and_a_bad_one_says_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.toml"), RULES).unwrap();
    let output = penstock(folder.path(), &["rules", "check", "rules.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(lines[0].starts_with("RULE  KIND       METRIC"), "{lines:?}");
    assert_eq!(lines[1], "hot   threshold  temperature  above 80   critical  all");
    assert!(lines[2].starts_with("1 rule is good; at most "), "{lines:?}");

    fs::write(folder.path().join("rules.toml"), RULES.replace("above", "abvoe")).unwrap();
    let output = penstock(folder.path(), &["rules", "check", "rules.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "rules.toml:1: rules.hot: needs one of the keys above and below: the limit\n\
         rules.toml:4: rules.hot.abvoe: unknown key; did you mean above?\n"
    );
    let output = penstock(folder.path(), &["rules", "check", "rules.toml", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout)
            .starts_with("{\"count\":2,\"ok\":false,\"problems\":[{\"file\":\"rules.toml\",\"line\":1,")
    );
    let output = penstock(folder.path(), &["rules", "check"]);
    assert_eq!(output.status.code(), Some(2), "a command line that cannot be carried out");
}

#[test]
fn readings_show_what_would_have_been_raised() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.toml"), RULES).unwrap();
    fs::write(folder.path().join("r.csv"), READINGS).unwrap();
    let output = penstock(folder.path(), &["rules", "test", "rules.toml", "--readings", "r.csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(
        lines[1],
        "2026-01-31T12:00:00.000Z  firing    hot   0a1b2c3d-0000-4000-8000-0123456789ab  critical  81.5   2     \
         hot on 0a1b2c3d-0000-4000-8000-0123456789ab: temperature 81.5 (limit 80)"
    );
    assert!(lines[2].starts_with("2026-01-31T12:01:00.000Z  resolved  hot"), "{lines:?}");
    assert_eq!(lines[3], "2 readings, devices with state: 1; 1 raised, 1 resolved, 0 still firing");

    let output = penstock(folder.path(), &["rules", "test", "rules.toml", "--readings", "r.csv", "--json"]);
    assert!(text(&output.stdout).contains("\"state\":\"resolved\""));

    fs::write(folder.path().join("r.csv"), READINGS.replace(",79", ",warm")).unwrap();
    let output = penstock(folder.path(), &["rules", "test", "rules.toml", "--readings", "r.csv"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "r.csv:3: temperature \"warm\": write a number\n");

    let output = penstock(folder.path(), &["rules", "test", "rules.toml", "--readings", "no.csv"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no.csv cannot be read"));
}

#[test]
fn help_has_examples() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["check", "test"] {
        let output = penstock(folder.path(), &["rules", command, "--help"]);
        assert!(text(&output.stdout).contains("Examples:\n  penstock rules"), "{command}");
    }
}
