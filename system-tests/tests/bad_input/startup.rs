//! An operator's mistakes: exit code 1, and an error that says where and what to do.

use std::fs;
use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use penstock_kafka::{TopicSpec, provision};
use penstock_proto::topics::READINGS;
use penstock_system_tests::Chain;
use tokio::runtime::Runtime;

fn assert_fails(output: &Output, naming: &[&str]) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for name in naming {
        assert!(said.contains(name), "{name:?} is missing in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn an_unknown_key_and_a_wrong_value_are_named_with_file_and_line_and_remedy() {
    let chain = Chain::shared().with("gateway.limits.inflight_mx", "7").with("bridge.linger_ms", "\"soon\"");
    for arguments in [&["config", "check"][..], &["run", "gateway"]] {
        let output = chain.command("wrong", arguments);
        let lines = fs::read_to_string(chain.path("wrong.toml")).unwrap();
        let line_of = |key: &str| 1 + lines.lines().position(|line| line.starts_with(key)).unwrap();
        let unknown = format!(
            "wrong.toml:{}: gateway.limits.inflight_mx: unknown key; did you mean gateway.limits.inflight_max?",
            line_of("gateway.limits.inflight_mx")
        );
        let wrong = format!("wrong.toml:{}: bridge.linger_ms: found \"soon\"", line_of("bridge.linger_ms"));
        assert_fails(&output, &[&unknown, &wrong]);
    }
}

#[test]
fn a_certificate_file_that_cannot_be_used_is_named() {
    let chain = Chain::shared();
    let spoilt: [(&str, Option<&str>, &[&str]); 4] = [
        ("server.pem", None, &["server.pem", "cannot be read", "penstock certs"]),
        ("server.pem", Some("not a certificate"), &["server.pem", "certificates in PEM"]),
        ("server.key", Some("not a key"), &["server.key", "private key in PEM"]),
        ("ca.pem", Some(""), &["ca.pem", "certificates in PEM"]),
    ];
    for (file, content, naming) in spoilt {
        chain.write_certificates();
        match content {
            Some(content) => fs::write(chain.path(file), content).unwrap(),
            None => fs::remove_file(chain.path(file)).unwrap(),
        }
        assert_fails(&chain.command("gateway", &["run", "gateway"]), naming);
    }
    chain.write_certificates();
    let other = chain.authority.server(&["localhost"], 2).unwrap();
    fs::write(chain.path("server.key"), other.key_pem).unwrap();
    let output = chain.command("gateway", &["run", "gateway"]);
    assert_fails(&output, &["server.key", "does not go with cert_file"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let chain = Chain::shared();
    let taken = TcpListener::bind(chain.mqtt).unwrap();
    let output = chain.command("gateway", &["run", "gateway"]);
    let address = chain.mqtt.to_string();
    assert_fails(&output, &["gateway.listen", &address, "is another process there?"]);
    drop(taken);

    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap().to_string();
    let chain = chain.with("telemetry.admin_listen", &format!("{address:?}"));
    let output = chain.command("gateway", &["run", "gateway"]);
    assert_fails(&output, &["telemetry.admin_listen", &address, "is another process there?"]);
}

#[test]
fn a_topic_with_another_number_of_partitions_is_named() {
    let chain = Chain::shared();
    let topic = format!("{}{READINGS}", chain.prefix);
    let spec =
        TopicSpec { name: topic.clone(), partitions: 3, replication_factor: 1, ..TopicSpec::default() };
    let create = async { provision(&chain.kafka(), &[spec], Duration::from_secs(20)).await };
    Runtime::new().unwrap().block_on(create).unwrap();
    for role in ["gateway", "writer"] {
        let output = chain.command(role, &["run", role]);
        assert_fails(&output, &[&topic, "has 3 partitions, expected 48", "kafka.topic_prefix"]);
    }
}

#[test]
fn a_property_that_carries_a_guarantee_cannot_be_weakened() {
    let chain = Chain::shared().with("kafka.properties.acks", "\"1\"");
    for arguments in [&["config", "check"][..], &["run", "gateway"]] {
        assert_fails(&chain.command("weak", arguments), &["weak.toml", "kafka.properties.acks"]);
    }
}
