//! Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`. Read-only; never takes a body and never
//! authenticates, so it listens on a private address.

mod readiness;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, body::HttpBody};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{CONTENT_TYPE, Registry};
use crate::shutdown::drain;
pub use readiness::{Latch, Readiness};

/// Connections at once; more wait in the listen backlog.
const CONNECTIONS_MAX: usize = 64;
/// From accept to the end of the request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept to the end of the response. A connection serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// For requests under way at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Request line and headers together, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// After a failed accept, commonly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is cancelled, then finishes the requests under way.
///
/// Cancel `shutdown` last: a process that drains should still be seen to be alive, and not ready.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let server = Server { router: router(registry, readiness), shutdown };
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept_all = async {
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let stream = accept(&listener).await;
            let connection = server.clone().connection(stream);
            connections.spawn(async move {
                connection.await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        biased;
        () = server.shutdown.cancelled() => {}
        () = accept_all => {}
    }
    drop(listener);
    if let Err(unfinished) = drain(DRAIN_TIMEOUT, &[("admin requests", &connections)]).await {
        tracing::warn!("{unfinished}");
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(why) => {
                tracing::warn!("admin HTTP cannot accept a connection: {why}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    shutdown: CancellationToken,
}

impl Server {
    async fn connection(self, stream: TcpStream) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES_MAX)
            // Idle connections would use up the permits; a scrape each some seconds can afford its own.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router));
        let mut connection = std::pin::pin!(connection);
        let to_the_end = async {
            tokio::select! {
                result = connection.as_mut() => return result,
                () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        };
        match tokio::time::timeout(CONNECTION_TIMEOUT, to_the_end).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!("admin HTTP connection ended: {why}"),
            Err(_) => tracing::debug!("admin HTTP connection took too long"),
        }
    }
}

#[derive(Clone)]
struct Shown {
    registry: Arc<Registry>,
    readiness: Readiness,
}

fn router(registry: Arc<Registry>, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "not found: try /metrics, /healthz or /readyz\n"))
        .layer(middleware::from_fn(refuse_body))
        .with_state(Shown { registry, readiness })
}

async fn refuse_body(request: Request, next: Next) -> Result<Response, Infallible> {
    if request.body().is_end_stream() {
        Ok(next.run(request).await)
    } else {
        Ok((StatusCode::PAYLOAD_TOO_LARGE, "requests have no body here\n").into_response())
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    // Reading /proc and writing thousands of lines would hold up the connections of this worker thread.
    match tokio::task::spawn_blocking(move || shown.registry.encode()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Ok(Err(why)) => failed(&why),
        Err(why) => failed(&why),
    }
}

fn failed(why: &dyn std::error::Error) -> Response {
    tracing::error!("metrics cannot be encoded: {why}");
    (StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded, see the log\n").into_response()
}

async fn ready(State(shown): State<Shown>) -> Response {
    let waiting_for = shown.readiness.waiting_for();
    if waiting_for.is_empty() {
        return "ready\n".into_response();
    }
    let body = serde_json::json!({ "ready": false, "waiting_for": waiting_for });
    let json = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::SERVICE_UNAVAILABLE, json, format!("{body}\n")).into_response()
}

#[cfg(test)]
mod tests;
