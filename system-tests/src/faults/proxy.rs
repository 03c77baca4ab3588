//! A TCP proxy on 127.0.0.1 that stands for a network: it can cut, fall silent and be slow, and says what that did.
//!
//! It never loses a byte of a connection that lives on: what is held while it is silent, and what is delayed, arrives
//! later, as it does when packets are sent again. Buffers are bounded: a sender waits.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections at once; more wait in the listen backlog.
const CONNECTIONS_MAX: usize = 1024;
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way in one direction of one connection.
const CHUNKS_MAX: usize = 16;

/// How a network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Connections are reset, new ones are reset at once.
    Reset,
    /// Nothing comes through, in either direction; connections stay, new ones hang.
    Silent,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forth,
    Back,
}

/// What the network is like.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    cut: Option<Cut>,
    /// How often all connections were reset.
    resets: u64,
    forth: Duration,
    back: Duration,
}

impl Weather {
    fn delay(&self, direction: Direction) -> Duration {
        match direction {
            Direction::Forth => self.forth,
            Direction::Back => self.back,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    open: AtomicU64,
    forwarded_bytes: AtomicU64,
    reset: AtomicU64,
    held: AtomicU64,
    delayed_bytes: AtomicU64,
}

/// What a proxy has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyCounts {
    /// Connections that stand now.
    pub open: u64,
    /// Bytes handed on, in both directions.
    pub forwarded_bytes: u64,
    /// Connections that were reset, new ones included.
    pub reset: u64,
    /// Chunks of bytes and new connections that were held while it was silent.
    pub held: u64,
    /// Bytes that were delayed.
    pub delayed_bytes: u64,
}

/// A port on which a proxy will listen: known before there is anything to forward to.
#[derive(Debug)]
pub struct ProxyPort(TcpListener);

impl ProxyPort {
    /// Binds a free port.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn bind() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap())
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Starts to forward to `upstream`, on the runtime this is called in.
    pub fn forward(self, upstream: SocketAddr) -> Proxy {
        let port = self.port();
        let end = CancellationToken::new();
        let network = Arc::new(Network {
            upstream,
            weather: watch::Sender::new(Weather::default()),
            counters: Counters::default(),
        });
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(
            self.0,
            Arc::clone(&network),
            end.clone(),
        )));
        Proxy { port, network, _end: end.drop_guard() }
    }
}

/// A proxy that forwards; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
    _end: DropGuard,
}

#[derive(Debug)]
struct Network {
    upstream: SocketAddr,
    weather: watch::Sender<Weather>,
    counters: Counters,
}

impl Proxy {
    /// Where clients connect.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Cuts the network until [`Proxy::heal`].
    pub fn cut(&self, cut: Cut) {
        self.network.weather.send_modify(|weather| {
            weather.cut = Some(cut);
            weather.resets += u64::from(cut == Cut::Reset);
        });
    }

    /// Delays what goes forth to the upstream, and what comes back, until [`Proxy::heal`].
    pub fn delay(&self, forth: Duration, back: Duration) {
        self.network.weather.send_modify(|weather| (weather.forth, weather.back) = (forth, back));
    }

    /// No cut and no delay any more.
    pub fn heal(&self) {
        self.network.weather.send_modify(|weather| {
            *weather = Weather { resets: weather.resets, ..Weather::default() };
        });
    }

    /// What it has done.
    pub fn counts(&self) -> ProxyCounts {
        let counters = &self.network.counters;
        ProxyCounts {
            open: counters.open.load(Ordering::Relaxed),
            forwarded_bytes: counters.forwarded_bytes.load(Ordering::Relaxed),
            reset: counters.reset.load(Ordering::Relaxed),
            held: counters.held.load(Ordering::Relaxed),
            delayed_bytes: counters.delayed_bytes.load(Ordering::Relaxed),
        }
    }
}

async fn accept(listener: TcpListener, network: Arc<Network>, end: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((client, _)) = listener.accept().await else {
            // Too many open files: some are closed before long.
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let network = Arc::clone(&network);
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            network.connection(client).await;
            drop(permit);
        }));
    }
}

/// Makes the end of a connection a reset.
fn reset_on_drop(stream: &TcpStream) {
    // Fails only if the connection is over already.
    let _ = stream.set_nodelay(true);
    let _ = stream.set_zero_linger();
}

impl Network {
    async fn connection(&self, client: TcpStream) {
        reset_on_drop(&client);
        let mut weather = self.weather.subscribe();
        let resets = weather.borrow_and_update().resets;
        if self.weather.borrow().cut == Some(Cut::Reset) {
            self.counters.reset.fetch_add(1, Ordering::Relaxed);
            return;
        }
        tokio::select! {
            () = self.forward(client) => {}
            _ = weather.wait_for(|now| now.resets != resets) => {
                self.counters.reset.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn forward(&self, client: TcpStream) {
        self.while_silent(&mut self.weather.subscribe()).await;
        let Ok(upstream) = TcpStream::connect(self.upstream).await else { return };
        reset_on_drop(&upstream);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        let _open = Open(&self.counters);
        let (client, upstream) = (client.into_split(), upstream.into_split());
        // An error in one direction ends both; the end of the bytes of one does not.
        let _ = tokio::try_join!(
            self.pump(client.0, upstream.1, Direction::Forth),
            self.pump(upstream.0, client.1, Direction::Back),
        );
    }

    async fn pump(
        &self,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
        direction: Direction,
    ) -> std::io::Result<()> {
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        tokio::try_join!(self.receive(from, sender, direction), self.deliver(receiver, to)).map(drop)
    }

    async fn receive(
        &self,
        mut from: OwnedReadHalf,
        sender: mpsc::Sender<(Instant, Vec<u8>)>,
        direction: Direction,
    ) -> std::io::Result<()> {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let length = from.read_buf(&mut chunk).await?;
            if length == 0 {
                return Ok(());
            }
            let delay = self.weather.borrow().delay(direction);
            if !delay.is_zero() {
                self.counters.delayed_bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            if sender.send((Instant::now() + delay, chunk)).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn deliver(
        &self,
        mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: OwnedWriteHalf,
    ) -> std::io::Result<()> {
        let mut weather = self.weather.subscribe();
        while let Some((due, chunk)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            self.while_silent(&mut weather).await;
            to.write_all(&chunk).await?;
            self.counters.forwarded_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        self.while_silent(&mut weather).await;
        to.shutdown().await
    }

    async fn while_silent(&self, weather: &mut watch::Receiver<Weather>) {
        if weather.borrow_and_update().cut != Some(Cut::Silent) {
            return;
        }
        self.counters.held.fetch_add(1, Ordering::Relaxed);
        // Fails only when the proxy is gone.
        let _ = weather.wait_for(|now| now.cut != Some(Cut::Silent)).await;
    }
}

/// Counts a connection as open.
struct Open<'c>(&'c Counters);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A proxy before a server that sends back what it gets.
    async fn echo() -> Proxy {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        ProxyPort::bind().await.forward(address)
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.unwrap()
    }

    async fn say(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await??;
        assert_eq!(answer, text);
        Ok(())
    }

    async fn until(condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.unwrap();
    }

    #[tokio::test]
    async fn bytes_go_through_in_both_directions_and_so_does_the_end() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        say(&mut stream, &vec![7; 1 << 20]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        until(|| proxy.counts().open == 0).await;
        assert_eq!(proxy.counts(), ProxyCounts { forwarded_bytes: 2 << 20, ..ProxyCounts::default() });
    }

    #[tokio::test]
    async fn a_reset_ends_connections_and_refuses_new_ones_until_it_is_healed() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        say(&mut old, b"before").await.unwrap();
        proxy.cut(Cut::Reset);
        assert!(say(&mut old, b"during").await.is_err());
        // The reset may come before connecting is over, or after.
        if let Ok(mut new) = TcpStream::connect(proxy.address()).await {
            assert!(say(&mut new, b"new").await.is_err());
        }
        until(|| proxy.counts().reset == 2).await;
        proxy.heal();
        assert!(say(&mut old, b"after").await.is_err(), "a reset is for ever");
        say(&mut connect(&proxy).await, b"after").await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_that_is_healed_at_once_is_still_seen() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        say(&mut stream, b"before").await.unwrap();
        proxy.cut(Cut::Reset);
        proxy.heal();
        until(|| proxy.counts().reset == 1).await;
        assert!(say(&mut stream, b"after").await.is_err());
    }

    #[tokio::test]
    async fn what_is_held_while_it_is_silent_arrives_afterwards() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        say(&mut old, b"before").await.unwrap();
        proxy.cut(Cut::Silent);
        old.write_all(b"held").await.unwrap();
        let mut new = connect(&proxy).await;
        new.write_all(b"new").await.unwrap();
        until(|| proxy.counts().held == 2).await;
        assert_eq!(proxy.counts().forwarded_bytes, 12, "nothing came through");
        proxy.heal();
        for (stream, held) in [(&mut old, &b"held"[..]), (&mut new, &b"new"[..])] {
            let mut answer = vec![0; held.len()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, held);
        }
        assert_eq!(proxy.counts().reset, 0);
    }

    #[tokio::test]
    async fn delayed_bytes_are_counted_in_their_direction_and_keep_their_order() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        proxy.delay(Duration::from_millis(30), Duration::ZERO);
        say(&mut stream, b"delayed").await.unwrap();
        assert_eq!(proxy.counts().delayed_bytes, 7);
        stream.write_all(b"first").await.unwrap();
        until(|| proxy.counts().delayed_bytes == 12).await;
        proxy.heal();
        stream.write_all(b"second").await.unwrap();
        let mut answer = vec![0; 11];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"firstsecond");
    }
}
