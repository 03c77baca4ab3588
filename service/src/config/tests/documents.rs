//! What is printed and what is committed: `config show`, the reference, the example file.

use std::fs;

use super::*;

fn with_secrets() -> Loaded {
    let file =
        "[clickhouse]\nuser = 'me'\npassword = 'hunter2'\n[kafka.properties]\n'sasl.password' = 'hunter2'\n";
    let env = [("PENSTOCK_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SSL")];
    load(file, &env, &[("gateway.listen", "127.0.0.1:1")]).unwrap()
}

#[test]
fn show_names_origins_and_hides_secrets() {
    let text = show(&with_secrets(), false);
    for line in [
        "listen = \"127.0.0.1:1\" # flag --set gateway.listen",
        "user = \"me\" # penstock.toml:2",
        "password = \"***\" # penstock.toml:3",
        "properties.\"sasl.password\" = \"***\" # penstock.toml:5",
        "properties.\"security.protocol\" = \"SSL\" # environment PENSTOCK_KAFKA__PROPERTIES__SECURITY_PROTOCOL",
        "batch_rows_max = 10000",
        "[gateway.limits]",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains("hunter2"));
}

#[test]
fn what_show_prints_can_be_loaded() {
    let loaded = load("[writer]\ngroup = \"a\\n'b\\\"\"\n", &[], &[]).unwrap();
    assert_eq!(config(&show(&loaded, false)), loaded.config);
}

#[test]
fn show_as_json_has_the_configuration_and_the_origins() {
    let text = show(&with_secrets(), true);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["config"]["clickhouse"]["password"], "***");
    assert_eq!(json["config"]["kafka"]["properties"]["sasl.password"], "***");
    assert_eq!(json["config"]["gateway"]["limits"]["inflight_max"], 256);
    assert_eq!(json["origins"]["clickhouse.user"], "penstock.toml:2");
    assert!(!text.contains("hunter2"));
}

#[test]
fn debug_hides_secrets() {
    let text = format!("{:?}", with_secrets());
    assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
}

#[test]
fn every_key_is_documented() {
    for key in Schema::of::<Config>().keys() {
        let docs = key.docs.concat();
        assert!(docs.trim().ends_with('.') && docs.len() > 8, "{}: {docs:?}", key.path);
    }
}

#[test]
fn the_reference_lists_every_key_with_its_default() {
    let text = reference();
    let schema = Schema::of::<Config>();
    assert_eq!(text.matches("\n| `").count(), schema.keys().count() + properties::all_forbidden().len());
    assert!(text.contains("| `inflight_max` | integer, 1 to 65535 | `256` | "), "{text}");
}

#[test]
fn the_example_with_and_without_its_comments_is_the_defaults() {
    let text = example();
    assert_eq!(config(&text), Config::default());
    let commented = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    assert!(text.lines().any(|line| commented(&line)));
    let keys = text.lines().filter(commented).count();
    let all: Vec<&str> = text.lines().map(|line| if commented(&line) { &line[1..] } else { line }).collect();
    let Loaded { config, origins } = load(&all.join("\n"), &[], &[]).unwrap();
    assert_eq!(config, Config::default());
    let schema = Schema::of::<Config>();
    assert_eq!(keys, schema.keys().count());
    // A table of properties without any sets nothing.
    assert_eq!(origins.len(), keys - 1);
}

/// Compares a committed file with what it is made from, or writes it if `PENSTOCK_TEST_UPDATE` is set.
fn assert_committed(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("PENSTOCK_TEST_UPDATE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "{} is out of date: run PENSTOCK_TEST_UPDATE=1 cargo test -p penstock-service",
        path.display()
    );
}

#[test]
fn the_committed_reference_is_up_to_date() {
    assert_committed("docs/CONFIGURATION.md", &reference());
}

#[test]
fn the_committed_example_is_up_to_date() {
    assert_committed("deploy/penstock.toml", &example());
}
