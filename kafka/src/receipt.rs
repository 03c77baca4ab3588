//! The future of a delivery: one allocation for a receipt and all its completions, no channel.
//!
//! Never resolves a receipt twice and never leaves one open: a completion that is dropped counts as lost.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::DeliveryError;

/// What a receipt and its completions share.
pub(crate) struct Shared {
    /// Completions that have not completed yet; 0 is final.
    open: AtomicUsize,
    slot: Mutex<Slot>,
}

struct Slot {
    waker: Option<Waker>,
    error: Option<DeliveryError>,
}

impl Shared {
    fn settle(&self, result: Result<(), DeliveryError>) {
        if let Err(error) = result {
            self.slot.lock().error.get_or_insert(error);
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waker = self.slot.lock().waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn outcome(&self) -> Option<Result<(), DeliveryError>> {
        (self.open.load(Ordering::Acquire) == 0).then(|| match &self.slot.lock().error {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        })
    }
}

/// Makes a receipt and the completion that resolves it.
pub fn receipt() -> (Completion, Receipt) {
    let shared =
        Arc::new(Shared { open: AtomicUsize::new(1), slot: Mutex::new(Slot { waker: None, error: None }) });
    (Completion { shared: Some(Arc::clone(&shared)) }, Receipt { shared: Some(shared) })
}

/// Resolves when every clone of its [`Completion`] is completed: to the first error of any of them, or to `Ok`.
///
/// May be polled again after it resolved; the answer stays the same. Dropping it cancels nothing.
#[must_use = "a receipt that nobody waits for acknowledges nothing"]
pub struct Receipt {
    /// `None`: delivered from the start.
    shared: Option<Arc<Shared>>,
}

impl Receipt {
    /// A receipt of something that is delivered already. Allocates nothing.
    pub const fn ready() -> Self {
        Self { shared: None }
    }

    /// The outcome, if it is known by now.
    pub fn try_result(&mut self) -> Option<Result<(), DeliveryError>> {
        self.shared.as_ref().map_or(Some(Ok(())), |shared| shared.outcome())
    }
}

impl Future for Receipt {
    type Output = Result<(), DeliveryError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(shared) = &self.shared else { return Poll::Ready(Ok(())) };
        if let Some(outcome) = shared.outcome() {
            return Poll::Ready(outcome);
        }
        {
            let mut slot = shared.slot.lock();
            match &mut slot.waker {
                Some(waker) => waker.clone_from(context.waker()),
                empty => *empty = Some(context.waker().clone()),
            }
        }
        // The last completion may have looked for a waker just before this one was there.
        shared.outcome().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        // A task that is gone must not be kept in memory until Kafka answers.
        if let Some(shared) = &self.shared
            && shared.open.load(Ordering::Acquire) != 0
        {
            drop(shared.slot.lock().waker.take());
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.shared.as_ref().map_or(0, |shared| shared.open.load(Ordering::Relaxed));
        f.debug_struct("Receipt").field("open", &open).finish()
    }
}

/// The obligation to resolve a [`Receipt`]. Clone it to make the receipt wait for several deliveries.
///
/// Dropped without [`complete`](Self::complete), it completes with [`DeliveryError::Lost`].
#[must_use = "dropping a completion resolves its receipt to DeliveryError::Lost"]
pub struct Completion {
    /// `None` once the obligation is met or handed over.
    shared: Option<Arc<Shared>>,
}

impl Completion {
    /// Settles this part of the receipt. Wakes the waiting task when it was the last part.
    pub fn complete(mut self, result: Result<(), DeliveryError>) {
        if let Some(shared) = self.shared.take() {
            shared.settle(result);
        }
    }

    /// Hands the obligation over, to be taken back with [`Self::from_shared`] exactly once.
    pub(crate) fn into_shared(mut self) -> Option<Arc<Shared>> {
        self.shared.take()
    }

    /// Takes an obligation back that [`Self::into_shared`] handed over.
    pub(crate) const fn from_shared(shared: Option<Arc<Shared>>) -> Self {
        Self { shared }
    }
}

impl Clone for Completion {
    fn clone(&self) -> Self {
        if let Some(shared) = &self.shared {
            shared.open.fetch_add(1, Ordering::Relaxed);
        }
        Self { shared: self.shared.clone() }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.settle(Err(DeliveryError::Lost));
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Bell {
        fn rings(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn poll(receipt: &mut Receipt, bell: &Arc<Bell>) -> Poll<Result<(), DeliveryError>> {
        Pin::new(receipt).poll(&mut Context::from_waker(&Waker::from(Arc::clone(bell))))
    }

    fn refused(why: &str) -> DeliveryError {
        DeliveryError::Refused { code: "INVALID_RECORD".into(), why: why.into() }
    }

    #[test]
    fn a_ready_receipt_is_delivered_without_a_wake_up() {
        let bell = Arc::new(Bell::default());
        let mut receipt = Receipt::ready();
        assert_eq!(receipt.try_result(), Some(Ok(())));
        assert_eq!(poll(&mut receipt, &bell), Poll::Ready(Ok(())));
        assert_eq!(bell.rings(), 0);
    }

    #[test]
    fn completing_wakes_the_waiting_task_once_and_the_answer_stays() {
        let bell = Arc::new(Bell::default());
        let (completion, mut receipt) = receipt();
        assert_eq!(receipt.try_result(), None);
        assert_eq!(poll(&mut receipt, &bell), Poll::Pending);
        completion.complete(Ok(()));
        assert_eq!(bell.rings(), 1);
        assert_eq!(poll(&mut receipt, &bell), Poll::Ready(Ok(())));
        assert_eq!(receipt.try_result(), Some(Ok(())));
        assert_eq!(bell.rings(), 1);
    }

    #[test]
    fn the_last_task_that_polled_is_the_one_woken() {
        let (first, second) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let (completion, mut receipt) = receipt();
        assert_eq!(poll(&mut receipt, &first), Poll::Pending);
        assert_eq!(poll(&mut receipt, &second), Poll::Pending);
        completion.complete(Ok(()));
        assert_eq!((first.rings(), second.rings()), (0, 1));
    }

    #[test]
    fn a_dropped_completion_is_a_lost_delivery() {
        let bell = Arc::new(Bell::default());
        let (completion, mut receipt) = receipt();
        assert_eq!(poll(&mut receipt, &bell), Poll::Pending);
        drop(completion);
        assert_eq!(bell.rings(), 1);
        assert_eq!(poll(&mut receipt, &bell), Poll::Ready(Err(DeliveryError::Lost)));
    }

    #[test]
    fn clones_resolve_together_and_the_first_error_wins() {
        let bell = Arc::new(Bell::default());
        let (completion, mut receipt) = receipt();
        let (second, third) = (completion.clone(), completion.clone());
        assert_eq!(poll(&mut receipt, &bell), Poll::Pending);
        second.complete(Err(refused("first")));
        assert_eq!(poll(&mut receipt, &bell), Poll::Pending);
        completion.complete(Ok(()));
        assert_eq!(bell.rings(), 0);
        drop(third);
        assert_eq!(bell.rings(), 1);
        assert_eq!(poll(&mut receipt, &bell), Poll::Ready(Err(refused("first"))));
    }

    #[test]
    fn a_dropped_receipt_lets_go_of_its_task() {
        let bell = Arc::new(Bell::default());
        let (completion, mut receipt) = receipt();
        assert_eq!(poll(&mut receipt, &bell), Poll::Pending);
        drop(receipt);
        assert_eq!(Arc::strong_count(&bell), 1);
        completion.complete(Ok(()));
        assert_eq!(bell.rings(), 0);
    }

    #[test]
    fn an_obligation_that_was_handed_over_is_met_by_whoever_has_it() {
        let (completion, mut receipt) = receipt();
        let shared = completion.into_shared();
        assert_eq!(receipt.try_result(), None);
        Completion::from_shared(shared).complete(Err(DeliveryError::TimedOut));
        assert_eq!(receipt.try_result(), Some(Err(DeliveryError::TimedOut)));
    }

    #[test]
    fn receipts_resolve_in_the_order_their_deliveries_do() {
        let (completions, mut receipts): (Vec<_>, Vec<_>) = (0..8).map(|_| receipt()).unzip();
        for (done, completion) in completions.into_iter().enumerate() {
            completion.complete(Ok(()));
            let open = receipts.iter_mut().filter_map(Receipt::try_result).count();
            assert_eq!(open, done + 1);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost_between_threads() {
        const RECEIPTS: usize = 20_000;
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Completion>(64);
        let receiver = Arc::new(Mutex::new(receiver));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let receiver = Arc::clone(&receiver);
                thread::spawn(move || {
                    loop {
                        let Ok(completion) = receiver.lock().recv() else { return };
                        completion.complete(Ok(()));
                    }
                })
            })
            .collect();
        for index in 0..RECEIPTS {
            let (completion, receipt) = receipt();
            let parts = index % 3;
            for _ in 0..parts {
                sender.send(completion.clone()).unwrap();
            }
            if index % 7 == 0 {
                drop(completion);
                assert_eq!(receipt.await, Err(DeliveryError::Lost), "receipt {index}");
            } else {
                sender.send(completion).unwrap();
                assert_eq!(receipt.await, Ok(()), "receipt {index}");
            }
        }
        drop(sender);
        for worker in workers {
            worker.join().unwrap();
        }
    }
}
