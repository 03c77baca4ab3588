//! The accept loop. It accepts and spawns; it never waits for a device.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::connect;
use crate::connection::{Connection, Shared};
use crate::handshake::{Handshakes, identity};
use crate::outcome::Outcome;

/// Connections that the kernel holds for us between two accepts.
const BACKLOG: u32 = 4096;

/// How long accepting rests when the process is out of file descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Silence after which the kernel asks whether a peer is still there: finds dead peers that promised no keep-alive.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// An address that is ours but not listened on yet, so that a device finds nobody there until the gateway is ready.
#[derive(Debug)]
pub struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("gateway.listen: cannot listen on {address}: {source}; is another process there?")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

impl Bound {
    /// Takes the address.
    ///
    /// # Errors
    /// [`BindError`] where it cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let take = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = take().map_err(|source| BindError { address, source })?;
        let address = socket.local_addr().unwrap_or(address);
        Ok(Self { socket, address })
    }

    /// The address, with the port that the kernel chose where port 0 was asked for.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// [`BindError`] where another process has begun first.
    pub fn listen(self) -> Result<TcpListener, BindError> {
        self.socket.listen(BACKLOG).map_err(|source| BindError { address: self.address, source })
    }
}

/// Accepts connections until shutdown, each served in a task of its own.
#[derive(Debug)]
pub struct Acceptor {
    /// What all connections share.
    pub shared: Arc<Shared>,
    /// How TLS begins.
    pub handshakes: Arc<Handshakes>,
    /// The tasks of connections.
    pub tasks: TaskTracker,
    /// Ends accepting, and connections that have no session yet.
    pub shutdown: CancellationToken,
}

impl Acceptor {
    /// The loop.
    pub async fn accept(&self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.shared.limits.connections_max));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &places),
                Err(error) => {
                    self.shared.metrics.accept_errors.inc();
                    warn!(%error, "cannot accept a connection; is the limit of open files too low?");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, places: &Arc<Semaphore>) {
        let metrics = &self.shared.metrics;
        metrics.accepted.inc();
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            metrics.count_end(Outcome::ConnectionLimit);
            debug!(%peer, "refused: gateway.limits.connections_max connections are open");
            return;
        };
        if let Err(error) = prepare(&stream) {
            debug!(%peer, %error, "socket options");
        }
        let serve =
            serve(stream, Arc::clone(&self.handshakes), Arc::clone(&self.shared), self.shutdown.clone());
        self.tasks.spawn(count(serve, peer, Arc::clone(&self.shared), place));
    }
}

/// ACKs are small and must not wait for more; a peer that vanished must be found.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))
}

async fn count(
    serve: impl Future<Output = Outcome>,
    peer: SocketAddr,
    shared: Arc<Shared>,
    place: OwnedSemaphorePermit,
) {
    shared.metrics.connections.inc();
    let outcome = serve.await;
    shared.metrics.connections.dec();
    shared.metrics.count_end(outcome);
    debug!(%peer, outcome = outcome.name(), "connection ended");
    drop(place);
}

/// The way of a connection: TLS, identity, CONNECT, then packets to the end.
async fn serve(
    stream: TcpStream,
    handshakes: Arc<Handshakes>,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) -> Outcome {
    let begun = shutdown.run_until_cancelled(Box::pin(begin(stream, &handshakes, &shared))).await;
    let connection = match begun {
        None => return Outcome::ServerShutdown,
        Some(Err(outcome)) => return outcome,
        Some(Ok(connection)) => connection,
    };
    // Everything that only the beginning needed is gone by here: an idle connection keeps just itself.
    drop((handshakes, shutdown));
    let sessions = shared.metrics.sessions.clone();
    drop(shared);
    sessions.inc();
    let outcome = connection.run().await;
    sessions.dec();
    outcome
}

type TlsConnection = Connection<tokio_rustls::server::TlsStream<TcpStream>>;

async fn begin(
    stream: TcpStream,
    handshakes: &Handshakes,
    shared: &Arc<Shared>,
) -> Result<TlsConnection, Outcome> {
    let mut stream = handshakes.shake(stream).await?;
    let identity = identity(&stream);
    let deadline = Duration::from_millis(shared.limits.connect_timeout_ms);
    let exchange = connect::exchange(&mut stream, identity, shared);
    let accepted = tokio::time::timeout(deadline, exchange).await.map_err(|_| Outcome::ConnectTimeout)??;
    Ok(Connection::new(stream, Arc::clone(shared), accepted))
}
