//! What went wrong with a statement, and whether trying again can help.

use std::fmt;

/// A configuration that no connection can be made with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// `clickhouse.url` is no HTTP address.
    #[error("clickhouse.url is {0:?}; write it as http://host:8123 or https://host:8443")]
    Url(String),
    /// `clickhouse.user` or `clickhouse.password` holds characters that a header cannot carry.
    #[error("clickhouse.{0} holds a line break or a control character; remove it")]
    Credentials(&'static str),
    /// TLS cannot be set up.
    #[error("TLS to ClickHouse cannot be set up: {0}")]
    Tls(String),
}

/// How a statement failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The server refused.
    #[error(transparent)]
    Server(ServerError),
    /// The statement never reached the server.
    #[error("ClickHouse cannot be reached: {0}; check clickhouse.url and that the server is up")]
    NotSent(String),
    /// The statement may have reached the server, but no answer came: it may have worked or not.
    #[error("no answer from ClickHouse: {0}; the statement may have worked or not")]
    Broken(String),
}

impl CallError {
    /// Whether trying again can help, and whether the statement may have worked.
    pub fn class(&self) -> Class {
        match self {
            Self::Server(error) => error.class(),
            Self::NotSent(_) => Class::Transient,
            Self::Broken(_) => Class::Unknown,
        }
    }

    /// A short name for metrics and logs: the server's name of the error, or what happened to the connection.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Server(error) => error.name(),
            Self::NotSent(_) => "unreachable",
            Self::Broken(_) => "no_answer",
        }
    }
}

/// What an error means for the one who sent the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The same statement can work later.
    Transient,
    /// The same statement cannot work before a person has changed something.
    Permanent,
    /// Some row of the statement cannot be stored; the others can.
    Rows,
    /// It is not known whether the statement worked.
    Unknown,
}

impl Class {
    /// The name in metrics: one lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Rows => "rows",
            Self::Unknown => "unknown",
        }
    }
}

/// An error that the server, or a proxy before it, reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// HTTP status.
    pub status: u16,
    /// ClickHouse's error code; `None` if the answer did not come from ClickHouse.
    pub code: Option<u32>,
    /// The beginning of what it said.
    pub message: String,
}

/// More of a message is not kept.
const MESSAGE_BYTES_MAX: usize = 1_000;

impl ServerError {
    /// The error in an answer, if it is one. `code` is what the header says.
    ///
    /// A status of 200 proves nothing: an error that comes up after the headers were sent is in the body only.
    pub(super) fn of(status: u16, code: Option<u32>, body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(&body[..body.len().min(64 * 1024)]);
        let in_body = exception(&text);
        if status == 200 && code.is_none() && in_body.is_none() {
            return None;
        }
        let code = code.or(in_body.and_then(|exception| {
            let digits = exception.strip_prefix("Code: ")?;
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        }));
        let message = shorten(in_body.unwrap_or(&text).trim());
        Some(Self { status, code, message })
    }

    /// Whether trying again can help. What is not in the table counts as transient: nothing is given up for an error
    /// that nobody has looked at.
    pub fn class(&self) -> Class {
        match (self.code, self.status) {
            (Some(code), _) => entry(code).map_or(Class::Transient, |(_, _, class)| *class),
            // A proxy that has passed the statement on, and cannot say what became of it.
            (None, 500 | 502 | 504) => Class::Unknown,
            (None, 400..=499) if !matches!(self.status, 408 | 425 | 429) => Class::Permanent,
            (None, _) => Class::Transient,
        }
    }

    /// The server's name of the error, as in `TOO_MANY_PARTS`.
    pub fn name(&self) -> &'static str {
        match self.code {
            Some(code) => entry(code).map_or("OTHER", |(_, name, _)| name),
            None => "NOT_CLICKHOUSE",
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, message } = self;
        match code {
            Some(192..=194 | 516) => {
                write!(f, "ClickHouse refused user or password: {message}; ")?;
                f.write_str("check clickhouse.user and clickhouse.password")
            }
            Some(497) => write!(f, "{message}; grant what is missing to the user in clickhouse.user"),
            Some(_) => write!(f, "{message}"),
            None => write!(
                f,
                "HTTP status {status} from something that is not ClickHouse: {message:?}; check clickhouse.url"
            ),
        }
    }
}

impl std::error::Error for ServerError {}

/// Where the text of an exception begins in an answer: at its start, or behind the marker of one that came late.
fn exception(text: &str) -> Option<&str> {
    let late = text.find("\n__exception__").or_else(|| text.find("__exception__\r\n"));
    let text = late.map_or(text, |at| &text[at..]);
    let at = text.find("Code: ").filter(|at| *at == 0 || late.is_some())?;
    text[at..].contains("DB::").then(|| &text[at..])
}

fn shorten(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

fn entry(code: u32) -> Option<&'static (u32, &'static str, Class)> {
    CODES.binary_search_by_key(&code, |(code, _, _)| *code).ok().map(|index| &CODES[index])
}

use Class::{Permanent, Rows, Transient, Unknown};

/// The errors of ClickHouse that were looked at, by code.
pub const CODES: &[(u32, &str, Class)] = &[
    (6, "CANNOT_PARSE_TEXT", Rows),
    (8, "THERE_IS_NO_COLUMN", Permanent),
    (15, "DUPLICATE_COLUMN", Permanent),
    (16, "NO_SUCH_COLUMN_IN_TABLE", Permanent),
    (20, "NUMBER_OF_COLUMNS_DOESNT_MATCH", Permanent),
    (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", Permanent),
    (32, "ATTEMPT_TO_READ_AFTER_EOF", Permanent),
    (33, "CANNOT_READ_ALL_DATA", Permanent),
    (36, "BAD_ARGUMENTS", Permanent),
    (38, "CANNOT_PARSE_DATE", Rows),
    (41, "CANNOT_PARSE_DATETIME", Rows),
    (44, "ILLEGAL_COLUMN", Permanent),
    (47, "UNKNOWN_IDENTIFIER", Permanent),
    (48, "NOT_IMPLEMENTED", Permanent),
    (49, "LOGICAL_ERROR", Transient),
    (50, "UNKNOWN_TYPE", Permanent),
    (53, "TYPE_MISMATCH", Permanent),
    (60, "UNKNOWN_TABLE", Permanent),
    (62, "SYNTAX_ERROR", Permanent),
    (69, "ARGUMENT_OUT_OF_BOUND", Rows),
    (70, "CANNOT_CONVERT_TYPE", Rows),
    (72, "CANNOT_PARSE_NUMBER", Rows),
    (73, "UNKNOWN_FORMAT", Permanent),
    (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR", Transient),
    (76, "CANNOT_OPEN_FILE", Transient),
    (81, "UNKNOWN_DATABASE", Permanent),
    (115, "UNKNOWN_SETTING", Permanent),
    (117, "INCORRECT_DATA", Permanent),
    (128, "TOO_LARGE_ARRAY_SIZE", Rows),
    (131, "TOO_LARGE_STRING_SIZE", Rows),
    (153, "ILLEGAL_DIVISION", Rows),
    (159, "TIMEOUT_EXCEEDED", Transient),
    (160, "TOO_SLOW", Transient),
    (164, "READONLY", Permanent),
    (173, "CANNOT_ALLOCATE_MEMORY", Transient),
    (192, "UNKNOWN_USER", Permanent),
    (193, "WRONG_PASSWORD", Permanent),
    (194, "REQUIRED_PASSWORD", Permanent),
    (195, "IP_ADDRESS_NOT_ALLOWED", Permanent),
    (198, "DNS_ERROR", Transient),
    (201, "QUOTA_EXCEEDED", Transient),
    (202, "TOO_MANY_SIMULTANEOUS_QUERIES", Transient),
    (203, "NO_FREE_CONNECTION", Transient),
    (209, "SOCKET_TIMEOUT", Transient),
    (210, "NETWORK_ERROR", Transient),
    (216, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", Transient),
    (218, "TABLE_IS_DROPPED", Permanent),
    (225, "NO_ZOOKEEPER", Transient),
    (236, "ABORTED", Transient),
    (241, "MEMORY_LIMIT_EXCEEDED", Transient),
    (242, "TABLE_IS_READ_ONLY", Transient),
    (243, "NOT_ENOUGH_SPACE", Transient),
    (248, "INVALID_PARTITION_VALUE", Permanent),
    (252, "TOO_MANY_PARTS", Transient),
    (279, "ALL_CONNECTION_TRIES_FAILED", Transient),
    (285, "TOO_FEW_LIVE_REPLICAS", Transient),
    (286, "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE", Transient),
    (291, "DATABASE_ACCESS_DENIED", Permanent),
    (319, "UNKNOWN_STATUS_OF_INSERT", Unknown),
    (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", Rows),
    (349, "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN", Rows),
    (364, "RECEIVED_ERROR_TOO_MANY_REQUESTS", Transient),
    (369, "ALL_REPLICAS_ARE_STALE", Transient),
    (373, "SESSION_IS_LOCKED", Transient),
    (376, "CANNOT_PARSE_UUID", Rows),
    (384, "PART_IS_TEMPORARILY_LOCKED", Transient),
    (394, "QUERY_WAS_CANCELLED", Transient),
    (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO", Rows),
    (407, "DECIMAL_OVERFLOW", Rows),
    (415, "ALL_REPLICAS_LOST", Transient),
    (425, "SYSTEM_ERROR", Transient),
    (439, "CANNOT_SCHEDULE_TASK", Transient),
    (452, "SETTING_CONSTRAINT_VIOLATION", Permanent),
    (469, "VIOLATED_CONSTRAINT", Rows),
    (473, "DEADLOCK_AVOIDED", Transient),
    (497, "ACCESS_DENIED", Permanent),
    (499, "S3_ERROR", Transient),
    (516, "AUTHENTICATION_FAILED", Permanent),
    (700, "USER_SESSION_LIMIT_EXCEEDED", Transient),
    (720, "USER_EXPIRED", Permanent),
    (722, "ASYNC_LOAD_WAIT_FAILED", Transient),
    (745, "SERVER_OVERLOADED", Transient),
    (999, "KEEPER_EXCEPTION", Transient),
    (1000, "POCO_EXCEPTION", Transient),
    (1001, "STD_EXCEPTION", Transient),
    (1002, "UNKNOWN_EXCEPTION", Transient),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: Option<u32>, body: &str) -> ServerError {
        ServerError::of(status, code, body.as_bytes()).unwrap()
    }

    #[test]
    fn the_table_is_sorted_by_code() {
        assert!(CODES.is_sorted_by(|(a, ..), (b, ..)| a < b));
    }

    /// Answers as ClickHouse 26.7 and proxies before it give them.
    #[test]
    fn real_answers_are_classified() {
        let table: &[(u16, Option<u32>, &str, Class, &str)] = &[
            (
                403,
                Some(516),
                "Code: 516. DB::Exception: x: Authentication failed: password is incorrect, or there is no user with \
                 such name. (AUTHENTICATION_FAILED)\n",
                Permanent,
                "AUTHENTICATION_FAILED",
            ),
            (
                404,
                Some(60),
                "Code: 60. DB::Exception: Table penstock.readings does not exist. (UNKNOWN_TABLE)",
                Permanent,
                "UNKNOWN_TABLE",
            ),
            (
                500,
                Some(33),
                "Code: 33. DB::Exception: Cannot read all data. Bytes read: 4. Bytes expected: 114: While executing \
                 Native. (CANNOT_READ_ALL_DATA)",
                Permanent,
                "CANNOT_READ_ALL_DATA",
            ),
            (
                500,
                Some(252),
                "Code: 252. DB::Exception: Too many parts (3000 with average size of 1.00 KiB) in table \
                 'penstock.readings'. Merges are processing significantly slower than inserts. (TOO_MANY_PARTS)",
                Transient,
                "TOO_MANY_PARTS",
            ),
            (
                500,
                Some(241),
                "Code: 241. DB::Exception: (total) memory limit exceeded: would use 1.00 GiB. (MEMORY_LIMIT_EXCEEDED)",
                Transient,
                "MEMORY_LIMIT_EXCEEDED",
            ),
            (
                500,
                Some(202),
                "Code: 202. DB::Exception: Too many simultaneous queries. Maximum: 100. \
                 (TOO_MANY_SIMULTANEOUS_QUERIES)",
                Transient,
                "TOO_MANY_SIMULTANEOUS_QUERIES",
            ),
            (
                500,
                Some(242),
                "Code: 242. DB::Exception: Table is in readonly mode (replica path: …). (TABLE_IS_READ_ONLY)",
                Transient,
                "TABLE_IS_READ_ONLY",
            ),
            (
                408,
                Some(159),
                "Code: 159. DB::Exception: Timeout exceeded: elapsed 1006.05 ms, maximum: 1000 ms. (TIMEOUT_EXCEEDED)",
                Transient,
                "TIMEOUT_EXCEEDED",
            ),
            (
                500,
                Some(319),
                "Code: 319. DB::Exception: Unknown status, client must retry. (UNKNOWN_STATUS_OF_INSERT)",
                Unknown,
                "UNKNOWN_STATUS_OF_INSERT",
            ),
            (500, Some(65_000), "Code: 65000. DB::Exception: An error of the future.", Transient, "OTHER"),
            // Too late for a header: the status is 200 and the error is in the body.
            (
                200,
                None,
                "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)",
                Transient,
                "MEMORY_LIMIT_EXCEEDED",
            ),
            (
                200,
                None,
                "1\n2\n\r\n__exception__\r\nabcdefghijklmnop\r\nCode: 395. DB::Exception: Value passed to 'throwIf' \
                 function is non-zero. (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)\r\n",
                Rows,
                "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
            ),
            // Proxies.
            (502, None, "<html>502 Bad Gateway</html>", Unknown, "NOT_CLICKHOUSE"),
            (503, None, "", Transient, "NOT_CLICKHOUSE"),
            (504, None, "", Unknown, "NOT_CLICKHOUSE"),
            (429, None, "slow down", Transient, "NOT_CLICKHOUSE"),
            (404, None, "not found", Permanent, "NOT_CLICKHOUSE"),
        ];
        for (status, code, body, class, name) in table {
            let error = error(*status, *code, body);
            assert_eq!((error.class(), error.name()), (*class, *name), "{status} {code:?} {body}");
        }
    }

    #[test]
    fn a_good_answer_is_no_error() {
        assert_eq!(ServerError::of(200, None, b""), None);
        assert_eq!(ServerError::of(200, None, b"1\n"), None);
        assert_eq!(ServerError::of(200, None, b"what Code: 1 means is up to the user"), None);
    }

    #[test]
    fn a_wrong_password_says_what_to_check() {
        let error = error(403, Some(516), "Code: 516. DB::Exception: x: Authentication failed");
        assert!(error.to_string().contains("check clickhouse.user and clickhouse.password"), "{error}");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = error(500, None, &"é".repeat(5_000));
        assert!(error.message.len() <= MESSAGE_BYTES_MAX);
    }

    #[test]
    fn what_happened_to_the_connection_decides_whether_it_may_have_worked() {
        assert_eq!(CallError::NotSent(String::new()).class(), Transient);
        assert_eq!(CallError::Broken(String::new()).class(), Unknown);
    }
}
