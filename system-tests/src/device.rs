//! A device that speaks MQTT byte by byte, so that a test can say anything, right or wrong, and see every answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_certs::Authority;
use penstock_loadgen::{Identities, trust};
use penstock_proto::DeviceId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::chain::Chain;

/// The MQTT version a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1
    V311,
    /// 5.0
    V5,
}

/// What came from the gateway within a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// One whole packet, fixed header included.
    Packet(Vec<u8>),
    /// The gateway has closed the connection.
    Closed,
    /// Nothing.
    Silence,
}

/// A device with a TLS connection.
#[derive(Debug)]
pub struct Device {
    stream: StreamOwned<ClientConnection, TcpStream>,
    inbox: Vec<u8>,
    version: Version,
}

impl Device {
    /// A TLS connection of this device, with a certificate of the chain's authority; nothing of MQTT said yet.
    ///
    /// # Panics
    /// Where the handshake fails.
    pub fn tls(chain: &Chain, device: DeviceId) -> Self {
        Self::try_tls(chain.mqtt, &chain.authority, &chain.authority, device).unwrap()
    }

    /// A TLS connection with a certificate of any authority, trusting `server`'s.
    ///
    /// # Errors
    /// Where the gateway refuses it.
    pub fn try_tls(
        address: SocketAddr,
        server: &Authority,
        signer: &Arc<Authority>,
        device: DeviceId,
    ) -> io::Result<Self> {
        let identities = Identities::Mint(Arc::clone(signer));
        let config = identities.client_config(device, trust(server.cert_pem()).unwrap()).unwrap();
        Self::try_tls_with(address, config)
    }

    /// A TLS connection with this configuration. In TLS 1.3 a client is done before the server has judged its
    /// certificate: a refusal may be seen only on receiving.
    ///
    /// # Errors
    /// Where the gateway refuses it.
    pub fn try_tls_with(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").unwrap();
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut connection = ClientConnection::new(config, name).unwrap();
        let mut tcp_ref = &tcp;
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp_ref)?;
        }
        Ok(Self { stream: StreamOwned::new(connection, tcp), inbox: Vec::new(), version: Version::V5 })
    }

    /// A connected device: TLS, CONNECT, and a CONNACK that accepts.
    ///
    /// # Panics
    /// Where the gateway does not accept.
    pub fn connect(chain: &Chain, device: DeviceId, version: Version) -> Self {
        let mut this = Self::tls(chain, device);
        this.version = version;
        this.send(&packet::connect(version, &device.to_string(), 0));
        let connack = this.packet();
        assert_eq!(connack[0], 0x20, "CONNACK");
        assert_eq!(connack[3], 0, "accepted");
        this
    }

    /// The same device, speaking this version in what it publishes from now on.
    #[must_use]
    pub fn speaking(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The certificate that the gateway has shown, DER.
    ///
    /// # Panics
    /// Where it has shown none.
    pub fn server_certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }

    /// Sends bytes, whatever they are.
    pub fn send(&mut self, bytes: &[u8]) {
        // The gateway may close while a wrong thing is still being said; the test then sees it on receiving.
        let _ = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
    }

    /// What comes within a time.
    pub fn receive(&mut self, within: Duration) -> Received {
        let end = Instant::now() + within;
        loop {
            if let Some(length) = packet::length(&self.inbox) {
                let rest = self.inbox.split_off(length);
                return Received::Packet(std::mem::replace(&mut self.inbox, rest));
            }
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.get_ref().set_read_timeout(Some(left)).unwrap();
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Received::Closed,
                Ok(read) => self.inbox.extend_from_slice(&bytes[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if Instant::now() >= end {
                        return Received::Silence;
                    }
                }
                Err(_) => return Received::Closed,
            }
        }
    }

    /// The next packet.
    ///
    /// # Panics
    /// Where none comes within 20 seconds, or the gateway closes.
    pub fn packet(&mut self) -> Vec<u8> {
        match self.receive(Duration::from_secs(20)) {
            Received::Packet(packet) => packet,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// Publishes and does not wait for anything; the packet identifier is left out for QoS 0.
    pub fn publish(&mut self, topic: &str, qos: u8, packet_id: u16, payload: &[u8]) {
        self.send(&packet::publish(self.version, topic, qos, packet_id, payload));
    }

    /// Publishes with QoS 1 and returns the reason code of the PUBACK; 3.1.1 has none, which is 0.
    pub fn publish_acked(&mut self, topic: &str, packet_id: u16, payload: &[u8]) -> u8 {
        self.publish(topic, 1, packet_id, payload);
        let puback = self.packet();
        assert_eq!(puback[0], 0x40, "PUBACK");
        assert_eq!(puback[2..4], packet_id.to_be_bytes());
        puback.get(4).copied().unwrap_or(0)
    }

    /// Waits until the gateway has closed; returns the packets that came before.
    ///
    /// # Panics
    /// Where it does not close within 20 seconds.
    pub fn until_closed(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        loop {
            match self.receive(Duration::from_secs(20)) {
                Received::Packet(packet) => packets.push(packet),
                Received::Closed => return packets,
                Received::Silence => panic!("the gateway did not close; it sent {packets:?}"),
            }
        }
    }

    /// Waits until the gateway has closed; returns the reason code of its DISCONNECT, if it sent one (MQTT 5 only).
    ///
    /// # Panics
    /// Where it does not close within 20 seconds.
    pub fn disconnect_reason(&mut self) -> Option<u8> {
        let packets = self.until_closed();
        packets.iter().find(|packet| packet[0] == 0xe0).map(|packet| packet.get(2).copied().unwrap_or(0))
    }
}

/// What a client with this certificate and key connects with; it trusts the authority.
///
/// # Panics
/// Where the PEM texts are not a certificate and its key.
pub fn client_config(authority: &Authority, cert_pem: &str, key_pem: &str) -> Arc<ClientConfig> {
    let certificate = CertificateDer::from_pem_slice(cert_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trust(authority.cert_pem()).unwrap())
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

/// Packets as a client sends them, well-formed.
pub mod packet {
    use super::Version;

    /// Length of the first packet in the bytes, where it is whole.
    pub fn length(bytes: &[u8]) -> Option<usize> {
        let mut remaining = 0usize;
        for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
            remaining |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let length = 2 + index + remaining;
                return (bytes.len() >= length).then_some(length);
            }
        }
        None
    }

    /// A packet: fixed header, then the body.
    #[allow(clippy::cast_possible_truncation, reason = "seven bits")]
    pub fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first_byte];
        let mut remaining = body.len();
        loop {
            let byte = (remaining & 0x7f) as u8;
            remaining >>= 7;
            bytes.push(if remaining > 0 { byte | 0x80 } else { byte });
            if remaining == 0 {
                break;
            }
        }
        bytes.extend_from_slice(body);
        bytes
    }

    /// A string with its length before it.
    pub fn string(text: &str) -> Vec<u8> {
        let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    /// CONNECT with a clean session.
    pub fn connect(version: Version, client_id: &str, keep_alive_s: u16) -> Vec<u8> {
        let mut body = string("MQTT");
        body.push(if version == Version::V5 { 5 } else { 4 });
        body.push(0b10);
        body.extend(keep_alive_s.to_be_bytes());
        if version == Version::V5 {
            body.push(0);
        }
        body.extend(string(client_id));
        packet(0x10, &body)
    }

    /// PUBLISH; the packet identifier is left out for QoS 0.
    pub fn publish(version: Version, topic: &str, qos: u8, packet_id: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = string(topic);
        if qos > 0 {
            body.extend(packet_id.to_be_bytes());
        }
        if version == Version::V5 {
            body.push(0);
        }
        body.extend_from_slice(payload);
        packet(0x30 | (qos << 1), &body)
    }

    /// PUBLISH with any flags, topic bytes and, in MQTT 5, properties (without their length).
    pub fn publish_raw(
        version: Version,
        flags: u8,
        topic: &[u8],
        packet_id: Option<u16>,
        properties: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(topic);
        body.extend(packet_id.map(u16::to_be_bytes).into_iter().flatten());
        if version == Version::V5 {
            body.push(u8::try_from(properties.len()).unwrap());
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(payload);
        packet(0x30 | flags, &body)
    }

    /// SUBSCRIBE to one filter with QoS 1.
    pub fn subscribe(version: Version, packet_id: u16, filter: &str) -> Vec<u8> {
        let mut body = packet_id.to_be_bytes().to_vec();
        if version == Version::V5 {
            body.push(0);
        }
        body.extend(string(filter));
        body.push(1);
        packet(0x82, &body)
    }

    /// PUBREL.
    pub fn pubrel(packet_id: u16) -> Vec<u8> {
        packet(0x62, &packet_id.to_be_bytes())
    }

    /// PINGREQ.
    pub fn pingreq() -> Vec<u8> {
        vec![0xc0, 0]
    }
}
