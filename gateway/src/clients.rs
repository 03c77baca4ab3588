//! Who is connected: finds the connection that a new one with the same identity and client identifier takes over
//! (MQTT5 3.1.4-3), and lets the gateway tell every connection to stop.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use penstock_proto::DeviceId;

use crate::outcome::Outcome;

/// What a connection has been told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Serve,
    /// Another connection of the same client has come: end now.
    TakenOver,
    /// The gateway is stopping: read no more, let receipts finish, then end.
    Drain,
}

impl Order {
    /// With which outcome the order ends a connection.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::TakenOver => Outcome::TakenOver,
            Self::Serve | Self::Drain => Outcome::ServerShutdown,
        }
    }
}

/// How a connection is told to end.
#[derive(Debug, Default)]
pub struct Control {
    order: AtomicU8,
    waker: AtomicWaker,
}

impl Control {
    fn give(&self, order: Order) {
        // A drain does not undo a take-over: the larger order number is the more urgent.
        let number = match order {
            Order::Serve => 0,
            Order::Drain => 1,
            Order::TakenOver => 2,
        };
        self.order.fetch_max(number, Ordering::AcqRel);
        self.waker.wake();
    }

    /// The order in force; the waker is woken when it changes.
    pub fn order(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::TakenOver,
        }
    }
}

type Key = (DeviceId, Box<str>);
type Shard = Mutex<HashMap<Key, Arc<Control>>>;

const SHARDS: usize = 64;

/// The connections that have a session, by device and client identifier.
///
/// The device is part of the key, so a device cannot end another's connection by naming its client identifier (G7).
#[derive(Debug)]
pub struct Clients {
    shards: Box<[Shard]>,
    hasher: RandomState,
}

impl Default for Clients {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), hasher: RandomState::new() }
    }
}

impl Clients {
    #[allow(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
    fn shard(&self, key: &Key) -> &Shard {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Enters a connection; the one with the same key, if there is one, is told that it is taken over.
    pub fn enter(self: &Arc<Self>, device: DeviceId, client_id: &str) -> Entered {
        let key = (device, Box::from(client_id));
        let control = Arc::new(Control::default());
        let before = self.shard(&key).lock().insert(key.clone(), Arc::clone(&control));
        if let Some(before) = before {
            before.give(Order::TakenOver);
        }
        Entered { clients: Arc::clone(self), key, control }
    }

    /// Tells every connection to drain.
    pub fn drain(&self) {
        for shard in &self.shards {
            for control in shard.lock().values() {
                control.give(Order::Drain);
            }
        }
    }
}

/// A connection's place among the clients; left on drop.
#[derive(Debug)]
pub struct Entered {
    clients: Arc<Clients>,
    key: Key,
    control: Arc<Control>,
}

impl Entered {
    /// How the connection is told to end.
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The client identifier.
    pub fn client_id(&self) -> &str {
        &self.key.1
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut shard = self.clients.shard(&self.key).lock();
        // Whoever took over has the place now.
        if shard.get(&self.key).is_some_and(|control| Arc::ptr_eq(control, &self.control)) {
            shard.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DeviceId = DeviceId::from_bytes([1; 16]);
    const B: DeviceId = DeviceId::from_bytes([2; 16]);

    fn order(entered: &Entered) -> Order {
        entered.control().order(Waker::noop())
    }

    #[test]
    fn mqtt5_3_1_4_3_the_same_client_takes_over() {
        let clients = Arc::new(Clients::default());
        let first = clients.enter(A, "c");
        let second = clients.enter(A, "c");
        assert_eq!(order(&first), Order::TakenOver);
        assert_eq!(order(&second), Order::Serve);
        drop(first);
        let third = clients.enter(A, "c");
        assert_eq!(
            order(&second),
            Order::TakenOver,
            "the first must not have taken the second's place with it"
        );
        assert_eq!(order(&third), Order::Serve);
    }

    #[test]
    fn a_device_cannot_take_over_another_devices_client_identifier() {
        let clients = Arc::new(Clients::default());
        let a = clients.enter(A, "same");
        let _b = clients.enter(B, "same");
        assert_eq!(order(&a), Order::Serve);
    }

    #[test]
    fn a_drain_reaches_everyone_and_a_take_over_stays_one() {
        let clients = Arc::new(Clients::default());
        let [a, b] = [A, B].map(|device| clients.enter(device, "c"));
        let a2 = clients.enter(A, "c");
        clients.drain();
        assert_eq!(order(&a), Order::TakenOver);
        assert_eq!(order(&a2), Order::Drain);
        assert_eq!(order(&b), Order::Drain);
    }
}
