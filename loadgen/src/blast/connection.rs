//! One connection of the benchmark client: keeps a number of publishes in flight, one message a TLS record.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use penstock_proto::DeviceId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::BlastError;
use super::packets::{DISCONNECT_PACKET, FIRST_SEQUENCE, Publish, acknowledgements, connack, connect};
use crate::mqtt::Version;
use crate::stats::Durations;

/// Every so many messages, one is timed.
const TIMED_ONE_IN: u64 = 16;
const READ_BYTES: usize = 4 * 1024;

/// Where to connect, and as whom.
pub(super) struct Target {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) topic: String,
    pub(super) device: DeviceId,
}

/// A connection that has its CONNACK.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    publish: Publish,
    receive_max: u16,
    unread: Vec<u8>,
}

/// What became of the messages of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) acked: u64,
    pub(super) refused: u64,
    /// When the last acknowledgement was read.
    pub(super) last: Option<Instant>,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, BlastError> {
        let tcp = TcpStream::connect((&*target.host, target.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(target.host.to_string()).map_err(|_| BlastError::Host)?;
        let mut stream = TlsConnector::from(Arc::clone(&target.tls)).connect(name, tcp).await?;
        // The number in flight bounds what rustls holds; its own limit would cut a message in two.
        stream.get_mut().1.set_buffer_limit(None);
        let publish = Publish::new(target.version, &target.topic, target.device);
        let mut connection =
            Self { stream, publish, receive_max: u16::MAX, unread: Vec::with_capacity(READ_BYTES) };
        connection.stream.write_all(&connect(target.version, &target.client_id)).await?;
        connection.stream.flush().await?;
        loop {
            connection.read().await?;
            if let Some((receive_max, length)) = connack(&connection.unread)? {
                connection.unread.drain(..length);
                connection.receive_max = receive_max;
                return Ok(connection);
            }
        }
    }

    async fn read(&mut self) -> Result<(), BlastError> {
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            return Err(BlastError::Closed);
        }
        Ok(())
    }

    /// Publishes `messages`, at most `inflight_max` at a time, and counts what is acknowledged into `done` even if it
    /// fails in between.
    pub(super) async fn blast(
        &mut self,
        messages: u64,
        inflight_max: u16,
        durations: &Durations,
        done: &mut Done,
    ) -> Result<(), BlastError> {
        let inflight_max = u64::from(inflight_max.min(self.receive_max).max(1));
        let (mut sent, mut timed) = (0, None::<(u16, Instant)>);
        while done.acked + done.refused < messages {
            let room = (inflight_max - (sent - done.acked - done.refused)).min(messages - sent);
            if room > 0 {
                self.send(sent, room, &mut timed)?;
                self.stream.flush().await?;
                sent += room;
            }
            self.read().await?;
            let taken = acknowledgements(&self.unread, |ack| {
                *(if ack.accepted { &mut done.acked } else { &mut done.refused }) += 1;
                if let Some((_, since)) = timed.take_if(|(packet_id, _)| *packet_id == ack.packet_id) {
                    durations.record(since.elapsed());
                }
            })?;
            self.unread.drain(..taken);
            done.last = Some(Instant::now());
        }
        Ok(())
    }

    /// Encrypts messages number `from` and following, each into a TLS record of its own.
    fn send(
        &mut self,
        from: u64,
        messages: u64,
        timed: &mut Option<(u16, Instant)>,
    ) -> Result<(), BlastError> {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let timestamp_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        // A write to rustls's writer is a record; the records leave together with the next flush.
        let mut writer = self.stream.get_mut().1.writer();
        for number in from..from + messages {
            let packet_id = u16::try_from(number % u64::from(u16::MAX)).unwrap_or(0) + 1;
            let packet = self.publish.patched(packet_id, timestamp_ms, FIRST_SEQUENCE + number);
            if timed.is_none() && number.is_multiple_of(TIMED_ONE_IN) {
                *timed = Some((packet_id, Instant::now()));
            }
            writer.write_all(packet)?;
        }
        Ok(())
    }

    pub(super) async fn close(mut self) {
        // The run is over; a server that is gone by now is no failure of it.
        let _ = self.stream.write_all(&DISCONNECT_PACKET).await;
        let _ = self.stream.shutdown().await;
    }
}
