//! What the answer of a receiver means: delivered, never, or later. Pure.

use std::time::Duration;

/// What is to be done after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// These very bytes will never be taken.
    Refused(String),
    /// It may work later; not before this pause, if the receiver named one.
    Retry {
        /// What the receiver asks for (`Retry-After`).
        after: Option<Duration>,
        /// A short name for metrics.
        kind: &'static str,
        /// What happened, for people.
        detail: String,
    },
}

/// The verdict on an answer with this status. `said` is the beginning of its body.
///
/// Refused for good is what the receiver says of the request itself. What is wrong with the address or with the
/// credentials (401, 403, 404, redirects) is tried again: somebody can set it right before the alerts are given up.
pub fn of_answer(status: u16, retry_after: Option<&str>, said: &str) -> Verdict {
    let detail = if said.is_empty() {
        format!("HTTP status {status}")
    } else {
        format!("HTTP status {status}: {said}")
    };
    match status {
        200..=299 => Verdict::Delivered,
        400 | 406 | 411 | 413..=415 | 422 | 431 => Verdict::Refused(detail),
        429 | 503 => Verdict::Retry { after: retry_after.and_then(seconds), kind: kind(status), detail },
        _ => Verdict::Retry { after: None, kind: kind(status), detail },
    }
}

const fn kind(status: u16) -> &'static str {
    match status {
        300..=399 => "redirected",
        401 | 403 | 407 => "not-authorized",
        404 | 410 => "not-found",
        429 => "too-many-requests",
        500..=599 => "server-error",
        _ => "unexpected-status",
    }
}

/// `Retry-After` in seconds; as a date it is not heeded.
fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_is_only_what_can_never_be_taken() {
        for status in [400, 413, 415, 422] {
            assert!(matches!(of_answer(status, None, ""), Verdict::Refused(_)), "{status}");
        }
        for status in [301, 401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503, 504, 599, 102] {
            assert!(matches!(of_answer(status, None, ""), Verdict::Retry { .. }), "{status}");
        }
        for status in [200, 201, 202, 204] {
            assert_eq!(of_answer(status, None, "thanks"), Verdict::Delivered);
        }
    }

    #[test]
    fn the_receiver_may_ask_for_a_pause() {
        let after = |status, text| match of_answer(status, Some(text), "slow down") {
            Verdict::Retry { after, .. } => after,
            verdict => panic!("{verdict:?}"),
        };
        assert_eq!(after(429, " 7 "), Some(Duration::from_secs(7)));
        assert_eq!(after(503, "0"), Some(Duration::ZERO));
        assert_eq!(after(429, "Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(after(500, "7"), None);
    }
}
