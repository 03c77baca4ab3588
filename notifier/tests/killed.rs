//! The real program is killed with -9 between delivery and commit, again and again: alerts may come twice, none is
//! missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_notifier::Receiver;
use penstock_proto::topics::DELIVERY_FAILURES;
use penstock_proto::v1::AlertState;
use penstock_service::Config;
use tempfile::TempDir;

use support::{Answer, Hook, World, alert, until};

/// The program, killed when dropped.
struct Program(Child, #[allow(dead_code, reason = "it is deleted with the program")] TempDir);

impl Program {
    fn start(config: &Config) -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap().join("penstock");
        assert!(program.exists(), "{} is missing: cargo build --bin penstock", program.display());
        let dir = tempfile::tempdir().unwrap();
        let notify = &config.notify;
        let text = format!(
            "kafka.brokers = {:?}\nkafka.topic_prefix = {:?}\ntelemetry.admin_listen = \"127.0.0.1:0\"\n[notify]\n\
             alertmanager_url = {:?}\nwebhook_url = {:?}\ngroup = {:?}\ngroup_by = \"none\"\nsession_timeout_ms = 6000\n",
            config.kafka.brokers,
            config.kafka.topic_prefix,
            notify.alertmanager_url,
            notify.webhook_url,
            notify.group,
        );
        let file = dir.path().join("penstock.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.args(["run", "notify", "--config"]).arg(file).stdin(Stdio::null()).stderr(Stdio::null());
        die_with_parent(&mut command);
        Self(command.spawn().unwrap(), dir)
    }

    fn kill(&mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGKILL).unwrap();
        assert!(!self.0.wait().unwrap().success());
    }

    fn end(&mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[allow(unsafe_code, reason = "only between fork and exec can a child ask to die with its parent")]
fn die_with_parent(command: &mut Command) {
    let ask = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this makes one, prctl.
    unsafe { command.pre_exec(ask) };
}

#[test]
fn a_role_that_is_killed_between_delivery_and_commit_delivers_again_and_misses_nothing() {
    const ROUNDS: u32 = 4;
    const ALERTS: u32 = 200;
    let world = World::new();
    let (manager, webhook) =
        (Hook::start(&world, &[], Answer::Status(200)), Hook::start(&world, &[], Answer::Hang));
    let mut config = world.config();
    config.notify.alertmanager_url = manager.url.clone();
    config.notify.webhook_url = webhook.url.clone();
    // At first the webhook has read requests and answers none; then it answers, and kills come in the middle.
    for round in 0..ROUNDS {
        let mut program = Program::start(&config);
        let alerts: Vec<_> = (round * ALERTS..(round + 1) * ALERTS)
            .map(|number| alert(&number.to_string(), number, AlertState::Firing))
            .collect();
        let (came, taken) = (webhook.came().len(), webhook.taken().len());
        world.say_all(&alerts);
        if round == 0 {
            until("requests are under way", || webhook.came().len() > came + 4);
            webhook.usually(Answer::Status(200));
        } else {
            until("some are delivered", || webhook.taken().len() > taken + 20);
        }
        program.kill();
    }
    let mut program = Program::start(&config);
    world.until_committed(&config, Receiver::Webhook);
    world.until_committed(&config, Receiver::Alertmanager);
    program.end();
    let expected: BTreeSet<_> = (0..ROUNDS * ALERTS).map(|number| number.to_string()).collect();
    for (name, hook) in [("webhook", &webhook), ("alertmanager", &manager)] {
        let taken = hook.taken();
        let distinct: BTreeSet<_> = taken.iter().cloned().collect();
        let missing: Vec<_> = expected.difference(&distinct).collect();
        assert!(missing.is_empty(), "{name} has missed {missing:?}");
        assert_eq!(distinct.len(), expected.len(), "{name}");
        println!("{name}: {} alerts, {} deliveries", distinct.len(), taken.len());
    }
    // The fault was there: what a killed process had sent was sent again.
    let requests = webhook.came().len();
    assert!(requests > expected.len(), "{requests} requests");
    assert_eq!(world.records(DELIVERY_FAILURES).len(), 0);
}
