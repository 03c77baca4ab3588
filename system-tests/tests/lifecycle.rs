//! Starting, stopping and reloading: servers that are not there yet, SIGTERM, SIGHUP, and what the admin port says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use penstock_certs::Credentials;
use penstock_devstack::{ClickHouse, ClickHouseOptions, Kafka, KafkaOptions, Stack};
use penstock_proto::topics::{READINGS, readings_topic};
use penstock_proto::{DeviceId, topics};
use penstock_system_tests::{
    Bystanders, Chain, Device, Penstock, Received, Version, client_config, packet, reading, shared_stack,
    until,
};
use prost::Message;

const ID: DeviceId = DeviceId::from_bytes([0x0d; 16]);
const SOON: Duration = Duration::from_secs(20);

/// Servers of the test binary, with a Kafka of this test's own.
fn with_own_kafka() -> Chain {
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    Chain::new(Stack { kafka, clickhouse: shared_stack().clickhouse })
}

fn payload(sequence: u64) -> Vec<u8> {
    reading(sequence).encode_to_vec()
}

fn body(process: &Penstock, path: &str) -> (String, String) {
    let answer = process.get(path).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn the_admin_port_says_that_it_lives_that_it_is_ready_and_what_it_counts() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    let mut bystanders = Bystanders::connect(&chain);
    bystanders.publish();
    assert_eq!(body(&gateway, "/healthz").0, "HTTP/1.1 200 OK");
    let (status, ready) = body(&gateway, "/readyz");
    assert_eq!((status.as_str(), ready.trim()), ("HTTP/1.1 200 OK", "ready"));
    let (status, metrics) = body(&gateway, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    for name in [
        "penstock_gateway_connections_accepted_total 2",
        "penstock_gateway_sessions 2",
        "penstock_gateway_acks_total 4",
        "penstock_bridge_readings_total 4",
        "penstock_gateway_puback_seconds_count 4",
    ] {
        assert!(metrics.lines().any(|line| line == name), "{name} is missing in:\n{metrics}");
    }
    assert_eq!(body(&gateway, "/nothing").0, "HTTP/1.1 404 Not Found");
}

#[test]
fn sigterm_lets_receipts_finish_and_says_goodbye() {
    let chain = with_own_kafka().with("bridge.delivery_timeout_ms", "60000");
    let mut gateway = chain.gateway();
    let mut idle = Device::connect(&chain, DeviceId::from_bytes([1; 16]), Version::V5);
    let mut devices = [(2, Version::V5), (3, Version::V311)].map(|(id, version)| {
        let id = DeviceId::from_bytes([id; 16]);
        (Device::connect(&chain, id, version), version, readings_topic(id))
    });
    for (device, _, topic) in &mut devices {
        device.publish_acked(topic, 1, &payload(1));
    }
    chain.stack.kafka.pause().unwrap();
    for (device, _, topic) in &mut devices {
        device.publish(topic, 1, 2, &payload(2));
        device.send(&packet::pingreq());
        assert_eq!(device.packet(), [0xd0, 0], "the publish before it has been read");
    }
    gateway.signal(Signal::SIGTERM);
    assert_eq!(idle.disconnect_reason(), Some(0x8b), "nothing of it is open");
    until("new connections to be refused", SOON, || {
        TcpStream::connect(chain.mqtt).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    let (status, waiting_for) = body(&gateway, "/readyz");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(waiting_for.contains("gateway-listening"), "{waiting_for}");

    chain.stack.kafka.resume().unwrap();
    for (device, version, _) in &mut devices {
        let puback = device.packet();
        assert_eq!((puback[0], &puback[2..4]), (0x40, &[0, 2][..]), "the open publish is acknowledged");
        let goodbye = (*version == Version::V5).then_some(0x8b);
        assert_eq!(device.disconnect_reason(), goodbye);
    }
    assert_eq!(gateway.wait_end(SOON).code(), Some(0), "{}", gateway.log_text());
    assert_eq!(chain.records(READINGS).len(), 4);
}

#[test]
fn sigterm_while_kafka_stays_away_ends_at_the_drains_deadline_without_an_ack() {
    let chain = with_own_kafka().with("gateway.limits.drain_timeout_ms", "2000");
    let mut gateway = chain.gateway();
    let mut device = Device::connect(&chain, ID, Version::V5);
    device.publish_acked(&readings_topic(ID), 1, &payload(1));
    chain.stack.kafka.pause().unwrap();
    device.publish(&readings_topic(ID), 1, 2, &payload(2));
    device.send(&packet::pingreq());
    assert_eq!(device.packet(), [0xd0, 0]);
    let status = gateway.stop(SOON);
    assert_eq!(status.code(), Some(0), "{}", gateway.log_text());
    assert!(device.until_closed().iter().all(|packet| packet[0] != 0x40), "no PUBACK without Kafka");
    assert!(gateway.log_text().contains("not finished after 2000 ms"), "{}", gateway.log_text());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let chain = with_own_kafka();
    let mut gateway = chain.gateway();
    let mut device = Device::connect(&chain, ID, Version::V5);
    chain.stack.kafka.pause().unwrap();
    device.publish(&readings_topic(ID), 1, 1, &payload(1));
    device.send(&packet::pingreq());
    assert_eq!(device.packet(), [0xd0, 0]);
    gateway.signal(Signal::SIGTERM);
    until("it to stop", SOON, || gateway.log_text().contains("shutting down"));
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_end(SOON).code(), Some(143));
}

#[test]
fn sighup_loads_a_new_certificate_and_open_connections_go_on() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    let mut open = Bystanders::connect(&chain);
    let before = Device::connect(&chain, ID, Version::V5).server_certificate();
    chain.write_certificates();
    assert_eq!(Device::connect(&chain, ID, Version::V5).server_certificate(), before, "not before SIGHUP");
    gateway.signal(Signal::SIGHUP);
    until("the reload", SOON, || gateway.metric("penstock_gateway_tls_reloads_total", "") == 1.0);
    assert_ne!(Device::connect(&chain, ID, Version::V5).server_certificate(), before);
    open.publish();
    assert_eq!(gateway.metric("penstock_gateway_tls_reload_errors_total", ""), 0.0);
}

#[test]
fn sighup_with_a_broken_file_keeps_the_certificates_in_force_and_is_counted() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    let mut open = Bystanders::connect(&chain);
    let before = Device::connect(&chain, ID, Version::V5).server_certificate();
    let reload_errors = || gateway.metric("penstock_gateway_tls_reload_errors_total", "");
    for (errors, file) in [(1.0, "server.pem"), (2.0, "server.key"), (3.0, "ca.pem")] {
        chain.write_certificates();
        fs::write(chain.path(file), "broken").unwrap();
        gateway.signal(Signal::SIGHUP);
        until("the failed reload", SOON, || reload_errors() == errors);
        assert!(gateway.log_text().contains(file), "the log names {file}");
        assert_eq!(Device::connect(&chain, ID, Version::V5).server_certificate(), before);
        open.publish();
    }
    chain.write_certificates();
    gateway.signal(Signal::SIGHUP);
    until("the reload", SOON, || gateway.metric("penstock_gateway_tls_reloads_total", "") == 1.0);
    assert_ne!(Device::connect(&chain, ID, Version::V5).server_certificate(), before);
}

fn connect_with(chain: &Chain, credentials: &Credentials) -> io::Result<Device> {
    let config = client_config(&chain.authority, &credentials.cert_pem, &credentials.key_pem);
    let mut device = Device::try_tls_with(chain.mqtt, config)?;
    device.send(&packet::connect(Version::V5, &ID.to_string(), 0));
    match device.receive(SOON) {
        Received::Packet(connack) if connack[0] == 0x20 && connack[3] == 0 => Ok(device),
        _ => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

#[test]
fn sighup_loads_a_revocation_list_and_the_revoked_device_is_refused() {
    let chain = Chain::shared().with("gateway.tls.crl_files", r#"["revoked.pem"]"#);
    let [lost, kept] = [(); 2].map(|()| chain.authority.device(ID, 2).unwrap());
    fs::write(chain.path("revoked.pem"), chain.authority.revoke(&[], 2).unwrap()).unwrap();
    let gateway = chain.gateway();
    let mut open = Bystanders::connect(&chain);
    for credentials in [&lost, &kept] {
        drop(connect_with(&chain, credentials).unwrap());
    }
    let revoked = chain.authority.revoke(std::slice::from_ref(&lost.serial), 2).unwrap();
    fs::write(chain.path("revoked.pem"), revoked).unwrap();
    gateway.signal(Signal::SIGHUP);
    until("the reload", SOON, || gateway.metric("penstock_gateway_tls_reloads_total", "") == 1.0);
    assert!(connect_with(&chain, &lost).is_err());
    until("the refusal to be counted", SOON, || gateway.ended("certificate-refused") == 1);
    let mut device = connect_with(&chain, &kept).unwrap();
    assert_eq!(device.publish_acked(&readings_topic(ID), 1, &payload(1)), 0);
    open.publish();
}

#[test]
fn a_gateway_waits_for_kafka_says_so_once_and_then_serves() {
    let chain = with_own_kafka();
    chain.stack.kafka.stop().unwrap();
    let (config, admin) = chain.config("gateway");
    let mut gateway = Penstock::start(&["gateway"], &config, admin);
    let waits = "preparing the gateway's topics in Kafka does not work";
    until("the warning", Duration::from_secs(30), || gateway.log_text().contains(waits));
    let (status, waiting_for) = body(&gateway, "/readyz");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(waiting_for.contains("gateway-kafka"), "{waiting_for}");
    assert_eq!(body(&gateway, "/healthz").0, "HTTP/1.1 200 OK");
    let refused = TcpStream::connect(chain.mqtt).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    chain.stack.kafka.restart().unwrap();
    gateway.wait_ready();
    Bystanders::connect(&chain).publish();
    assert_eq!(gateway.log_text().matches(waits).count(), 1, "{}", gateway.log_text());
}

#[test]
fn sigterm_while_it_waits_for_kafka_ends_it_in_good_order() {
    let chain = with_own_kafka();
    chain.stack.kafka.stop().unwrap();
    let (config, admin) = chain.config("penstock");
    let mut gateway = Penstock::start(&["gateway"], &config, admin);
    until("the warning", Duration::from_secs(30), || {
        gateway.log_text().contains("preparing the gateway's topics in Kafka")
    });
    assert_eq!(gateway.stop(SOON).code(), Some(0), "{}", gateway.log_text());
}

#[test]
fn a_writer_waits_for_clickhouse_says_so_once_and_then_writes() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).unwrap();
    let chain = Chain::new(Stack { kafka: shared_stack().kafka, clickhouse });
    chain.stack.clickhouse.stop().unwrap();
    let _gateway = chain.gateway();
    let (config, admin) = chain.config("writer");
    let mut writer = Penstock::start(&["writer"], &config, admin);
    let waits = "preparing the schema in ClickHouse does not work";
    until("the warning", Duration::from_secs(30), || writer.log_text().contains(waits));
    let (status, waiting_for) = body(&writer, "/readyz");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(waiting_for.contains("clickhouse") && waiting_for.contains("schema"), "{waiting_for}");
    let mut devices = Bystanders::connect(&chain);
    devices.publish();

    chain.stack.clickhouse.restart().unwrap();
    writer.wait_ready();
    devices.publish();
    let count = format!("SELECT count() FROM {}.readings FINAL", chain.database);
    until("every row", Duration::from_secs(60), || {
        chain.stack.clickhouse.query(&count).is_ok_and(|rows| rows.trim() == devices.published().to_string())
    });
    assert_eq!(writer.log_text().matches(waits).count(), 1, "{}", writer.log_text());
    assert_eq!(writer.stop(SOON).code(), Some(0));
}

#[test]
fn gateway_and_writer_run_in_one_process() {
    let chain = Chain::shared();
    let (config, admin) = chain.config("penstock");
    let mut penstock = Penstock::start_ready(&[], &config, admin);
    let mut devices = Bystanders::connect(&chain);
    devices.publish();
    let count = format!("SELECT count() FROM {}.readings FINAL", chain.database);
    until("every row", Duration::from_secs(60), || {
        chain.stack.clickhouse.query(&count).is_ok_and(|rows| rows.trim() == devices.published().to_string())
    });
    assert_eq!(penstock.stop(SOON).code(), Some(0), "{}", penstock.log_text());
    assert_eq!(chain.records(topics::STORAGE_FAILURES), []);
}
