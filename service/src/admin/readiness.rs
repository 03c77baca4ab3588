//! Which parts of a process are ready. Never decides that itself: each part holds its latch and says so.

use std::sync::Arc;

use tokio::sync::watch;

/// The latches of a process. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<Vec<(&'static str, bool)>>>);

impl Readiness {
    /// No latches yet, which counts as ready: add them all before serving.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    /// Adds a latch that is not ready yet. `name` is what `/readyz` says is waited for.
    pub fn latch(&self, name: &'static str) -> Latch {
        let mut index = 0;
        self.0.send_modify(|latches| {
            index = latches.len();
            latches.push((name, false));
        });
        Latch { readiness: self.clone(), index }
    }

    /// Names of the latches that are not ready, in the order they were added.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.0.borrow().iter().filter(|(_, ready)| !ready).map(|(name, _)| *name).collect()
    }

    /// Whether every latch is ready.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().iter().all(|(_, ready)| *ready)
    }

    /// Waits until every latch is ready at the same time.
    pub async fn ready(&self) {
        let all = |latches: &Vec<(&'static str, bool)>| latches.iter().all(|(_, ready)| *ready);
        // The sender cannot go away: `self` holds it.
        let _ = self.0.subscribe().wait_for(all).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// One reason not to be ready yet, held by the part of the process that knows. Dropping it changes nothing: a
/// part that ended without becoming ready stays unready.
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    index: usize,
}

impl Latch {
    /// Says whether this part is ready. It may become unready again.
    pub fn set(&self, ready: bool) {
        self.readiness.0.send_if_modified(|latches| match latches.get_mut(self.index) {
            Some((_, was)) if *was != ready => {
                *was = ready;
                true
            }
            _ => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_is_when_every_latch_is() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (kafka, tls) = (readiness.latch("kafka"), readiness.latch("tls"));
        assert_eq!(readiness.waiting_for(), ["kafka", "tls"]);
        kafka.set(true);
        assert_eq!(readiness.waiting_for(), ["tls"]);
        kafka.set(false);
        tls.set(true);
        assert!(!readiness.is_ready());
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        kafka.set(true);
        waiter.await.unwrap();
        drop(kafka);
        assert!(readiness.is_ready());
    }
}
