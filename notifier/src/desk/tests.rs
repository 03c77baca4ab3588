use std::collections::{BTreeMap, BTreeSet};

use penstock_proto::alert_json::to_json;
use penstock_proto::v1::{AlertState, DeviceAlert};
use proptest::prelude::*;

use super::*;
use crate::ledger::AlertTopic;
use crate::notice::tests::alert;

const PART: Part = (AlertTopic::Device, 0);
const NOW_MS: i64 = 1_790_000_000_000;

struct Bench {
    desk: Desk,
    controls: Controls,
    now: Instant,
    next: i64,
}

impl Bench {
    fn new(receiver: Receiver, group_by: GroupBy) -> Self {
        let config = Notify { group_by, ..Notify::default() };
        let mut desk = Desk::new(Rules::of(receiver, &config));
        let epoch = desk.ledger.assign(PART);
        assert!(desk.ledger.open(PART, epoch, 0, true));
        Self { desk, controls: Controls::default(), now: Instant::now(), next: 0 }
    }

    fn read(&mut self, alert: &DeviceAlert) {
        let json = to_json(alert);
        assert_eq!(self.desk.read(PART, self.next, Some(b"k"), json.as_bytes(), self.now), Read::Taken);
        self.next += 1;
    }

    fn say(&mut self, id: &str, state: AlertState) {
        self.read(&alert(id, state));
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn take(&mut self) -> Option<Post> {
        self.desk.next(&self.controls, NOW_MS, self.now)
    }

    fn end(&mut self, post: Post, fate: Fate) {
        let items: Vec<_> = post.items.into_iter().map(|item| (item, fate)).collect();
        self.desk.ended(&post.key, &items);
    }

    /// Sends everything that is due: ids, with `-` behind those that are resolved and `*` behind reminders.
    fn sent(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(post) = self.take() {
            sent.extend(post.items.iter().map(|item| {
                let mark = match item.why {
                    Why::News if item.notice.is_resolved() => "-",
                    Why::News => "",
                    Why::Refresh => "*",
                    Why::Replaced => "!",
                };
                format!("{}{mark}", item.notice.alert.id)
            }));
            self.end(post, Fate::Delivered);
        }
        sent
    }

    fn control(&mut self, key: &str, value: Option<&str>) {
        self.controls.fold(Some(key.as_bytes()), value.map(str::as_bytes)).unwrap();
    }

    fn silence(&mut self) {
        self.control("silence/s", Some(r#"{"rule": "hot", "until": "2200-01-01T00:00:00Z"}"#));
    }

    fn unsilence(&mut self) {
        self.control("silence/s", None);
        self.desk.end_silences(&self.controls, NOW_MS, self.now);
    }

    fn front(&self) -> i64 {
        self.desk.ledger.fronts().next().map_or(0, |(_, front)| front)
    }

    fn committable(&self) -> Option<i64> {
        self.desk.ledger.committable().first().map(|(_, next)| *next)
    }
}

use AlertState::{Firing, Resolved};

#[test]
fn alerts_of_a_device_go_together_and_are_committed_when_delivered() {
    let mut bench = Bench::new(Receiver::Webhook, GroupBy::Device);
    bench.say("a", Firing);
    bench.wait(2);
    bench.say("b", Firing);
    assert!(bench.take().is_none());
    bench.wait(3);
    let post = bench.take().unwrap();
    assert_eq!((post.items.len(), bench.committable()), (2, None));
    bench.say("c", Firing);
    bench.wait(60);
    assert!(bench.take().is_none(), "the same device has something under way");
    bench.end(post, Fate::Delivered);
    assert_eq!(bench.committable(), Some(2));
    assert_eq!(bench.sent(), ["c"]);
    assert_eq!((bench.committable(), bench.desk.is_idle()), (Some(3), true));
}

#[test]
fn without_groups_each_alert_goes_at_once_and_in_order() {
    let mut bench = Bench::new(Receiver::Webhook, GroupBy::None);
    bench.say("a", Firing);
    bench.say("a", Resolved);
    bench.say("b", Firing);
    let [first, second] = [bench.take().unwrap(), bench.take().unwrap()];
    assert_eq!((&*first.key, &*second.key), ("alert/a", "alert/b"));
    assert!(bench.take().is_none(), "a's resolution waits for its beginning");
    bench.end(second, Fate::Delivered);
    bench.end(first, Fate::GivenUp);
    assert_eq!(bench.sent(), ["a-"]);
    assert_eq!(bench.committable(), Some(3));
}

#[test]
fn what_is_silenced_is_not_sent_and_neither_is_its_end() {
    let mut bench = Bench::new(Receiver::Webhook, GroupBy::None);
    bench.silence();
    bench.say("a", Firing);
    assert_eq!((bench.sent().len(), bench.committable()), (0, Some(1)));
    bench.say("a", Resolved);
    assert_eq!((bench.sent().len(), bench.committable()), (0, Some(2)));
    assert_eq!(bench.desk.take_held_back(), HeldBack { silenced: 2, acknowledged: 0 });
    bench.unsilence();
    assert_eq!(bench.sent(), [""; 0]);
}

#[test]
fn what_still_fires_when_its_silence_ends_is_sent_then() {
    for receiver in [Receiver::Webhook, Receiver::Alertmanager] {
        let mut bench = Bench::new(receiver, GroupBy::None);
        bench.silence();
        bench.say("a", Firing);
        assert_eq!(bench.sent(), [""; 0]);
        bench.unsilence();
        assert_eq!(bench.sent(), ["a"]);
        bench.say("a", Resolved);
        assert_eq!(bench.sent(), ["a-"]);
    }
}

#[test]
fn the_end_of_what_was_sent_is_sent_through_a_silence() {
    let mut bench = Bench::new(Receiver::Webhook, GroupBy::None);
    bench.say("a", Firing);
    assert_eq!(bench.sent(), ["a"]);
    bench.silence();
    bench.say("a", Firing);
    assert_eq!(bench.sent(), [""; 0], "a repetition is silenced");
    bench.say("a", Resolved);
    assert_eq!(bench.sent(), ["a-"]);
}

#[test]
fn an_acknowledged_episode_is_sent_again_only_when_it_ends() {
    let mut bench = Bench::new(Receiver::Webhook, GroupBy::None);
    bench.say("a", Firing);
    assert_eq!(bench.sent(), ["a"]);
    bench.control("ack/a", Some("{}"));
    bench.say("a", Firing);
    assert_eq!((bench.sent().len(), bench.committable()), (0, Some(2)));
    bench.say("a", Resolved);
    assert_eq!(bench.sent(), ["a-"]);
    assert_eq!(bench.desk.take_held_back(), HeldBack { silenced: 0, acknowledged: 1 });
}

#[test]
fn an_alertmanager_is_reminded_of_what_fires_whatever_is_silenced_meanwhile() {
    let mut bench = Bench::new(Receiver::Alertmanager, GroupBy::Device);
    bench.say("a", Firing);
    bench.say("b", Firing);
    assert_eq!(bench.sent(), ["a", "b"]);
    bench.silence();
    bench.control("ack/b", Some("{}"));
    bench.say("a", Firing);
    assert_eq!(bench.sent(), ["a"], "it knows of it");
    bench.wait(60);
    assert_eq!(bench.sent(), ["a*", "b*"]);
    bench.say("b", Resolved);
    bench.wait(60);
    assert_eq!(bench.sent(), ["b-", "a*"]);
}

#[test]
fn an_alertmanager_tells_alerts_apart_by_severity_so_the_former_one_ends() {
    let mut bench = Bench::new(Receiver::Alertmanager, GroupBy::Device);
    bench.say("a", Firing);
    assert_eq!(bench.sent(), ["a"]);
    bench.read(&DeviceAlert { severity: 3, ..alert("a", Firing) });
    assert_eq!(bench.sent(), ["a!", "a"]);
    // The end is said of the severity it is known by.
    bench.read(&DeviceAlert { severity: 2, ..alert("a", Resolved) });
    assert_eq!(bench.take().unwrap().items[0].severity, 3);
}

#[test]
fn what_an_alertmanager_refuses_it_is_not_reminded_of() {
    let mut bench = Bench::new(Receiver::Alertmanager, GroupBy::Device);
    bench.say("a", Firing);
    let post = bench.take().unwrap();
    bench.end(post, Fate::Refused);
    bench.wait(600);
    assert_eq!((bench.sent().len(), bench.committable()), (0, Some(1)));
    bench.say("b", Firing);
    let post = bench.take().unwrap();
    bench.end(post, Fate::GivenUp);
    bench.wait(60);
    assert_eq!(bench.sent(), ["b*"], "given up is not refused");
}

#[test]
fn what_fired_before_this_process_is_remembered() {
    for (receiver, is_old, silenced, expected) in [
        (Receiver::Alertmanager, false, false, &["a*"][..]),
        (Receiver::Webhook, false, false, &[]),
        (Receiver::Alertmanager, true, false, &["a"]),
        (Receiver::Webhook, true, false, &["a"]),
        (Receiver::Webhook, false, true, &["a"]),
    ] {
        let mut bench = Bench::new(receiver, GroupBy::None);
        if silenced {
            // It held when the alert was written, and ended while nobody ran.
            bench.control("silence/s", Some(r#"{"until": "2026-09-21T14:00:00Z"}"#));
        }
        let notice = crate::notice::tests::firing("a", 0);
        let former = Former { notice, written_ms: NOW_MS - 3_600_000, is_old };
        bench.desk.restore(&former, &bench.controls.clone(), NOW_MS, bench.now);
        bench.desk.end_silences(&bench.controls, NOW_MS, bench.now);
        assert_eq!(bench.sent(), expected, "{receiver} {is_old} {silenced}");
    }
}

#[test]
fn a_malformed_record_holds_the_offset_until_its_letter_is_stored() {
    let mut bench = Bench::new(Receiver::Webhook, GroupBy::None);
    for payload in [&b"{"[..], b"{}", b""] {
        let Read::Malformed(letter) = bench.desk.read(PART, bench.next, None, payload, bench.now) else {
            panic!("{payload:?} is no alert")
        };
        assert_eq!((letter.reason, bench.committable()), (Reason::Undecodable, None));
        bench.desk.lettered(&letter);
        bench.next += 1;
        assert_eq!(bench.committable(), Some(bench.next));
        bench.desk.ledger.committed(&[(PART, bench.next)]);
    }
    assert!(bench.desk.is_idle());
}

#[test]
fn what_waits_is_bounded_and_a_partition_that_goes_takes_it_along() {
    let mut bench = Bench::new(Receiver::Webhook, GroupBy::Device);
    bench.desk.rules.records_max = 4;
    (0..4).for_each(|id| bench.say(&id.to_string(), Firing));
    assert!(!bench.desk.has_room());
    bench.desk.revoke(PART);
    assert!(bench.desk.has_plenty_of_room() && bench.desk.is_idle());
    assert_eq!(bench.desk.firing(), (0, 0));
    bench.wait(60);
    assert!(bench.take().is_none());
}

proptest! {
    /// Whatever is said, silenced and delivered in whatever order: each record comes to one end, in the order of its
    /// episode, and the offset that is committed never passes one that has not.
    #[test]
    fn every_record_comes_to_one_end_before_it_is_committed(
        steps in proptest::collection::vec((0u8..10, 0u8..5), 1..200),
        manager in any::<bool>(),
        by in prop_oneof![Just(GroupBy::Device), Just(GroupBy::Rule), Just(GroupBy::None)],
    ) {
        let receiver = if manager { Receiver::Alertmanager } else { Receiver::Webhook };
        let mut bench = Bench::new(receiver, by);
        let (mut under_way, mut held) = (Vec::<Post>::new(), BTreeSet::new());
        let mut order: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let mut note = |post: &Post, ledger: &Ledger, held: &mut BTreeSet<i64>| {
            for item in post.items.iter().filter(|item| item.why == Why::News) {
                let offset = item.notice.source.offset;
                order.entry(item.notice.alert.id.clone()).or_default().push(offset);
                // What is sent after a silence was done with before.
                held.extend(ledger.is_pending(&item.notice.source).then_some(offset));
            }
        };
        for (step, which) in steps {
            match step {
                0..=2 => bench.say(&which.to_string(), Firing),
                3 => bench.say(&which.to_string(), Resolved),
                4 => bench.wait(4),
                5 => bench.silence(),
                6 => bench.unsilence(),
                7 => bench.control(&format!("ack/{which}"), Some("{}")),
                8 => {
                    if let Some(post) = bench.take() {
                        note(&post, &bench.desk.ledger, &mut held);
                        under_way.push(post);
                    }
                }
                _ if under_way.is_empty() => {}
                _ => {
                    let post = under_way.swap_remove(usize::from(which) % under_way.len());
                    held.retain(|offset| post.items.iter().all(|item| item.notice.source.offset != *offset));
                    bench.end(post, [Fate::Delivered, Fate::GivenUp, Fate::Refused][usize::from(which) % 3]);
                }
            }
            prop_assert!(held.first().is_none_or(|first| bench.front() <= *first));
        }
        bench.wait(600);
        while !under_way.is_empty() || !bench.desk.is_idle() {
            while let Some(post) = bench.take() {
                note(&post, &bench.desk.ledger, &mut held);
                under_way.push(post);
            }
            let Some(post) = under_way.pop() else { break };
            bench.end(post, Fate::Delivered);
        }
        prop_assert!(bench.desk.is_idle());
        prop_assert_eq!(bench.desk.waiting(), (0, 0));
        prop_assert_eq!(bench.committable().unwrap_or(0), bench.next);
        for (id, offsets) in order {
            prop_assert!(offsets.is_sorted(), "{} was sent out of order: {:?}", id, offsets);
        }
    }
}
