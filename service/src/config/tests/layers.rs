//! Which layer wins, and what values look like in each.

use std::fs;
use std::path::PathBuf;

use super::*;

const CERT_FILE: &str = "PENSTOCK_GATEWAY__TLS__CERT_FILE";

#[test]
fn an_empty_file_is_the_defaults() {
    let loaded = load("", &[], &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.origins.is_empty());
    assert_eq!(Config::default().validate(), []);
}

#[test]
fn later_layers_win() {
    let file = "[bridge]\nlinger_ms = 1\ndelivery_timeout_ms = 1000\nqueue_records_max = 1\n";
    let env = [("PENSTOCK_BRIDGE__LINGER_MS", "2"), ("PENSTOCK_BRIDGE__QUEUE_RECORDS_MAX", "2")];
    let flags = [("bridge.linger_ms", "3"), ("bridge.metrics_max", "3"), ("bridge.metrics_max", "4")];
    let Loaded { config, origins } = load(file, &env, &flags).unwrap();
    assert_eq!(config.bridge.linger_ms, 3);
    assert_eq!(config.bridge.queue_records_max, 2);
    assert_eq!(config.bridge.delivery_timeout_ms, 1000);
    assert_eq!(config.bridge.metrics_max, 4);
    let from = |path: &str| origins[path].to_string();
    assert_eq!(from("bridge.linger_ms"), "flag --set bridge.linger_ms");
    assert_eq!(from("bridge.queue_records_max"), "environment PENSTOCK_BRIDGE__QUEUE_RECORDS_MAX");
    assert_eq!(from("bridge.delivery_timeout_ms"), "penstock.toml:3");
    assert!(!origins.contains_key("bridge.compression"));
}

#[test]
fn every_type_can_be_given_in_every_layer() {
    let file = r#"
        [gateway]
        listen = "[::]:8884"
        tls.crl_files = ["a.crl", "b.crl"]
        limits.connections_max = 0x1_0000
        [kafka]
        replication_factor = -1
        [bridge]
        compression = "zstd"
        [clickhouse]
        password = "p"
    "#;
    let env = [
        ("PENSTOCK_GATEWAY__LISTEN", "[::]:8884"),
        ("PENSTOCK_GATEWAY__TLS__CRL_FILES", "a.crl, b.crl"),
        ("PENSTOCK_GATEWAY__LIMITS__CONNECTIONS_MAX", "65_536"),
        ("PENSTOCK_KAFKA__REPLICATION_FACTOR", "-1"),
        ("PENSTOCK_BRIDGE__COMPRESSION", "zstd"),
        ("PENSTOCK_CLICKHOUSE__PASSWORD", "p"),
    ];
    let flags = [
        ("gateway.listen", "[::]:8884"),
        ("gateway.tls.crl_files", "a.crl,b.crl"),
        ("gateway.limits.connections_max", "65536"),
        ("kafka.replication_factor", "-1"),
        ("bridge.compression", "zstd"),
        ("clickhouse.password", "p"),
    ];
    let from_file = config(file);
    assert_eq!(from_file, load("", &env, &[]).unwrap().config);
    assert_eq!(from_file, load("", &[], &flags).unwrap().config);
    assert_eq!(from_file.gateway.listen, "[::]:8884".parse().unwrap());
    assert_eq!(from_file.gateway.tls.crl_files, [PathBuf::from("a.crl"), PathBuf::from("b.crl")]);
    assert_eq!(from_file.gateway.limits.connections_max, 65_536);
    assert_eq!(from_file.bridge.compression, Compression::Zstd);
    assert_eq!(from_file.clickhouse.password.expose(), "p");
}

#[test]
fn an_empty_list_in_the_environment_is_empty() {
    let file = "gateway.tls.crl_files = ['a.crl']";
    let loaded = load(file, &[("PENSTOCK_GATEWAY__TLS__CRL_FILES", "")], &[]).unwrap();
    assert_eq!(loaded.config.gateway.tls.crl_files, Vec::<PathBuf>::new());
}

#[test]
fn librdkafka_properties_merge_by_name() {
    let file = r#"
        [kafka.properties]
        "security.protocol" = "SASL_SSL"
        sasl.username = "penstock"
        sasl.password = "from the file"
        socket.timeout.ms = 5000
        socket.keepalive.enable = true
    "#;
    let env = [("PENSTOCK_KAFKA__PROPERTIES__SASL_PASSWORD", "from the environment")];
    let flags = [("kafka.properties.ssl.ca.location", "/etc/ca.pem")];
    let Loaded { config, origins } = load(file, &env, &flags).unwrap();
    let found: Vec<(&str, &str)> =
        config.kafka.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("sasl.password", "from the environment"),
        ("sasl.username", "penstock"),
        ("security.protocol", "SASL_SSL"),
        ("socket.keepalive.enable", "true"),
        ("socket.timeout.ms", "5000"),
        ("ssl.ca.location", "/etc/ca.pem"),
    ];
    assert_eq!(found, expected);
    assert_eq!(origins["kafka.properties.sasl.username"].to_string(), "penstock.toml:4");
}

#[test]
fn relative_paths_are_relative_to_the_file_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("penstock.toml");
    fs::write(&file, "gateway.tls = { cert_file = 'own.pem', crl_files = ['one.crl', '/two.crl'] }").unwrap();
    let env = pairs(&[("PENSTOCK_GATEWAY__TLS__CLIENT_CA_FILE", "here.pem")]);
    let tls = Config::load(Some(&file), env.into_iter(), &[]).unwrap().config.gateway.tls;
    assert_eq!(tls.cert_file, folder.path().join("own.pem"));
    assert_eq!(tls.crl_files, [folder.path().join("one.crl"), PathBuf::from("/two.crl")]);
    assert_eq!(tls.key_file, folder.path().join("certs/server.key"), "defaults belong to the file, too");
    assert_eq!(tls.client_ca_file, PathBuf::from("here.pem"));
}

#[test]
fn the_environment_may_name_the_file_and_a_flag_wins() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.toml"), folder.path().join("two.toml"));
    fs::write(&one, "writer.group = 'one'").unwrap();
    fs::write(&two, "writer.group = 'two'").unwrap();
    let env = || pairs(&[("PENSTOCK_CONFIG", two.to_str().unwrap())]).into_iter();
    assert_eq!(Config::load(None, env(), &[]).unwrap().config.writer.group, "two");
    assert_eq!(Config::load(Some(&one), env(), &[]).unwrap().config.writer.group, "one");
}

#[test]
fn without_a_file_there_are_the_defaults() {
    // Tests run in the folder of the crate, which has no penstock.toml.
    assert_eq!(Config::load(None, std::iter::empty(), &[]).unwrap().config, Config::default());
}

#[test]
fn variables_of_others_are_left_alone() {
    let env = [
        ("PATH", "/bin"),
        ("PENSTOCK_CACHE", "cache"),
        ("PENSTOCK_SERVICE_PORT", "8883"),
        (CERT_FILE, "c.pem"),
    ];
    let origins = load("", &env, &[]).unwrap().origins;
    assert_eq!(origins.keys().collect::<Vec<_>>(), ["gateway.tls.cert_file"]);
}
