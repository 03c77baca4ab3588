//! Holds librdkafka up in the middle of a Metadata answer without brokers: after it has given its brokers up, and
//! before the end of the answer takes back the bootstrap that the last of them schedules as it goes down. By itself it
//! is often, but not always, that slow.

use std::cell::Cell;
use std::fmt::{Debug, Write};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// What makes librdkafka tell how far it is.
pub(crate) const DEBUG: &str = "metadata";
/// Its brokers' threads take microseconds.
const DELAY: Duration = Duration::from_millis(300);

thread_local! {
    static HAS_NO_BROKERS: Cell<bool> = const { Cell::new(false) };
}

/// From now on, for all clients that have [`DEBUG`].
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::registry().with(Delay).init());
}

struct Delay;

impl<S: Subscriber> Layer<S> for Delay {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != "librdkafka" {
            return;
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        // These are lines of one thread, that of the client whose answer it is.
        if line.0.contains(": 0 brokers, ") {
            HAS_NO_BROKERS.set(true);
        } else if line.0.contains(":   Topic ") && HAS_NO_BROKERS.take() {
            thread::sleep(DELAY);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").unwrap();
        }
    }
}
