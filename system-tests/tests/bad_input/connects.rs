//! The first packet: not CONNECT, not whole, or a CONNECT that is refused.

use std::time::Duration;

use penstock_system_tests::{Chain, Device, Version, packet, until};
use rcgen::CertificateParams;

use crate::sockets::signed;
use crate::support::{BAD, Scene, VERSIONS};

/// CONNECT in its parts, so that each can be wrong.
struct Connect<'a> {
    name: &'a str,
    level: u8,
    flags: u8,
    properties: &'a [u8],
    client_id: &'a str,
    rest: &'a [u8],
}

impl Connect<'_> {
    const fn good(version: Version) -> Self {
        let level = match version {
            Version::V311 => 4,
            Version::V5 => 5,
        };
        Self { name: "MQTT", level, flags: 0b10, properties: &[], client_id: "bad", rest: &[] }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut body = packet::string(self.name);
        body.extend([self.level, self.flags, 0, 60]);
        if self.level >= 5 {
            body.push(u8::try_from(self.properties.len()).unwrap());
            body.extend_from_slice(self.properties);
        }
        body.extend(packet::string(self.client_id));
        body.extend_from_slice(self.rest);
        packet::packet(0x10, &body)
    }
}

/// Says this first, and nothing else; returns what the gateway answered before it closed.
fn says_first(scene: &mut Scene, bytes: &[u8], outcome: &str) -> Vec<Vec<u8>> {
    scene.ends(outcome, 1, |scene| {
        let mut device = Device::tls(&scene.chain, BAD);
        device.send(bytes);
        scene.bystanders.publish();
        device.until_closed()
    })
}

/// Says this CONNECT; the gateway must answer with this code in CONNACK, or close without one.
fn refused(scene: &mut Scene, connect: &Connect<'_>, outcome: &str, code: Option<u8>) {
    let answers = says_first(scene, &connect.bytes(), outcome);
    let codes: Vec<_> = answers.iter().map(|answer| (answer[0], answer[3])).collect();
    let expected: Vec<_> = code.map(|code| (0x20, code)).into_iter().collect();
    assert_eq!(codes, expected, "CONNACK of level {}", connect.level);
}

#[test]
fn garbage_instead_of_mqtt() {
    let mut scene = Scene::new();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[0xff; 100], &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff]]
    {
        assert!(says_first(&mut scene, garbage, "malformed-packet").is_empty());
    }
}

#[test]
fn mqtt5_3_1_0_1_a_publish_before_connect() {
    let mut scene = Scene::new();
    for version in VERSIONS {
        let publish = packet::publish(version, "devices/x/readings", 1, 1, b"x");
        assert!(says_first(&mut scene, &publish, "malformed-packet").is_empty());
    }
}

#[test]
fn a_first_packet_of_20_mb_is_refused_by_its_header() {
    let mut scene = Scene::new();
    assert!(says_first(&mut scene, &[0x10, 0x80, 0x80, 0x80, 0x0a], "packet-too-large").is_empty());
}

#[test]
fn silence_after_tls_and_half_a_connect_run_into_the_deadline() {
    let mut scene = Scene::on(Chain::shared().with("gateway.limits.connect_timeout_ms", "1500"));
    let connect = packet::connect(Version::V5, "slow", 60);
    for said in [&[][..], &connect[..1], &connect[..10]] {
        assert!(says_first(&mut scene, said, "connect-timeout").is_empty());
    }
}

#[test]
fn a_certificate_that_names_no_device_is_told_so() {
    let mut scene = Scene::new();
    let config = signed(&scene.chain.authority, CertificateParams::default(), "not-a-device");
    for (version, code) in [(Version::V5, 0x87), (Version::V311, 0x05)] {
        scene.ends("no-identity", 1, |scene| {
            let mut device = Device::try_tls_with(scene.chain.mqtt, config.clone()).unwrap();
            device.send(&packet::connect(version, "bad", 60));
            let answers = device.until_closed();
            assert_eq!((answers.len(), answers[0][0], answers[0][3]), (1, 0x20, code), "{version:?}");
        });
    }
}

#[test]
fn mqtt5_3_1_2_2_an_unsupported_protocol_level() {
    let mut scene = Scene::new();
    let old = Connect { name: "MQIsdp", level: 3, ..Connect::good(Version::V311) };
    refused(&mut scene, &old, "unsupported-version", Some(0x01));
    let future = Connect { level: 6, ..Connect::good(Version::V5) };
    refused(&mut scene, &future, "unsupported-version", Some(0x84));
    let other = Connect { name: "AMQP", ..Connect::good(Version::V5) };
    refused(&mut scene, &other, "unsupported-protocol-version", None);
}

#[test]
fn a_will_is_refused() {
    let mut scene = Scene::new();
    let will_311 = [packet::string("a/will"), packet::string("gone")].concat();
    let will_5 = [vec![0], will_311.clone()].concat();
    let with_will = |version, rest| Connect { flags: 0b110, rest, ..Connect::good(version) };
    refused(&mut scene, &with_will(Version::V5, &will_5), "connect-refused", Some(0x83));
    refused(&mut scene, &with_will(Version::V311, &will_311), "connect-refused", Some(0x05));
}

#[test]
fn enhanced_authentication_is_refused() {
    let mut scene = Scene::new();
    let properties = [vec![0x15], packet::string("SCRAM-SHA-256")].concat();
    let connect = Connect { properties: &properties, ..Connect::good(Version::V5) };
    refused(&mut scene, &connect, "connect-refused", Some(0x8c));
}

#[test]
fn a_client_identifier_that_cannot_be_used_is_refused() {
    let mut scene = Scene::new();
    let long = "x".repeat(257);
    for (version, code) in [(Version::V5, 0x85), (Version::V311, 0x02)] {
        let connect = Connect { client_id: &long, ..Connect::good(version) };
        refused(&mut scene, &connect, "client-id-refused", Some(code));
    }
    // [MQTT-3.1.3-8] of 3.1.1
    let keeps_its_session = Connect { client_id: "", flags: 0, ..Connect::good(Version::V311) };
    refused(&mut scene, &keeps_its_session, "client-id-refused", Some(0x02));
}

#[test]
fn a_malformed_connect_is_told_in_mqtt_5_and_closed_in_3_1_1() {
    let mut scene = Scene::new();
    for (version, code) in [(Version::V5, Some(0x81)), (Version::V311, None)] {
        let reserved_flag = Connect { flags: 0b11, ..Connect::good(version) };
        let will_qos_3 = Connect { flags: 0b11110, ..Connect::good(version) };
        let nul = Connect { client_id: "a\0b", ..Connect::good(version) };
        let too_long = Connect { rest: b"more", ..Connect::good(version) };
        for connect in [reserved_flag, will_qos_3, nul, too_long] {
            refused(&mut scene, &connect, "malformed-packet", code);
        }
    }
}

#[test]
fn a_device_that_goes_in_the_middle_of_connect_is_a_lost_connection() {
    let mut scene = Scene::new();
    scene.ends("connection-lost", 1, |scene| {
        let mut device = Device::tls(&scene.chain, BAD);
        device.send(&packet::connect(Version::V5, "bad", 60)[..5]);
    });
    until("nobody else to be there", Duration::from_secs(5), || {
        scene.gateway.metric("penstock_gateway_connections", "") <= 2.0
    });
}
