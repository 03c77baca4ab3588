//! Below MQTT: what is not TLS, says nothing, or has the wrong certificate.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use penstock_certs::Authority;
use penstock_loadgen::{anonymous, trust};
use penstock_proto::topics::readings_topic;
use penstock_system_tests::{Chain, Device, Version, client_config, packet, reading, until};
use prost::Message;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

use crate::support::{BAD, Scene, VERSIONS};

/// A ClientHello announced, and not sent.
const HELLO_BEGUN: [u8; 6] = [22, 3, 1, 2, 0, 1];

fn until_eof(mut socket: &TcpStream) {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the gateway did not close")
        }
    }
}

#[test]
fn garbage_instead_of_tls() {
    let mut scene = Scene::new();
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 4096], &[0xff; 4096], &[22, 3, 1, 0xff, 0xff, 0]]
    {
        scene.ends("tls-malformed", 1, |scene| {
            let mut socket = TcpStream::connect(scene.chain.mqtt).unwrap();
            socket.write_all(garbage).unwrap();
            scene.bystanders.publish();
            until_eof(&socket);
        });
    }
}

#[test]
fn mqtt_without_tls() {
    let mut scene = Scene::new();
    scene.ends("tls-malformed", 1, |scene| {
        let mut socket = TcpStream::connect(scene.chain.mqtt).unwrap();
        let connect = packet::connect(Version::V5, "plain", 60);
        socket.write_all(&connect).unwrap();
        until_eof(&socket);
    });
}

#[test]
fn a_silent_socket_and_one_that_stops_in_its_hello_run_into_the_handshakes_deadline() {
    let mut scene = Scene::on(Chain::shared().with("gateway.tls.handshake_timeout_ms", "1500"));
    scene.ends("tls-timeout", 2, |scene| {
        let silent = TcpStream::connect(scene.chain.mqtt).unwrap();
        let mut begun = TcpStream::connect(scene.chain.mqtt).unwrap();
        begun.write_all(&HELLO_BEGUN).unwrap();
        scene.bystanders.publish();
        until_eof(&silent);
        until_eof(&begun);
    });
}

#[test]
fn a_socket_closed_in_its_hello_is_a_lost_connection() {
    let mut scene = Scene::new();
    scene.ends("connection-lost", 1, |scene| {
        let mut socket = TcpStream::connect(scene.chain.mqtt).unwrap();
        socket.write_all(&HELLO_BEGUN).unwrap();
    });
}

#[test]
fn three_hundred_sockets_that_are_silent_or_stop_in_their_hello_hold_nobody_up() {
    let chain = Chain::shared()
        .with("gateway.tls.handshakes_max", "4")
        .with("gateway.tls.handshake_timeout_ms", "120000");
    let mut scene = Scene::on(chain);
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect(scene.chain.mqtt).unwrap()).collect();
    for mut begun in silent.iter().skip(150) {
        begun.write_all(&HELLO_BEGUN).unwrap();
    }
    until("all to be accepted", Duration::from_secs(20), || {
        scene.gateway.metric("penstock_gateway_connections", "") >= 302.0
    });
    // Each of these would fail after 20 s, long before the first of the silent sockets gives its place up.
    for version in VERSIONS {
        let mut good = scene.device(version);
        assert_eq!(good.publish_acked(&readings_topic(BAD), 1, &reading(1).encode_to_vec()), 0);
        scene.bystanders.publish();
    }
    assert_eq!(scene.gateway.ended("tls-timeout"), 0, "all are still there");
    drop(silent);
    until("their end", Duration::from_secs(20), || scene.gateway.ended("connection-lost") >= 300);
    scene.bystanders.publish();
}

#[test]
fn a_certificate_of_a_foreign_authority_is_refused() {
    let mut scene = Scene::new();
    let foreign = Arc::new(Authority::create("somebody else", 2).unwrap());
    scene.ends("certificate-refused", 1, |scene| {
        let device = Device::try_tls(scene.chain.mqtt, &scene.chain.authority, &foreign, BAD);
        assert_refused(device);
    });
}

#[test]
fn no_certificate_is_refused() {
    let mut scene = Scene::new();
    scene.ends("certificate-refused", 1, |scene| {
        let config = anonymous(trust(scene.chain.authority.cert_pem()).unwrap()).unwrap();
        assert_refused(Device::try_tls_with(scene.chain.mqtt, config));
    });
}

#[test]
fn a_certificate_that_has_expired_is_refused() {
    let mut scene = Scene::new();
    scene.ends("certificate-refused", 1, |scene| {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let config = signed(&scene.chain.authority, params, &BAD.to_string());
        assert_refused(Device::try_tls_with(scene.chain.mqtt, config));
    });
}

/// Either the handshake fails, or (TLS 1.3) the refusal comes right after it.
fn assert_refused(device: std::io::Result<Device>) {
    if let Ok(mut device) = device {
        assert_eq!(device.until_closed(), Vec::<Vec<u8>>::new());
    }
}

/// What a client connects with whose certificate the authority has signed, but not as a device's.
pub(crate) fn signed(
    authority: &Authority,
    mut params: CertificateParams,
    common_name: &str,
) -> Arc<rustls::ClientConfig> {
    params.distinguished_name.push(DnType::CommonName, common_name);
    let ours = authority.credentials();
    let issuer = Issuer::from_ca_cert_pem(&ours.cert_pem, KeyPair::from_pem(&ours.key_pem).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    client_config(authority, &certificate.pem(), &key.serialize_pem())
}

#[test]
fn too_many_connections_are_refused_and_those_that_are_open_stay() {
    let mut scene = Scene::on(Chain::shared().with("gateway.limits.connections_max", "3"));
    let third = scene.device(Version::V5);
    scene.ends("connection-limit", 5, |scene| {
        for _ in 0..5 {
            let one_more =
                Device::try_tls(scene.chain.mqtt, &scene.chain.authority, &scene.chain.authority, BAD);
            assert!(one_more.is_err(), "a fourth connection");
        }
    });
    drop(third);
    until("the third to be gone", Duration::from_secs(10), || scene.gateway.ended("connection-lost") == 1);
    drop(scene.device(Version::V5));
}
