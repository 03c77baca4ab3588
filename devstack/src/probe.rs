//! Asking a server whether it is ready, on a plain socket: Kafka's ApiVersions and Metadata, ClickHouse's HTTP.
//! Never used to carry data; clients of the roles are elsewhere.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 4 << 20;

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Ready = one of `brokers` (comma-separated `host:port`) answers ApiVersions, and Metadata lists a live broker.
pub(crate) fn kafka(brokers: &str) -> Result<(), String> {
    let mut why = "no broker is named".to_owned();
    for broker in brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
        match kafka_broker(broker) {
            Ok(()) => return Ok(()),
            Err(error) => why = format!("{broker}: {error}"),
        }
    }
    Err(why)
}

fn kafka_broker(broker: &str) -> Result<(), String> {
    const API_VERSIONS: i16 = 18;
    const METADATA: i16 = 3;
    let io = |error: io::Error| error.to_string();
    let mut stream = connect(broker).map_err(io)?;
    let answer = kafka_request(&mut stream, API_VERSIONS, 0, &[]).map_err(io)?;
    match answer.get(..2) {
        Some([0, 0]) => {}
        _ => return Err("ApiVersions was refused".into()),
    }
    // Version 5: no topics (an empty array), automatic creation off. Answer: throttle time, then the brokers.
    let answer = kafka_request(&mut stream, METADATA, 5, &[0, 0, 0, 0, 0]).map_err(io)?;
    match answer.get(4..8) {
        Some(&[0, 0, 0, 0]) => Err("no broker is registered yet".into()),
        Some(_) => Ok(()),
        None => Err("the answer to Metadata is too short".into()),
    }
}

/// One request with a header of version 1 (null client id); gives the body of the answer.
fn kafka_request(stream: &mut TcpStream, api: i16, version: i16, body: &[u8]) -> io::Result<Vec<u8>> {
    const CORRELATION: [u8; 4] = *b"pstk";
    let null_client_id: i16 = -1;
    let mut request = Vec::with_capacity(14 + body.len());
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(CORRELATION);
    request.extend(null_client_id.to_be_bytes());
    request.extend(body);
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), &request].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u64::from(u32::from_be_bytes(length)).min(ANSWER_BYTES_MAX);
    let mut answer = Vec::new();
    stream.take(length).read_to_end(&mut answer)?;
    match answer.strip_prefix(&CORRELATION) {
        Some(body) => Ok(body.to_vec()),
        None => Err(io::Error::other("the answer is not Kafka's")),
    }
}

/// Ready = `/ping` says `Ok.` and `SELECT 1` says 1.
pub(crate) fn clickhouse(url: &str) -> Result<(), String> {
    let ping = http(url, "GET", "/ping", "")?;
    if ping.trim() != "Ok." {
        return Err(format!("/ping answered {ping:?}"));
    }
    let one = query(url, "SELECT 1")?;
    if one.trim() != "1" {
        return Err(format!("SELECT 1 answered {one:?}"));
    }
    Ok(())
}

/// Runs one statement.
pub(crate) fn query(url: &str, sql: &str) -> Result<String, String> {
    http(url, "POST", &format!("/{}", credentials(url)), sql)
}

/// User and password of `http://user:password@host:port` as ClickHouse's URL parameters; both are URL-encoded in
/// both places.
fn credentials(url: &str) -> String {
    let authority = url.split('/').nth(2).unwrap_or_default();
    match authority.rsplit_once('@').map(|(user, _)| user.split_once(':').unwrap_or((user, ""))) {
        Some((user, password)) => format!("?user={user}&password={password}"),
        None => String::new(),
    }
}

/// Body of the answer; an error names the status and the body if it is not 200. HTTP/1.0, so that the end of the
/// body is the end of the connection.
pub(crate) fn http(url: &str, method: &str, path: &str, body: &str) -> Result<String, String> {
    let authority = authority(url)?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {authority}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    connect(authority)
        .and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)
        })
        .map_err(|error| format!("{authority}: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) == Some("200") {
        return Ok(body.to_owned());
    }
    Err(format!("{status}: {}", body.trim()))
}

/// `host:port` of an `http://` URL.
fn authority(url: &str) -> Result<&str, String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url:?} does not begin with http://"))?;
    let authority = rest.split('/').next().unwrap_or_default();
    let host_port = authority.rsplit('@').next().unwrap_or_default();
    if host_port.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        return Ok(host_port);
    }
    Err(format!("{url:?} does not name a port"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_url_gives_host_and_port() {
        assert_eq!(authority("http://127.0.0.1:8123/").unwrap(), "127.0.0.1:8123");
        assert_eq!(authority("http://user:secret@db:8123/?x").unwrap(), "db:8123");
        assert!(authority("https://db:8443").is_err() && authority("http://db").is_err());
    }

    #[test]
    fn credentials_become_parameters() {
        assert_eq!(credentials("http://user:secret@db:8123"), "?user=user&password=secret");
        assert_eq!(credentials("http://db:8123/"), "");
    }

    /// Answers one connection with `answer` once it has read something.
    fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(answer);
        });
        address
    }

    #[test]
    fn a_server_which_is_not_kafka_is_not_ready() {
        let brokers = server(b"\0\0\0\x06HTTP/1");
        assert!(kafka(&brokers).unwrap_err().contains("not Kafka's"));
    }

    #[test]
    fn a_closed_port_is_not_ready() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(kafka(&format!("127.0.0.1:{port}")).is_err());
        assert!(clickhouse(&format!("http://127.0.0.1:{port}")).is_err());
    }

    #[test]
    fn an_http_error_shows_status_and_body() {
        let url = format!("http://{}", server(b"HTTP/1.0 500 Oops\r\n\r\nbroken"));
        assert_eq!(http(&url, "GET", "/", "").unwrap_err(), "HTTP/1.0 500 Oops: broken");
    }
}
