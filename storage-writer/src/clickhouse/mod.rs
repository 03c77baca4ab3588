//! ClickHouse by HTTP: one statement a request, bodies and answers complete in memory and bounded.
//!
//! Never retries by itself, and never says a statement failed when it may have worked: [`CallError`] tells a request
//! that did not get out from one whose answer did not come back.

mod error;
mod request;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use penstock_service::config::ClickHouse;
use penstock_service::http;

pub use error::{CODES, CallError, Class, ClientError, ServerError};
use request::{Handed, OneShot, target};

/// More of an answer is not read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Connections that nobody used for this long are closed by us, before the server does it (after 10 s or more).
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

const EXCEPTION_CODE: &str = "x-clickhouse-exception-code";

/// A statement and how it is to be run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statement<'a> {
    /// SQL. Data of an `INSERT` goes into the body.
    pub(crate) sql: &'a str,
    /// Settings of the query.
    pub(crate) settings: &'a [(&'a str, &'a str)],
    /// Name of the query in `system.query_log`; empty to let the server choose.
    pub(crate) query_id: &'a str,
}

/// A connection pool to one ClickHouse. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    http: http::Pool<OneShot>,
    base: Uri,
    user: HeaderValue,
    password: HeaderValue,
    query_timeout: Duration,
}

impl Client {
    /// A pool for the server, user and password of the configuration. Does not connect yet.
    ///
    /// # Errors
    /// [`ClientError`] if the address is no `http://` or `https://` URL, or user or password cannot be sent.
    pub fn new(config: &ClickHouse) -> Result<Self, ClientError> {
        let base: Uri = config.url.parse().map_err(|_| ClientError::Url(config.url.clone()))?;
        if base.host().is_none() || !matches!(base.scheme_str(), Some("http" | "https")) {
            return Err(ClientError::Url(config.url.clone()));
        }
        let user = HeaderValue::from_str(&config.user).map_err(|_| ClientError::Credentials("user"))?;
        let mut password = HeaderValue::from_str(config.password.expose())
            .map_err(|_| ClientError::Credentials("password"))?;
        password.set_sensitive(true);
        let http = http::pool(IDLE_TIMEOUT).map_err(|error| ClientError::Tls(error.to_string()))?;
        let query_timeout = Duration::from_millis(config.query_timeout_ms);
        Ok(Self { http, base, user, password, query_timeout })
    }

    /// Asks whether user and password are right and the server answers queries.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ping(&self) -> Result<(), CallError> {
        self.query("SELECT 1").await.map(drop)
    }

    /// Runs a statement within `query_timeout_ms` and returns its answer as text. The answer may have 4 MiB at most.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn query(&self, sql: &str) -> Result<String, CallError> {
        let statement = Statement {
            sql: "",
            settings: &[("wait_end_of_query", "1"), ("use_query_condition_cache", "0")],
            query_id: "",
        };
        let answer =
            self.call(&statement, Bytes::copy_from_slice(sql.as_bytes()), self.query_timeout).await?;
        String::from_utf8(answer).map_err(|_| CallError::Broken("the answer is not UTF-8".to_owned()))
    }

    /// Runs a statement that may take longer than `query_timeout_ms`, with settings and under a name in
    /// `system.processes`; empty to let the server choose. A statement that is given up goes on in the server.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn execute(
        &self,
        sql: &str,
        settings: &[(&str, &str)],
        query_id: &str,
        deadline: Duration,
    ) -> Result<String, CallError> {
        let mut all = vec![("wait_end_of_query", "1"), ("use_query_condition_cache", "0")];
        all.extend_from_slice(settings);
        let statement = Statement { sql: "", settings: &all, query_id };
        let answer = self.call(&statement, Bytes::copy_from_slice(sql.as_bytes()), deadline).await?;
        String::from_utf8(answer).map_err(|_| CallError::Broken("the answer is not UTF-8".to_owned()))
    }

    /// Sends a statement with a complete body and waits for the complete answer.
    pub(crate) async fn call(
        &self,
        statement: &Statement<'_>,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let handed = Handed::default();
        let request = Request::builder()
            .method(Method::POST)
            .uri(target(&self.base, statement))
            .header(HeaderName::from_static("x-clickhouse-user"), self.user.clone())
            .header(HeaderName::from_static("x-clickhouse-key"), self.password.clone())
            .body(OneShot::new(body, handed.clone()))
            .map_err(|error| CallError::NotSent(error.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| handed.failed(chain(&error)))?;
            read(response).await
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(handed.failed(format!("no answer within {} ms", deadline.as_millis()))),
        }
    }
}

async fn read<B>(response: Response<B>) -> Result<Vec<u8>, CallError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    let code = response.headers().get(EXCEPTION_CODE).and_then(|code| code.to_str().ok()?.parse().ok());
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = match body {
        Ok(body) => Vec::from(body.to_bytes()),
        // The status line says enough.
        Err(_) if code.is_some() => Vec::new(),
        Err(error) => return Err(CallError::Broken(format!("the answer broke off: {error}"))),
    };
    match ServerError::of(status.as_u16(), code, &body) {
        Some(error) => Err(CallError::Server(error)),
        None => Ok(body),
    }
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
