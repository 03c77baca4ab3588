//! One POST: bodies and answers complete in memory and bounded. Never retries by itself.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Uri};
use penstock_service::{Secret, http};

use crate::verdict::{Verdict, of_answer};

/// More of an answer is not read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// More of an answer is not repeated, in characters.
const SAID_CHARS_MAX: usize = 300;
/// A good answer is waited for to its end for so long, so that the connection can be used again.
const REST_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that nobody used for this long are closed by us.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("penstock/", env!("CARGO_PKG_VERSION")));

/// An address that nothing can be posted to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PosterError {
    /// It is no HTTP address.
    #[error("{0:?} is no http:// or https:// address")]
    Url(String),
    /// The authorization holds characters that a header cannot carry.
    #[error("the authorization holds a line break or a control character; remove it")]
    Authorization,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Posts to one address, over connections that are kept.
#[derive(Clone, Debug)]
pub(crate) struct Poster {
    http: http::Pool<Full<Bytes>>,
    target: Uri,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl Poster {
    /// Does not connect yet.
    pub(crate) fn new(target: &str, authorization: &Secret, timeout: Duration) -> Result<Self, PosterError> {
        let refused = || PosterError::Url(target.to_owned());
        let uri: Uri = target.parse().map_err(|_| refused())?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(refused());
        }
        let mut value =
            HeaderValue::from_str(authorization.expose()).map_err(|_| PosterError::Authorization)?;
        value.set_sensitive(true);
        let http = http::pool(IDLE_TIMEOUT).map_err(|error| PosterError::Tls(error.to_string()))?;
        let authorization = (!authorization.is_empty()).then_some(value);
        Ok(Self { http, target: uri, authorization, timeout })
    }

    /// Posts a JSON document and judges the answer.
    pub(crate) async fn post(&self, body: Vec<u8>) -> Verdict {
        let failed = |kind, detail| Verdict::Retry { after: None, kind, detail };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.target.clone())
            .header(CONTENT_TYPE, JSON)
            .header(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let request = match request.body(Full::from(body)) {
            Ok(request) => request,
            Err(error) => return failed("request", error.to_string()),
        };
        let exchange = async {
            let response = match self.http.request(request).await {
                Ok(response) => response,
                Err(error) => return failed("unreachable", chain(&error)),
            };
            let status = response.status().as_u16();
            let after =
                response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
            // The status is the answer. What comes after it is for people.
            let said = match tokio::time::timeout(REST_TIMEOUT, body).await {
                Ok(Ok(body)) => printable(&body.to_bytes()),
                _ => String::new(),
            };
            of_answer(status, after.as_deref(), &said)
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(verdict) => verdict,
            Err(_) => failed("timeout", format!("no answer within {} ms", self.timeout.as_millis())),
        }
    }
}

/// The beginning of an answer on one line.
fn printable(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(SAID_CHARS_MAX * 4)];
    let text = String::from_utf8_lossy(head);
    let kept = text.trim().chars().take(SAID_CHARS_MAX);
    kept.map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// An error with its causes: hyper's own text says little without them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
