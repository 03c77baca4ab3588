//! From an accepted TCP connection to TLS with a device's identity. Runs in the connection's own task, never in the
//! accept loop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use penstock_proto::DeviceId;
use rustls::Error as RustlsError;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::outcome::Outcome;
use crate::tls::{self, TlsConfig};

/// What every handshake is held to.
#[derive(Debug)]
pub struct Handshakes {
    tls: Arc<TlsConfig>,
    permits: Semaphore,
    deadline: Duration,
}

impl Handshakes {
    /// At most `concurrent` handshakes at a time, each with a deadline.
    pub fn new(tls: Arc<TlsConfig>, concurrent: usize, deadline: Duration) -> Self {
        Self { tls, permits: Semaphore::new(concurrent), deadline }
    }

    /// Shakes hands, within the deadline.
    ///
    /// # Errors
    /// The [`Outcome`] with which the connection has ended.
    pub async fn shake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Outcome> {
        tokio::time::timeout(self.deadline, self.shake_unbounded(stream))
            .await
            .map_err(|_| Outcome::TlsTimeout)?
            .map_err(|error| classify(&error))
    }

    async fn shake_unbounded(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        // A permit pays for the costly half, which begins with a whole ClientHello: a socket that says nothing, or a byte
        // at a time, must not hold one from those that say what they want.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let _permit = self.permits.acquire().await.map_err(io::Error::other)?;
        hello.into_stream_with(self.tls.current(), tls::bound_buffers).await
    }
}

/// The device that the client certificate names.
///
/// # Errors
/// [`Outcome::NoIdentity`] where it names none.
pub fn identity(stream: &TlsStream<TcpStream>) -> Result<DeviceId, Outcome> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first).ok_or(Outcome::NoIdentity)?;
    penstock_certs::identity(certificate).map_err(|_| Outcome::NoIdentity)
}

fn classify(error: &io::Error) -> Outcome {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Outcome::ConnectionLost
            }
            _ => Outcome::TlsMalformed,
        };
    };
    match error {
        RustlsError::NoCertificatesPresented | RustlsError::InvalidCertificate(_) => {
            Outcome::CertificateRefused
        }
        _ => Outcome::TlsMalformed,
    }
}
