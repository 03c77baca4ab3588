//! The deadlines of a connection: keep-alive and writing.
//!
//! One timer, and it is not moved for every packet: it fires when the earliest deadline could have passed, looks, and is
//! set again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::outcome::Outcome;

/// Watches over keep-alive and write deadlines.
#[derive(Debug)]
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// One and a half times the keep-alive (MQTT5 3.1.2-22); `None` where the device promised none.
    silence_max: Option<Duration>,
    /// The longest that a packet may take to arrive where there is no keep-alive.
    packet_max: Duration,
    write_max: Duration,
    heard_at: Instant,
    unwritten_since: Option<Instant>,
}

impl Timer {
    pub(super) fn new(keep_alive_s: u16, keep_alive_s_max: u16, write_max: Duration) -> Self {
        let one_and_a_half = |seconds: u16| Duration::from_millis(1500 * u64::from(seconds));
        let silence_max = (keep_alive_s > 0).then(|| one_and_a_half(keep_alive_s));
        let packet_max = one_and_a_half(keep_alive_s_max);
        let first = silence_max.unwrap_or(packet_max);
        Self {
            sleep: Box::pin(tokio::time::sleep(first)),
            silence_max,
            packet_max,
            write_max,
            heard_at: Instant::now(),
            unwritten_since: None,
        }
    }

    /// A packet has arrived whole, or reading goes on after a stall.
    pub(super) fn heard(&mut self) {
        self.heard_at = Instant::now();
    }

    /// Ready with the outcome when a deadline has passed.
    ///
    /// `stalled`: the gateway itself does not read, so silence is not the device's. `unwritten`: the device does not
    /// accept what it is sent. `unfinished`: a packet has begun to arrive.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stalled: bool,
        unwritten: bool,
        unfinished: bool,
    ) -> Poll<Outcome> {
        if !unwritten {
            self.unwritten_since = None;
        } else if self.unwritten_since.is_none() {
            let now = Instant::now();
            self.unwritten_since = Some(now);
            if self.sleep.deadline() > now + self.write_max {
                self.sleep.as_mut().reset(now + self.write_max);
            }
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.unwritten_since.is_some_and(|since| now - since >= self.write_max) {
                return Poll::Ready(Outcome::WriteTimeout);
            }
            let allowed = self.silence_max.or(unfinished.then_some(self.packet_max));
            let silent = now - self.heard_at;
            if !stalled && allowed.is_some_and(|allowed| silent >= allowed) {
                return Poll::Ready(Outcome::KeepAliveTimeout);
            }
            let until_silent = match allowed {
                Some(allowed) if !stalled => allowed - silent,
                _ => self.packet_max,
            };
            let until_written =
                self.unwritten_since.map_or(until_silent, |since| self.write_max - (now - since));
            self.sleep.as_mut().reset(now + until_silent.min(until_written));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const WRITE_MAX: Duration = Duration::from_secs(30);

    fn timer(keep_alive_s: u16) -> Timer {
        Timer::new(keep_alive_s, 1200, WRITE_MAX)
    }

    /// Waits for an outcome with the connection in this state; `None` if none comes within an hour.
    async fn outcome(
        timer: &mut Timer,
        stalled: bool,
        unwritten: bool,
        unfinished: bool,
    ) -> Option<(Outcome, u64)> {
        let begun = Instant::now();
        let wait = poll_fn(|cx| timer.poll(cx, stalled, unwritten, unfinished));
        let outcome = tokio::time::timeout(Duration::from_secs(3600), wait).await.ok()?;
        Some((outcome, begun.elapsed().as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn mqtt5_3_1_2_22_silence_for_one_and_a_half_keep_alives_ends_the_connection() {
        let mut timer = timer(60);
        assert_eq!(outcome(&mut timer, false, false, false).await, Some((Outcome::KeepAliveTimeout, 90)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_packet_puts_the_deadline_off() {
        let mut timer = timer(60);
        tokio::time::sleep(Duration::from_secs(80)).await;
        timer.heard();
        assert_eq!(outcome(&mut timer, false, false, false).await, Some((Outcome::KeepAliveTimeout, 90)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_connection_is_not_silent() {
        assert_eq!(outcome(&mut timer(60), true, false, false).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn mqtt5_3_1_2_10_keep_alive_zero_has_no_deadline_but_a_begun_packet_has() {
        assert_eq!(outcome(&mut timer(0), false, false, false).await, None);
        assert_eq!(outcome(&mut timer(0), false, false, true).await, Some((Outcome::KeepAliveTimeout, 1800)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_does_not_read_is_disconnected() {
        for stalled in [false, true] {
            let mut timer = timer(1200);
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!(outcome(&mut timer, stalled, true, false).await, Some((Outcome::WriteTimeout, 30)));
        }
    }
}
