//! Ends on a thread of its own what may take long to end.
#![allow(unsafe_code, reason = "what is dropped elsewhere has to be moved out of what is being dropped")]

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Longer than librdkafka takes while Kafka answers, and than the 5 s it waits for some answers that do not come.
const PATIENCE: Duration = Duration::from_secs(8);

/// A value that is dropped on a thread of its own, which is waited for only so long.
///
/// A member of a group that has a commit under way waits for its answer when it is destroyed, for up to a minute. A
/// process that is to end must not wait with it.
pub(crate) struct EndsBeside<T: Send + 'static>(ManuallyDrop<T>);

impl<T: Send + 'static> EndsBeside<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T: Send + 'static> Deref for EndsBeside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + 'static> DerefMut for EndsBeside<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Send + 'static> Drop for EndsBeside<T> {
    fn drop(&mut self) {
        // SAFETY: nothing uses it after this.
        let value = unsafe { ManuallyDrop::take(&mut self.0) };
        let (ended_in, ended) = sync_channel(1);
        // Without a thread it is dropped here, with the closure.
        let spawned = std::thread::Builder::new().name("penstock-ending".to_owned()).spawn(move || {
            drop(value);
            // Nobody waits any longer after a while.
            let _ = ended_in.send(());
        });
        if spawned.is_ok() && ended.recv_timeout(PATIENCE).is_err() {
            tracing::warn!("a Kafka client did not end within {PATIENCE:?}; it ends by itself");
        }
    }
}
