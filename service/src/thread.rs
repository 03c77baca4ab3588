//! Work that blocks for as long as a role runs, on a thread of its own.

/// The thread could not be started, or it panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ThreadError(String);

/// Runs `work` on a thread called `name` and waits for what comes of it. Dropped, it lets the thread go on.
///
/// # Errors
/// [`ThreadError`].
pub async fn run<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ThreadError> {
    let (ended_in, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            // Nobody is left to hear it if the future was dropped.
            let _ = ended_in.send(work());
        })
        .map_err(|error| ThreadError(error.to_string()))?;
    ended.await.map_err(|_| ThreadError("it panicked".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_of_it_is_told_and_so_is_a_panic() {
        let named = || std::thread::current().name().map(str::to_owned);
        assert_eq!(run("a-name", named).await, Ok(Some("a-name".to_owned())));
        let panics = || -> u8 { panic!("on purpose") };
        assert_eq!(run("a-name", panics).await, Err(ThreadError("it panicked".to_owned())));
    }
}
