//! A small MQTT server for tests of the fleet: keeps every publish, acknowledges as the contract says, and misbehaves on
//! request. Speaks MQTT 3.1.1 and 5 over TLS with client certificates.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use penstock_certs::{Authority, identity};
use penstock_loadgen::Identities;
use penstock_proto::topics::MqttTopic;
use penstock_proto::wire::split_batch;
use penstock_proto::{DeviceId, Limits, ReadingView, check_reading};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behaviour {
    /// A connection is cut after about this many publishes; the last few of them are kept but not acknowledged.
    pub(crate) cut_after: Option<usize>,
    /// Publishes are answered with 0x87.
    pub(crate) refuse: bool,
    /// Publishes are kept and never acknowledged.
    pub(crate) silent: bool,
    /// Receive Maximum of CONNACK; more in flight is answered with DISCONNECT 0x93.
    pub(crate) receive_max: Option<u16>,
    /// Acknowledge in reversed order, this many at a time.
    pub(crate) reversed: usize,
}

/// A valid reading that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) device: DeviceId,
    pub(crate) sequence: u64,
    pub(crate) timestamp_ms: i64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    behaviour: Behaviour,
    pub(crate) kept: Mutex<Vec<Kept>>,
    pub(crate) dead_letters: AtomicUsize,
    pub(crate) connections: AtomicUsize,
}

pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    pub(crate) state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Broker {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let authority = Arc::new(Authority::create("test", 1).unwrap());
        let acceptor = acceptor(&authority);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { behaviour, ..State::default() });
        let mut tasks = JoinSet::new();
        let accepted = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&accepted));
                connections.spawn(async move {
                    // A connection that fails is what many of the tests are about.
                    let _ = serve(tcp, acceptor, &state).await;
                });
            }
        });
        Self { address, authority, state, _tasks: tasks }
    }

    pub(crate) fn mint(&self) -> Identities {
        Identities::Mint(Arc::clone(&self.authority))
    }

    pub(crate) fn kept(&self) -> Vec<Kept> {
        self.state.kept.lock().clone()
    }
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = penstock_loadgen::trust(authority.cert_pem()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
    let server = authority.server(&["127.0.0.1"], 1).unwrap();
    let cert = CertificateDer::from_pem_slice(server.cert_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![cert], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

struct Connection<'s> {
    stream: TlsStream<TcpStream>,
    bytes: Vec<u8>,
    state: &'s State,
    device: DeviceId,
    v5: bool,
    /// Acknowledgements held back to be sent in reversed order.
    held: VecDeque<Vec<u8>>,
    inflight: usize,
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, state: &State) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let device = identity(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
    let index = state.connections.fetch_add(1, Ordering::Relaxed);
    let mut connection = Connection {
        stream,
        bytes: Vec::new(),
        state,
        device,
        v5: false,
        held: VecDeque::new(),
        inflight: 0,
    };
    // Connections are cut at different moments, and some publishes before the cut stay without an acknowledgement.
    let cut_after = state.behaviour.cut_after.map(|cut| cut + index % 7);
    let mut publishes = 0;
    loop {
        let (kind, body) = connection.packet().await?;
        if kind & 0xf0 == 0x30 {
            publishes += 1;
            let silent = state.behaviour.silent || cut_after.is_some_and(|cut| publishes + 3 > cut);
            connection.publish(kind, &body, silent).await?;
            if cut_after.is_some_and(|cut| publishes >= cut) {
                return Ok(());
            }
        } else if !connection.other(kind, &body).await? {
            return Ok(());
        }
    }
}

impl Connection<'_> {
    async fn packet(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some((kind, at, end)) = frame(&self.bytes) {
                let body = self.bytes[at..end].to_vec();
                self.bytes.drain(..end);
                return Ok((kind, body));
            }
            // Nothing more has come, so what is held back is all there is to reverse.
            self.release().await?;
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn publish(&mut self, kind: u8, body: &[u8], silent: bool) -> io::Result<()> {
        let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let qos = kind >> 1 & 3;
        let topic = MqttTopic::parse(&body[2..topic_end]).unwrap();
        assert_eq!(topic.device(), self.device);
        let mut at = topic_end;
        let mut packet_id = [0, 0];
        if qos > 0 {
            packet_id.copy_from_slice(&body[at..at + 2]);
            at += 2;
        }
        if self.v5 {
            at += 1 + usize::from(body[at]);
        }
        let reason = if self.state.behaviour.refuse { 0x87 } else { self.keep(topic, &body[at..]) };
        self.inflight += usize::from(qos > 0);
        if self.state.behaviour.receive_max.is_some_and(|max| self.inflight > usize::from(max)) {
            self.stream.write_all(&[0xe0, 1, 0x93]).await?;
            self.stream.flush().await?;
            return Err(io::Error::other("more in flight than allowed"));
        }
        if qos == 0 || silent {
            return Ok(());
        }
        let kind = if qos == 1 { 0x40 } else { 0x50 };
        let mut ack = vec![kind, if self.v5 { 3 } else { 2 }, packet_id[0], packet_id[1]];
        if self.v5 {
            ack.push(reason);
        }
        self.held.push_back(ack);
        if self.held.len() > self.state.behaviour.reversed {
            self.release().await?;
        }
        Ok(())
    }

    async fn release(&mut self) -> io::Result<()> {
        while let Some(ack) = self.held.pop_back() {
            let completes = ack[0] == 0x40 || ack.get(4).is_some_and(|reason| *reason >= 0x80);
            self.inflight -= usize::from(completes);
            self.stream.write_all(&ack).await?;
        }
        self.stream.flush().await
    }

    /// Keeps what is valid and counts what is not; returns the reason code.
    fn keep(&self, topic: MqttTopic, payload: &[u8]) -> u8 {
        let now_ms = i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_millis(),
        )
        .unwrap();
        let readings: Vec<&[u8]> = match topic {
            MqttTopic::Reading(_) => vec![payload],
            MqttTopic::Batch(_) => split_batch(payload).map(Result::unwrap).collect(),
        };
        let mut valid = 0;
        for bytes in &readings {
            match check_reading(bytes, self.device, now_ms, &Limits::default()) {
                Ok(ReadingView { sequence, timestamp_ms, .. }) => {
                    valid += 1;
                    let bytes = bytes.to_vec();
                    self.state.kept.lock().push(Kept { device: self.device, sequence, timestamp_ms, bytes });
                }
                Err(_) => {
                    self.state.dead_letters.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if valid == 0 { 0x99 } else { 0 }
    }

    async fn other(&mut self, kind: u8, body: &[u8]) -> io::Result<bool> {
        let answer = match kind & 0xf0 {
            0x10 => {
                self.v5 = body[6] == 5;
                match (self.v5, self.state.behaviour.receive_max) {
                    (false, _) => vec![0x20, 2, 0, 0],
                    (true, None) => vec![0x20, 3, 0, 0, 0],
                    (true, Some(max)) => [&[0x20, 6, 0, 0, 3, 0x21][..], &max.to_be_bytes()].concat(),
                }
            }
            0x60 => {
                self.inflight -= 1;
                vec![0x70, 2, body[0], body[1]]
            }
            0xc0 => vec![0xd0, 0],
            0xe0 => return Ok(false),
            _ => return Err(io::Error::other(format!("unexpected packet {kind:#04x}"))),
        };
        self.stream.write_all(&answer).await?;
        self.stream.flush().await?;
        Ok(true)
    }
}

/// The first packet: its first byte, and where its body begins and ends.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let kind = *bytes.first()?;
    let (mut length, mut shift) = (0, 0);
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let end = at + 1 + length;
            return (bytes.len() >= end).then_some((kind, at + 1, end));
        }
    }
    None
}
