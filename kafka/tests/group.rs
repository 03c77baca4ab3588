//! Consumer groups on a real Kafka: rebalances are handed out and applied only when they are answered, nothing is lost
//! or read twice by members that behave, and the last revocation comes out before the group is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use penstock_kafka::{Consumer, ConsumerSettings, KafkaError, Polled, TopicPartition};

const PARTITIONS: i32 = 6;

#[test]
fn partitions_move_between_members_without_losing_or_repeating_a_record() {
    const PER_ROUND: u32 = 20;
    let name = topic("rebalance", PARTITIONS);
    let group = unique("group");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (name, stop) = (name.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            let producer = producer();
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                fill(&producer, &name, PARTITIONS, written, PER_ROUND);
                written += PER_ROUND;
            }
            written as usize * PARTITIONS as usize
        })
    };
    let mut first = Member::join(&group, &name);
    first.until("the first member has all partitions", |member| member.assigned.len() == 6);
    let mut second = Member::join(&group, &name);
    let begin = Instant::now();
    while first.assigned.len() != 3 || second.seen.len() < 100 {
        assert!(begin.elapsed() < PATIENCE, "the second member gets no share");
        first.step();
        second.step();
    }
    assert!(first.revocations > 0 && first.assigned.is_disjoint(&second.assigned));
    let leaving = thread::spawn(move || {
        second.leave();
        second.seen
    });
    first.until("the first member has all partitions again", |member| member.assigned.len() == 6);
    let mut seen = leaving.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    let total = writer.join().unwrap();
    let others = seen.len();
    first.until("all records are read", |member| member.seen.len() + others >= total);
    seen.append(&mut first.seen);
    first.leave();

    let mut counts = BTreeMap::new();
    for (partition, offset, payload) in &seen {
        assert_eq!(offset.to_string(), *payload);
        *counts.entry((*partition, *offset)).or_insert(0) += 1;
    }
    let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(repeated.is_empty(), "read twice: {repeated:?}");
    assert_eq!(counts.len(), total);
}

#[test]
fn an_eager_assignor_can_be_configured() {
    let name = topic("eager", 4);
    let group = unique("group");
    fill(&producer(), &name, 4, 0, 5);
    let join = || {
        let mut settings = client();
        settings.properties.insert("partition.assignment.strategy".into(), "range".into());
        Member::with(Consumer::subscribe(&settings, &group_settings(&group, &name)).unwrap())
    };
    let mut first = join();
    first.until("everything is read", |member| member.seen.len() == 20);
    let mut second = join();
    let begin = Instant::now();
    while first.assigned.len() != 2 || second.assigned.len() != 2 {
        assert!(begin.elapsed() < PATIENCE, "the partitions are not shared");
        first.step();
        second.step();
    }
    second.leave();
    first.until("the first member has all partitions again", |member| member.assigned.len() == 4);
    first.leave();
    assert!(second.seen.is_empty(), "what the first member committed is not read again");
}

#[test]
fn nothing_is_read_before_an_assignment_is_answered() {
    let name = topic("deferred", 2);
    fill(&producer(), &name, 2, 0, 10);
    let mut consumer = Consumer::subscribe(&client(), &group_settings(&unique("group"), &name)).unwrap();
    let partitions = assignment(&mut consumer);
    for _ in 0..20 {
        let polled = consumer.poll(100, Duration::from_millis(50)).unwrap();
        assert!(matches!(polled, Polled::Idle), "{polled:?}");
    }
    consumer.assign_done(&partitions).unwrap();
    assert_eq!(read(&mut consumer, 20).len(), 20);
}

#[test]
fn an_assignment_can_be_taken_up_at_other_offsets() {
    let name = topic("assign-at", 1);
    fill(&producer(), &name, 1, 0, 10);
    let mut consumer = Consumer::subscribe(&client(), &group_settings(&unique("group"), &name)).unwrap();
    let partitions = assignment(&mut consumer);
    consumer.assign_done_at(&[(partitions[0].clone(), 7)]).unwrap();
    assert_eq!(read(&mut consumer, 3), [(0, 7), (0, 8), (0, 9)]);
}

#[test]
fn reading_resumes_at_the_committed_offsets() {
    let name = topic("resume", 2);
    let group = unique("group");
    fill(&producer(), &name, 2, 0, 10);
    let offsets = [(TopicPartition::new(name.as_str(), 0), 4), (TopicPartition::new(name.as_str(), 1), 9)];
    let partitions = offsets.clone().map(|(partition, _)| partition);

    let mut first = Member::join(&group, &name);
    first.until("everything is read", |member| member.seen.len() == 20);
    assert_eq!(
        first.consumer.committed(&partitions, PATIENCE).unwrap(),
        partitions.clone().map(|partition| (partition, None)),
        "nothing is committed by itself"
    );
    first.consumer.commit_async(&offsets).unwrap();
    first.until("the commit is done", |member| member.consumer.commit_counts().done == 1);
    first.next.clear();
    first.leave();

    let mut second = Member::join(&group, &name);
    second.until("the rest is read", |member| member.seen.len() == 7);
    let found: BTreeSet<_> = second.seen.iter().map(|(partition, offset, _)| (*partition, *offset)).collect();
    assert_eq!(found, BTreeSet::from([(0, 4), (0, 5), (0, 6), (0, 7), (0, 8), (0, 9), (1, 9)]));
    assert_eq!(
        second.consumer.committed(&partitions, PATIENCE).unwrap(),
        offsets.map(|(partition, offset)| (partition, Some(offset)))
    );
    second.leave();
}

#[test]
fn paused_partitions_are_not_read_until_they_are_resumed() {
    let name = topic("pause", 2);
    let producer = producer();
    fill(&producer, &name, 2, 0, 5);
    let mut member = Member::join(&unique("group"), &name);
    member.until("everything is read", |member| member.seen.len() == 10);
    let paused = [TopicPartition::new(name.as_str(), 0)];
    member.consumer.pause(&paused).unwrap();
    fill(&producer, &name, 2, 5, 5);
    member.until("the other partition is read", |member| member.seen.len() == 15);
    for _ in 0..10 {
        member.step();
    }
    assert_eq!(member.seen.iter().filter(|(partition, ..)| *partition == 0).count(), 5);
    member.consumer.resume(&paused).unwrap();
    member.until("the paused partition is read", |member| member.seen.len() == 20);
    let offsets = member.seen.iter().filter(|(partition, ..)| *partition == 0).map(|(_, offset, _)| *offset);
    assert_eq!(offsets.collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
}

/// A consumer that is told of ends by events would pass over the next record here.
#[test]
fn a_partition_that_is_paused_at_its_end_goes_on_with_the_next_record() {
    let name = topic("end", 1);
    let producer = producer();
    let mut member = Member::join(&unique("group"), &name);
    let partition = TopicPartition::new(name.as_str(), 0);
    for count in 0..5 {
        fill(&producer, &name, 1, count, 1);
        member.until("the record is read", |member| member.seen.len() == count as usize + 1);
        for _ in 0..5 {
            member.step();
        }
        assert_eq!(member.consumer.passed(&partition), Some(i64::from(count) + 1));
        member.consumer.pause(std::slice::from_ref(&partition)).unwrap();
        member.consumer.resume(std::slice::from_ref(&partition)).unwrap();
    }
    assert_eq!(member.seen.iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    member.leave();
}

#[test]
fn seeking_reads_again_and_watermarks_tell_the_lag() {
    let name = topic("seek", 1);
    fill(&producer(), &name, 1, 0, 10);
    let mut member = Member::join(&unique("group"), &name);
    member.until("everything is read", |member| member.seen.len() == 10);
    let partition = TopicPartition::new(name.as_str(), 0);
    assert_eq!(member.consumer.watermarks(&partition, PATIENCE).unwrap(), (0, 10));
    assert_eq!(member.consumer.cached_watermarks(&partition), Some((0, 10)));
    assert_eq!(member.consumer.cached_watermarks(&TopicPartition::new("absent", 0)), None);
    member.consumer.seek(&[(partition.clone(), 8)], PATIENCE).unwrap();
    member.until("two records are read again", |member| member.seen.len() == 12);
    assert_eq!(member.seen[10..].iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>(), [8, 9]);
    let later = i64::MAX / 2;
    let found = member.consumer.offsets_for_times(&[(partition.clone(), 0)], PATIENCE).unwrap();
    assert_eq!(found, [(partition.clone(), Some(0))]);
    let found = member.consumer.offsets_for_times(&[(partition.clone(), later)], PATIENCE).unwrap();
    assert_eq!(found, [(partition, None)]);
}

#[test]
fn a_member_without_partitions_leaves_the_group_as_well() {
    let name = topic("close", 1);
    let group = unique("group");
    let mut first = Member::join(&group, &name);
    first.until("the first member has the partition", |member| member.assigned.len() == 1);
    let mut idle = Member::join(&group, &name);
    let begin = Instant::now();
    while !is_stable(&group, 2) {
        assert!(begin.elapsed() < PATIENCE, "the group does not become stable");
        first.step();
        idle.step();
    }
    assert_eq!((first.assigned.len(), idle.assigned.len()), (1, 0));
    let begin = Instant::now();
    idle.leave();
    idle.consumer.begin_close().unwrap();
    first.leave();
    let mut last = Member::join(&group, &name);
    last.until("the last member has the partition", |member| member.assigned.len() == 1);
    assert!(begin.elapsed() < Duration::from_secs(9), "waited for a session to expire");
}

#[test]
fn a_consumer_that_never_joined_closes_as_well() {
    let mut consumer =
        Consumer::subscribe(&client_at("127.0.0.1:1"), &group_settings(&unique("group"), "absent")).unwrap();
    assert!(!consumer.is_closed());
    let begin = Instant::now();
    while consumer.last_error().is_none() {
        assert!(begin.elapsed() < PATIENCE, "that nobody answers must be said");
        consumer.poll(1, Duration::from_millis(50)).unwrap();
    }
    assert!(consumer.last_error().is_some_and(KafkaError::is_transient));
    assert_eq!(consumer.leave(begin + PATIENCE).unwrap(), []);
    assert!(consumer.is_closed());
    let dropped =
        Consumer::subscribe(&client_at("127.0.0.1:1"), &group_settings(&unique("group"), "absent")).unwrap();
    drop(dropped);
}

#[test]
fn who_leaves_gives_up_what_was_assigned() {
    let name = topic("leave", 3);
    let group = unique("group");
    let mut consumer = Consumer::subscribe(&client(), &group_settings(&group, &name)).unwrap();
    let mut partitions = assignment(&mut consumer);
    consumer.assign_done(&partitions).unwrap();
    let mut left = consumer.leave(Instant::now() + PATIENCE).unwrap();
    partitions.sort();
    left.sort();
    assert_eq!((left, consumer.is_closed()), (partitions, true));
    assert_eq!(consumer.leave(Instant::now()).unwrap(), [], "a second time there is nothing to leave");
}

#[test]
fn closing_while_an_assignment_is_unanswered_still_ends() {
    let name = topic("close-open", 2);
    let mut consumer = Consumer::subscribe(&client(), &group_settings(&unique("group"), &name)).unwrap();
    let partitions = assignment(&mut consumer);
    consumer.begin_close().unwrap();
    consumer.assign_done(&partitions).unwrap();
    let mut member = Member::with(consumer);
    member.assigned.extend(partitions);
    member.until("the group is left", |member| member.consumer.is_closed());
}

#[test]
fn a_dropped_consumer_leaves_the_group() {
    let name = topic("dropped", 2);
    let group = unique("group");
    let mut first = Member::join(&group, &name);
    first.until("the first member has all partitions", |member| member.assigned.len() == 2);
    let mut unanswered = Consumer::subscribe(&client(), &group_settings(&group, &name)).unwrap();
    let begin = Instant::now();
    while first.assigned.len() == 2 {
        assert!(begin.elapsed() < PATIENCE);
        first.step();
        unanswered.poll(1, Duration::from_millis(10)).unwrap();
    }
    drop(first);
    // What was asked of it is not answered either.
    drop(unanswered);
    let mut last = Member::join(&group, &name);
    last.until("the last member has all partitions", |member| member.assigned.len() == 2);
    assert!(begin.elapsed() < Duration::from_secs(9), "waited for a session to expire");
}

#[test]
fn a_member_that_did_not_poll_for_too_long_is_told_that_its_partitions_are_lost() {
    let name = topic("lost", 1);
    fill(&producer(), &name, 1, 0, 3);
    let mut settings = client();
    settings.properties.insert("max.poll.interval.ms".into(), "6000".into());
    let mut group = group_settings(&unique("group"), &name);
    group.session_timeout_ms = 6_000;
    let mut consumer = Consumer::subscribe(&settings, &group).unwrap();
    let partitions = assignment(&mut consumer);
    consumer.assign_done(&partitions).unwrap();
    assert_eq!(read(&mut consumer, 3).len(), 3);
    // This is the fault: nobody polls.
    thread::sleep(Duration::from_secs(7));
    let begin = Instant::now();
    let revoked = loop {
        assert!(begin.elapsed() < PATIENCE);
        if let Polled::Revoked { partitions, lost } = consumer.poll(1, Duration::from_millis(50)).unwrap() {
            assert!(lost);
            break partitions;
        }
    };
    let code =
        |error: &KafkaError| matches!(error, KafkaError::Client { code, .. } if code == "_MAX_POLL_EXCEEDED");
    assert!(consumer.last_error().is_some_and(code), "{:?}", consumer.last_error());
    assert!(consumer.commit_sync(&[(partitions[0].clone(), 3)], Duration::from_secs(5)).is_err());
    assert_eq!(consumer.commit_counts().done, 0);
    consumer.revoke_done(&revoked).unwrap();
    // It joins again and reads again what was not committed.
    let partitions = assignment(&mut consumer);
    consumer.assign_done(&partitions).unwrap();
    assert_eq!(read(&mut consumer, 3).len(), 3);
}

#[test]
fn a_member_whose_name_another_took_is_told_that_it_is_over() {
    let name = topic("fenced", 1);
    let mut settings = group_settings(&unique("group"), &name);
    settings.instance_id = Some("writer-1".into());
    let mut first = Member::with(Consumer::subscribe(&client(), &settings).unwrap());
    first.until("the partition is assigned", |member| member.assigned.len() == 1);
    let mut second = Member::with(Consumer::subscribe(&client(), &settings).unwrap());
    second.until("the partition is assigned to its successor", |member| member.assigned.len() == 1);
    let begin = Instant::now();
    let error = loop {
        assert!(begin.elapsed() < PATIENCE);
        if let Err(error) = first.consumer.poll(1, Duration::from_millis(50)).map(drop) {
            break error;
        }
    };
    assert!(matches!(&error, KafkaError::Client { fatal: true, .. }), "{error:?}");
    assert!(!error.is_transient());
    assert!(first.consumer.is_closed());
}

#[test]
fn a_member_with_a_name_keeps_its_partitions_while_it_restarts() {
    let name = topic("static", 2);
    let group = unique("group");
    let join = |instance_id: &str| {
        let settings =
            ConsumerSettings { instance_id: Some(instance_id.into()), ..group_settings(&group, &name) };
        Member::with(Consumer::subscribe(&client(), &settings).unwrap())
    };
    let (mut first, mut second) = (join("writer-1"), join("writer-2"));
    let begin = Instant::now();
    while first.assigned.len() != 1 || second.assigned.len() != 1 || !is_stable(&group, 2) {
        assert!(begin.elapsed() < PATIENCE, "the partitions are not shared");
        first.step();
        second.step();
    }
    let (owned, revocations) = (first.assigned.clone(), second.revocations);
    first.leave();
    let mut first = join("writer-1");
    while first.assigned.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "the restarted member gets nothing");
        first.step();
        second.step();
    }
    assert_eq!(first.assigned, owned);
    assert_eq!((second.assigned.len(), second.revocations), (1, revocations));
}

/// Whether a group has so many members and none of them is about to be asked for anything.
fn is_stable(group: &str, members: usize) -> bool {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};

    let mut config = rdkafka::ClientConfig::new();
    let asking: BaseConsumer = config.set("bootstrap.servers", KAFKA.brokers()).create().unwrap();
    let found = asking.fetch_group_list(Some(group), PATIENCE).unwrap();
    found.groups().iter().any(|group| group.state() == "Stable" && group.members().len() == members)
}

/// The first assignment, not answered yet.
fn assignment(consumer: &mut Consumer) -> Vec<TopicPartition> {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < PATIENCE, "no assignment: {:?}", consumer.last_error());
        if let Polled::Assigned(partitions) = consumer.poll(1, Duration::from_millis(100)).unwrap() {
            return partitions;
        }
    }
}

/// Partition and offset of the next records.
fn read(consumer: &mut Consumer, count: usize) -> Vec<(i32, i64)> {
    let begin = Instant::now();
    let mut found = Vec::new();
    while found.len() < count {
        assert!(begin.elapsed() < PATIENCE, "only {found:?} of {count} records");
        if let Polled::Records(batch) = consumer.poll(count, Duration::from_millis(100)).unwrap() {
            found.extend(batch.iter().map(|record| (record.partition, record.offset)));
        }
    }
    found
}
