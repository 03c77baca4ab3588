//! Real servers through their whole life. Each test has its own, because it kills them.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is the failure of the test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use penstock_devstack::dev::{self, DevOptions, DownOptions, Health};
use penstock_devstack::{
    ClickHouse, ClickHouseOptions, Error, Kafka, KafkaOptions, Stack, StackOptions, Stopped,
};

const DEADLINE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process has this id; a zombie is one too, so children have to be reaped to be gone.
fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn count(clickhouse: &ClickHouse, what: &str) -> u64 {
    clickhouse.query(&format!("SELECT count() FROM {what}")).unwrap().trim().parse().unwrap()
}

/// 10,000 rows in one HTTP request.
fn insert_rows(clickhouse: &ClickHouse, table: &str, first: u64) {
    let rows: String = (first..first + 10_000).map(|n| format!("{n}\trow {n}\n")).collect();
    clickhouse.query(&format!("INSERT INTO {table} FORMAT TabSeparated\n{rows}")).unwrap();
}

fn create_table(clickhouse: &ClickHouse) {
    clickhouse.query("CREATE DATABASE d").unwrap();
    clickhouse.query("CREATE TABLE d.t (n UInt64, s String) ENGINE = MergeTree ORDER BY n").unwrap();
}

#[test]
fn a_stack_is_ready_and_stops_in_order_and_leaves_no_directory() {
    let stack = Stack::start(&StackOptions::default()).unwrap();
    let dirs = [stack.kafka.dir().unwrap().to_owned(), stack.clickhouse.dir().unwrap().to_owned()];
    let pids = [stack.kafka.pid().unwrap(), stack.clickhouse.pid().unwrap()];
    assert_eq!(stack.clickhouse.query("SELECT 40 + 2").unwrap(), "42\n");
    assert!(stack.kafka.log_tail(500).contains("Kafka Server started"), "{}", stack.kafka.log_tail(500));
    assert_eq!(stack.clickhouse.stop().unwrap(), Stopped::InOrder);
    assert_eq!(stack.kafka.stop().unwrap(), Stopped::InOrder);
    assert!(!stack.kafka.is_running() && !stack.clickhouse.is_running());
    drop(stack);
    assert!(pids.iter().all(|&pid| !exists(pid)));
    assert!(dirs.iter().all(|dir| !dir.exists()));
}

#[test]
fn clickhouse_keeps_its_data_and_ports_over_kill_9_and_over_a_stop() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).unwrap();
    let (url, native_port) = (clickhouse.http_url(), clickhouse.native_port());
    create_table(&clickhouse);
    insert_rows(&clickhouse, "d.t", 0);
    let before = clickhouse.pid().unwrap();
    clickhouse.kill_9().unwrap();
    assert!(!clickhouse.is_running() && !exists(before));
    clickhouse.restart().unwrap();
    assert_ne!(clickhouse.pid().unwrap(), before);
    assert_eq!(count(&clickhouse, "d.t"), 10_000);
    insert_rows(&clickhouse, "d.t", 10_000);
    assert_eq!(clickhouse.stop().unwrap(), Stopped::InOrder);
    clickhouse.restart().unwrap();
    assert_eq!(count(&clickhouse, "d.t"), 20_000);
    assert_eq!((clickhouse.http_url(), clickhouse.native_port()), (url, native_port));
}

#[test]
fn kafka_is_ready_again_after_kill_9_on_the_same_ports() {
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    let brokers = kafka.brokers();
    kafka.kill_9().unwrap();
    assert!(!kafka.is_running());
    assert!(matches!(kafka.kill_9(), Err(Error::NotRunning { .. })));
    kafka.restart().unwrap();
    assert_eq!(kafka.brokers(), brokers);
    let external = Kafka::external(brokers).unwrap();
    assert!(external.is_running());
    assert!(matches!(external.kill_9(), Err(Error::NotOurs { .. })));
    kafka.kill_9().unwrap();
    assert!(!external.is_running());
}

#[test]
fn a_paused_kafka_does_not_answer_and_a_resumed_one_does() {
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    let external = Kafka::external(kafka.brokers()).unwrap();
    kafka.pause().unwrap();
    assert!(kafka.is_running() && !external.is_running());
    kafka.resume().unwrap();
    // The broker's session has run out meanwhile, so it may be fenced for a moment.
    wait_until("it answers", || external.is_running());
    assert_eq!(kafka.stop().unwrap(), Stopped::InOrder);
}

#[test]
fn a_paused_clickhouse_does_not_answer_and_a_resumed_one_does() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).unwrap();
    clickhouse.pause().unwrap();
    assert!(clickhouse.is_running());
    clickhouse.query("SELECT 1").unwrap_err();
    clickhouse.resume().unwrap();
    assert_eq!(clickhouse.query("SELECT 1").unwrap(), "1\n");
    let external = ClickHouse::external(clickhouse.http_url()).unwrap();
    assert!(matches!(external.pause(), Err(Error::NotOurs { .. })));
}

#[test]
fn clickhouse_serves_many_at_once_and_merges_in_the_background() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).unwrap();
    create_table(&clickhouse);
    thread::scope(|scope| {
        for n in 0..16 {
            let clickhouse = &clickhouse;
            scope.spawn(move || {
                insert_rows(clickhouse, "d.t", n * 10_000);
                let sum = clickhouse.query("SELECT sum(cityHash64(number)) FROM numbers(100000)").unwrap();
                assert!(!sum.is_empty());
            });
        }
    });
    assert_eq!(count(&clickhouse, "d.t"), 160_000);
    wait_until("parts are merged", || count(&clickhouse, "system.parts WHERE table = 't' AND active") < 16);
    clickhouse
        .query("INSERT INTO d.t SETTINGS async_insert = 1, wait_for_async_insert = 1 VALUES (1, 'a')")
        .unwrap();
    assert_eq!(count(&clickhouse, "d.t"), 160_001);
}

#[test]
fn queries_are_seen_and_killed_and_the_server_survives_a_kill_of_all_of_them() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).unwrap();
    let long = "SELECT 'long', sum(sleepEachRow(1)) FROM numbers(600) SETTINGS max_block_size = 1, \
                function_sleep_max_microseconds_per_block = 0";
    thread::scope(|scope| {
        let killed = scope.spawn(|| clickhouse.query(long));
        wait_until("the query is seen", || {
            count(&clickhouse, "system.processes WHERE query LIKE 'SELECT \\'long\\'%'") == 1
        });
        clickhouse.query("KILL QUERY WHERE query_id != queryID()").unwrap();
        let error = killed.join().unwrap().unwrap_err();
        assert!(error.contains("QUERY_WAS_CANCELLED"), "{error}");
    });
    assert_eq!(clickhouse.query("SELECT 1").unwrap(), "1\n");
    assert_eq!(clickhouse.stop().unwrap(), Stopped::InOrder);
}

const HELPER: &str = "PENSTOCK_LIFECYCLE_HELPER";

/// Not a test: the process that the next test kills.
#[test]
#[ignore = "run by servers_end_when_the_process_which_started_them_is_killed"]
fn helper_which_starts_a_stack_and_waits() {
    if std::env::var_os(HELPER).is_none() {
        return;
    }
    let stack = Stack::start(&StackOptions::default()).unwrap();
    println!("\npids {} {}", stack.kafka.pid().unwrap(), stack.clickhouse.pid().unwrap());
    loop {
        thread::park();
    }
}

#[test]
fn servers_end_when_the_process_which_started_them_is_killed() {
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "helper_which_starts_a_stack_and_waits"])
        .env(HELPER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(helper.stdout.take().unwrap());
    let line = output.lines().map_while(Result::ok).find(|line| line.starts_with("pids ")).unwrap();
    let pids: Vec<i32> = line.split_whitespace().skip(1).map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|&pid| exists(pid)), "{line}");
    helper.kill().unwrap();
    helper.wait().unwrap();
    wait_until("both servers are gone", || !pids.iter().any(|&pid| exists(pid)));
}

fn dev_options(dir: &Path) -> DevOptions {
    DevOptions { dir: Some(dir.into()), free_ports: true, kafka_heap_mib: 512, ..DevOptions::default() }
}

/// Ends what a failed assertion would leave behind.
struct DownOnDrop<'a>(&'a Path);

impl Drop for DownOnDrop<'_> {
    fn drop(&mut self) {
        let _ = dev::down(&DownOptions { dir: Some(self.0.into()), ..DownOptions::default() });
    }
}

#[test]
fn dev_servers_go_up_survive_one_dying_and_go_down() {
    let dir = tempfile::tempdir().unwrap();
    let options = dev_options(dir.path());
    assert_eq!(dev::status(options.dir.clone()).unwrap().kafka.health, Health::Down);
    let _guard = DownOnDrop(dir.path());
    let first = dev::up(&options).unwrap();
    assert!(first.started_kafka && first.started_clickhouse);
    assert_eq!((first.status.kafka.health, first.status.clickhouse.health), (Health::Ready, Health::Ready));
    let clickhouse = ClickHouse::external(first.status.clickhouse.address.clone().unwrap()).unwrap();
    create_table(&clickhouse);
    insert_rows(&clickhouse, "d.t", 0);

    let died = first.status.clickhouse.pid.unwrap();
    assert!(Command::new("kill").args(["-9", &died.to_string()]).status().unwrap().success());
    wait_until("its death is seen", || {
        dev::status(options.dir.clone()).unwrap().clickhouse.health == Health::Died
    });
    let second = dev::up(&options).unwrap();
    assert!(!second.started_kafka && second.started_clickhouse);
    assert_eq!(second.status.kafka.pid, first.status.kafka.pid);
    assert_eq!(second.status.clickhouse.address, first.status.clickhouse.address);
    assert_eq!(count(&clickhouse, "d.t"), 10_000);

    let down = dev::down(&DownOptions { dir: options.dir.clone(), ..DownOptions::default() }).unwrap();
    assert_eq!((down.kafka, down.clickhouse), (Stopped::InOrder, Stopped::InOrder));
    assert_eq!(dev::status(options.dir.clone()).unwrap().clickhouse.health, Health::Down);
    assert!(dir.path().join("clickhouse/data").exists());
    let again = DownOptions { dir: options.dir, remove_data: true, ..DownOptions::default() };
    assert_eq!(dev::down(&again).unwrap().kafka, Stopped::WasNotRunning);
    let left: BTreeSet<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, BTreeSet::from(["lock".into()]));
}

#[test]
fn dev_up_names_a_taken_port_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let options = DevOptions { free_ports: false, kafka_port: port, ..dev_options(dir.path()) };
    let error = dev::up(&options).unwrap_err();
    assert!(matches!(error, Error::PortBusy { port: busy, .. } if busy == port), "{error}");
    assert_eq!(dev::status(options.dir).unwrap().kafka.health, Health::Down);
}
