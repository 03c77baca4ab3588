//! Over real TCP, with requests as bytes: what is under test is also what hyper makes of hostile ones.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

async fn start() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (readiness, shutdown) = (Readiness::new(), CancellationToken::new());
    let registry = Arc::new(Registry::new());
    let server = tokio::spawn(serve(listener, registry, readiness.clone(), shutdown.clone()));
    Running { address, readiness, shutdown, server }
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

async fn fetch(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let running = start().await;
    let response = fetch(running.address, "/metrics").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(
        response.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n")
    );
    assert!(response.contains("\nprocess_cpu_seconds_total "));
    assert!(response.ends_with("# EOF\n"));
}

#[tokio::test]
async fn healthz_answers_while_nothing_is_ready() {
    let running = start().await;
    let _latch = running.readiness.latch("kafka");
    assert!(fetch(running.address, "/healthz").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn readyz_names_the_latches_that_are_not_ready() {
    let running = start().await;
    let (kafka, clickhouse) = (running.readiness.latch("kafka"), running.readiness.latch("clickhouse"));
    let response = fetch(running.address, "/readyz").await;
    assert!(response.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{response}");
    assert!(response.contains("\r\ncontent-type: application/json\r\n"));
    assert!(
        response.ends_with("{\"ready\":false,\"waiting_for\":[\"kafka\",\"clickhouse\"]}\n"),
        "{response}"
    );
    clickhouse.set(true);
    assert!(fetch(running.address, "/readyz").await.ends_with("\"waiting_for\":[\"kafka\"]}\n"));
    kafka.set(true);
    let response = fetch(running.address, "/readyz").await;
    assert!(
        response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nready\n"),
        "{response}"
    );
    kafka.set(false);
    assert!(fetch(running.address, "/readyz").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn anything_else_is_refused() {
    let address = start().await.address;
    assert!(fetch(address, "/").await.starts_with("HTTP/1.1 404 "));
    assert!(fetch(address, "/metrics/../etc/passwd").await.starts_with("HTTP/1.1 404 "));
    let post = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    assert!(exchange(address, post).await.starts_with("HTTP/1.1 405 "));
    let body = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n";
    assert!(exchange(address, body).await.starts_with("HTTP/1.1 413 "));
    assert!(exchange(address, "no HTTP at all\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let mut stream = TcpStream::connect(start().await.address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    let endless = async { while stream.write_all(line.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), endless).await.expect("the server closes the connection");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_after_the_header_timeout() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    // The clock is paused: it moves on when every task waits, so this takes no time.
    let closed = tokio::time::timeout(HEADER_TIMEOUT * 4, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "still open after four times the timeout");
}

#[tokio::test(start_paused = true)]
async fn more_connections_than_permits_wait_for_their_turn() {
    let running = start().await;
    let begin = tokio::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    let response = fetch(running.address, "/healthz").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    // The paused clock moves on only when every task waits: for the silent connections to be given up.
    assert!(begin.elapsed() >= HEADER_TIMEOUT);
}

#[tokio::test]
async fn shutdown_closes_the_listener_and_open_connections() {
    let Running { address, shutdown, server, .. } = start().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    // A whole exchange on another connection, so that the idle one has certainly been accepted.
    fetch(address, "/healthz").await;
    shutdown.cancel();
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}
