//! Waiting for what is not there yet: a server that is still starting must not end a role.

use std::fmt;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::condition::Condition;

/// Makes an attempt until one works. `None` if `stop` is cancelled before.
///
/// `passing` names the kind of an error that a later attempt may not meet; it is said once in the log, see
/// [`Condition::failed`].
///
/// # Errors
/// The first error that does not pass.
pub async fn until_works<T, E, F>(
    what: &'static str,
    mut backoff: Backoff,
    stop: &CancellationToken,
    passing: impl Fn(&E) -> Option<&'static str>,
    mut attempt: impl FnMut() -> F,
) -> Result<Option<T>, E>
where
    E: fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let condition = Condition::new(what);
    loop {
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            ended = attempt() => ended,
        };
        match ended {
            Ok(found) => {
                condition.worked();
                return Ok(Some(found));
            }
            Err(error) => match passing(&error) {
                Some(kind) => condition.failed(kind, false, &error),
                None => return Err(error),
            },
        }
        if !pause(backoff.next(), stop).await {
            return Ok(None);
        }
    }
}

/// Waits for `pause`. `false` if `stop` is cancelled before.
pub async fn pause(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(error: &&str) -> Option<&'static str> {
        (*error == "away").then_some("unreachable")
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_waited_for_and_what_does_not_ends_it() {
        let stop = CancellationToken::new();
        let mut answers = vec![Ok(7), Err("away"), Err("away")];
        let answer = || std::future::ready(answers.pop().unwrap_or(Err("asked too often")));
        assert_eq!(until_works("testing", Backoff::new(1, 10), &stop, passing, answer).await, Ok(Some(7)));
        let mut answers = vec![Ok(7), Err("broken"), Err("away")];
        let answer = || std::future::ready(answers.pop().unwrap_or(Err("asked too often")));
        assert_eq!(until_works("testing", Backoff::new(1, 10), &stop, passing, answer).await, Err("broken"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_while_it_waits_or_tries() {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let fails = move || {
            stopped.cancel();
            std::future::ready(Err::<(), _>("away"))
        };
        assert_eq!(until_works("testing", Backoff::new(1, 10), &stop, passing, fails).await, Ok(None));
        let never = std::future::pending::<Result<(), &str>>;
        assert_eq!(until_works("testing", Backoff::new(1, 10), &stop, passing, never).await, Ok(None));
    }
}
