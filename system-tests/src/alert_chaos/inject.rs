//! Does one fault, waits until it is over, and says what was seen of it.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::kind::Kind;
use super::site::Site;
use crate::faults::hands::{Hands, Seen};
use crate::faults::node::Node;
use crate::faults::plan::Fault;
use crate::faults::proxy::Cut;

/// An alerter that joins has partitions within this time, and one that runs notices new rules; Kafka may be away, or the
/// alerter stopped, for some of it.
const NOTICED: Duration = Duration::from_secs(90);

/// New rules that nobody has noticed are written again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(4);

/// Does a fault from its beginning to its end.
pub(super) fn inject(site: &Site, fault: &Fault<Kind>, cancel: &CancellationToken) -> Seen {
    let hold = Duration::from_millis(fault.hold_ms);
    let hands = Hands { hold, cancel, unexpected: &site.unexpected };
    let (alerter, network) = (&site.alerters[fault.member], &site.networks[fault.member]);
    match fault.kind {
        Kind::KillAlerter => hands.kill(alerter),
        Kind::StopAlerter => hands.stop(alerter),
        Kind::RestartAlerter => hands.restart(alerter),
        Kind::Join => join(&hands, alerter),
        Kind::Leave => hands.end(alerter),
        Kind::KillKafka => hands.kill_server(&site.kafka),
        Kind::StopKafka => hands.stop_server(&site.kafka),
        Kind::RestartKafka => hands.restart_server(&site.kafka),
        Kind::CutReset => hands.cut(network, Cut::Reset),
        Kind::CutSilent => hands.cut(network, Cut::Silent),
        Kind::Delay => hands.delay(network, fault.delay_ms),
        Kind::TouchRules => touch(&hands, site),
    }
}

fn metric(node: &Node, name: &str, labels: &str) -> f64 {
    node.try_with(|process| process.metric(name, labels)).unwrap_or(0.0)
}

fn join(hands: &Hands<'_>, alerter: &Node) -> Seen {
    alerter.start();
    let is_assigned = || metric(alerter, "penstock_alerts_rebalances_total", "assigned") > 0.0;
    if hands.wait(NOTICED, is_assigned) {
        Ok("got partitions".into())
    } else {
        Err("it got no partitions".into())
    }
}

/// Seen once an alerter that runs has read the new file. One that is about to start reads it without noticing anything
/// new, so it is written again until one does.
fn touch(hands: &Hands<'_>, site: &Site) -> Seen {
    let reloads = |alerter| metric(alerter, "penstock_alerts_reloads_total", "");
    let began = Instant::now();
    while began.elapsed() < NOTICED && !hands.cancel.is_cancelled() {
        let before: Vec<f64> = site.alerters.iter().map(reloads).collect();
        site.rules.touch();
        let is_read =
            || site.alerters.iter().zip(&before).any(|(alerter, before)| reloads(alerter) > *before);
        if hands.wait(WRITE_AGAIN, is_read) {
            return Ok("read by an alerter".into());
        }
    }
    Err("no alerter has read it".into())
}
