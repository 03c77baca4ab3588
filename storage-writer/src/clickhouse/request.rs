//! What a request to ClickHouse is made of.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Uri;
use hyper::body::{Body, Frame, SizeHint};
use hyper::http::uri::PathAndQuery;

use super::{CallError, Statement};

/// Whether a body was handed to a connection. Until then nothing can have been stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Handed(Arc<AtomicBool>);

impl Handed {
    /// The error of a request that did not end well.
    pub(super) fn failed(&self, why: String) -> CallError {
        if self.0.load(Ordering::Acquire) { CallError::Broken(why) } else { CallError::NotSent(why) }
    }
}

/// A body of one piece whose length is known, so that it is sent with `Content-Length`: ClickHouse can take the end
/// of a chunked body that was cut off for the end of the data.
#[derive(Debug)]
pub(super) struct OneShot {
    data: Option<Bytes>,
    handed: Handed,
}

impl OneShot {
    pub(super) const fn new(data: Bytes, handed: Handed) -> Self {
        Self { data: Some(data), handed }
    }
}

impl Body for OneShot {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take();
        if data.is_some() {
            self.handed.0.store(true, Ordering::Release);
        }
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// The address of a statement: everything but the data is in the query string.
pub(super) fn target(base: &Uri, statement: &Statement<'_>) -> Uri {
    let mut path = base.path().to_owned();
    let mut separator = '?';
    let mut add = |name: &str, value: &str| {
        path.push(separator);
        separator = '&';
        path.push_str(name);
        path.push('=');
        percent_encode(&mut path, value);
    };
    if !statement.sql.is_empty() {
        add("query", statement.sql);
    }
    if !statement.query_id.is_empty() {
        add("query_id", statement.query_id);
    }
    for (name, value) in statement.settings {
        add(name, value);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

fn percent_encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_data_is_in_the_query_string() {
        let base = "http://127.0.0.1:8123".parse().unwrap();
        let settings = [("async_insert", "0")];
        let statement = Statement { sql: "INSERT INTO a.b", settings: &settings, query_id: "w/1" };
        let target = target(&base, &statement);
        assert_eq!(target, "http://127.0.0.1:8123/?query=INSERT%20INTO%20a.b&query_id=w%2F1&async_insert=0");
    }

    #[test]
    fn a_path_of_the_configured_address_is_kept() {
        let base = "https://host/clickhouse/".parse().unwrap();
        let settings = [("a", "é")];
        let statement = Statement { settings: &settings, ..Statement::default() };
        assert_eq!(target(&base, &statement), "https://host/clickhouse/?a=%C3%A9");
    }

    #[test]
    fn a_body_has_a_length_and_says_when_it_was_handed_over() {
        let handed = Handed::default();
        let mut body = OneShot::new(Bytes::from_static(b"abc"), handed.clone());
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(matches!(handed.failed(String::new()), CallError::NotSent(_)));
        let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
        assert!(body.is_end_stream());
        assert!(matches!(handed.failed(String::new()), CallError::Broken(_)));
    }
}
