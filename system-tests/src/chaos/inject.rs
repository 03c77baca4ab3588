//! Does one fault, waits until it is over, and says what was seen of it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::kind::{Kind, Link, Role};
use super::site::Site;
use crate::faults::hands::{Hands, Seen};
use crate::faults::node::Node;
use crate::faults::plan::Fault;
use crate::faults::proxy::Cut;
use crate::process::Penstock;

/// A writer that joins has partitions within this time; Kafka may be away for some of it.
const ASSIGNED: Duration = Duration::from_secs(90);

/// Does a fault from its beginning to its end.
pub(super) fn inject(site: &Site, fault: &Fault<Kind>, cancel: &CancellationToken) -> Seen {
    let hold = Duration::from_millis(fault.hold_ms);
    let hands = Hands { hold, cancel, unexpected: &site.unexpected };
    let proxy = |link: Link| site.networks.of(link, fault.member);
    let (writer, stack) = (&site.writers[fault.member], &site.chain.stack);
    match fault.kind {
        Kind::Kill(Role::Gateway) => hands.kill(&site.gateway),
        Kind::Kill(Role::Writer) => hands.kill(writer),
        Kind::Kill(Role::Kafka) => hands.kill_server(&stack.kafka),
        Kind::Kill(Role::ClickHouse) => reminded(site, hands.kill_server(&stack.clickhouse)),
        Kind::Stop(Role::Gateway) => hands.stop(&site.gateway),
        Kind::Stop(Role::Writer) => hands.stop(writer),
        Kind::Stop(Role::Kafka) => hands.stop_server(&stack.kafka),
        Kind::Stop(Role::ClickHouse) => hands.stop_server(&stack.clickhouse),
        Kind::Restart(Role::Gateway) => hands.restart(&site.gateway),
        Kind::Restart(Role::Writer) => hands.restart(writer),
        Kind::Restart(Role::Kafka) => hands.restart_server(&stack.kafka),
        Kind::Restart(Role::ClickHouse) => reminded(site, hands.restart_server(&stack.clickhouse)),
        Kind::CutReset(link) => hands.cut(proxy(link), Cut::Reset),
        Kind::CutSilent(link) => hands.cut(proxy(link), Cut::Silent),
        Kind::Delay(link) => hands.delay(proxy(link), fault.delay_ms),
        Kind::Join => join(&hands, writer),
        Kind::Leave => hands.end(writer),
    }
}

/// Tells a ClickHouse that was started again what it has forgotten.
fn reminded(site: &Site, seen: Seen) -> Seen {
    site.remind_of_merges();
    seen
}

fn join(hands: &Hands<'_>, node: &Node) -> Seen {
    node.start();
    let assigned = || {
        let events = |process: &mut Penstock| process.metric("penstock_writer_rebalances_total", "assigned");
        node.with(events).is_some_and(|events| events > 0.0)
    };
    if hands.wait(ASSIGNED, assigned) {
        Ok("got partitions".into())
    } else {
        Err("it got no partitions".into())
    }
}
