//! How a process is told to stop or to load its files again, and how long it waits for its tasks.
//!
//! Never decides what to stop, or in which order: that is for whoever composes the roles.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The signals of this process, as things that a task can wait for.
#[derive(Clone, Debug)]
pub struct Signals {
    /// Cancelled by the first SIGTERM or SIGINT.
    pub shutdown: CancellationToken,
    /// How often SIGHUP has arrived. Await `changed()` on a clone to load files again; signals that arrive in
    /// quick succession count as one change.
    pub reloads: watch::Receiver<u64>,
}

/// Takes over SIGTERM, SIGINT and SIGHUP. The second SIGTERM or SIGINT ends the process at once with exit
/// code 143 or 130, as if nobody had taken them over.
///
/// Must be called within a tokio runtime, and early: a SIGHUP before it ends the process.
///
/// # Errors
/// The operating system refuses the handlers.
pub fn signals() -> io::Result<Signals> {
    let sources = Sources {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
    };
    let shutdown = CancellationToken::new();
    let (count, reloads) = watch::channel(0);
    // The task lives as long as the runtime: a second signal must be heard in the middle of a shutdown.
    drop(tokio::spawn(listen(sources, shutdown.clone(), count)));
    Ok(Signals { shutdown, reloads })
}

struct Sources {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

async fn listen(mut sources: Sources, shutdown: CancellationToken, reloads: watch::Sender<u64>) {
    loop {
        let (name, code) = tokio::select! {
            Some(()) = sources.terminate.recv() => ("SIGTERM", 143),
            Some(()) = sources.interrupt.recv() => ("SIGINT", 130),
            Some(()) = sources.hangup.recv() => {
                tracing::info!("SIGHUP: loading files again");
                reloads.send_modify(|count| *count += 1);
                continue;
            }
            else => return,
        };
        if shutdown.is_cancelled() {
            tracing::warn!("{name} again: exit at once, without waiting for open work");
            exit(code);
        }
        tracing::info!("{name}: shutting down; once more exits at once");
        shutdown.cancel();
    }
}

#[allow(clippy::disallowed_methods, reason = "the operator has asked twice: no drop guard may delay the end")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

/// What had not finished at the deadline: names of trackers and how many of their tasks were still running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unfinished {
    /// How long was waited.
    pub deadline: Duration,
    /// In the order they were given.
    pub tasks: Vec<(&'static str, usize)>,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not finished after {} ms:", self.deadline.as_millis())?;
        for (index, (name, count)) in self.tasks.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator} {name} ({count} {})", if *count == 1 { "task" } else { "tasks" })?;
        }
        Ok(())
    }
}

/// Closes the trackers and waits until every task in them has ended, at most for `deadline`.
///
/// Tell the tasks to end first; this only waits. It aborts nothing: tasks that are left end with the runtime.
///
/// # Errors
/// The names of the trackers in which tasks were still running, and how many.
pub async fn drain(deadline: Duration, tasks: &[(&'static str, &TaskTracker)]) -> Result<(), Unfinished> {
    for (_, tracker) in tasks {
        tracker.close();
    }
    let all = async {
        for (_, tracker) in tasks {
            tracker.wait().await;
        }
    };
    if tokio::time::timeout(deadline, all).await.is_ok() {
        return Ok(());
    }
    let left = tasks.iter().map(|(name, tracker)| (*name, tracker.len())).filter(|(_, count)| *count > 0);
    let unfinished = Unfinished { deadline, tasks: left.collect() };
    // The last task may have ended between the deadline and the count.
    if unfinished.tasks.is_empty() { Ok(()) } else { Err(unfinished) }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io::{BufRead, BufReader, Lines};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use nix::sys::signal::{Signal::*, kill};
    use nix::unistd::Pid;

    use super::*;

    /// Not a test: the process that the tests below send signals to. It says on standard output what it
    /// heard.
    #[tokio::test]
    #[ignore = "run by the other tests as a process of its own"]
    async fn child_that_says_what_it_heard() {
        let Signals { shutdown, mut reloads } = signals().unwrap();
        println!("\nheard: start");
        for count in 1..=2 {
            reloads.changed().await.unwrap();
            println!("heard: reload {count} {}", *reloads.borrow());
        }
        shutdown.cancelled().await;
        println!("heard: shutdown");
        pending::<()>().await;
    }

    struct Heard {
        child: Child,
        lines: Lines<BufReader<ChildStdout>>,
    }

    impl Heard {
        fn start() -> Self {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([
                "--exact",
                "shutdown::tests::child_that_says_what_it_heard",
                "--ignored",
                "--nocapture",
            ]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut heard = Self { child, lines };
            heard.wait_for("start");
            heard
        }

        fn wait_for(&mut self, what: &str) {
            let wanted = format!("heard: {what}");
            assert!(self.lines.any(|line| line.unwrap() == wanted), "ended without {wanted:?}");
        }

        fn send(&self, signal: nix::sys::signal::Signal) {
            kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        }
    }

    impl Drop for Heard {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn the_second_signal_ends_the_process_at_once() {
        for (first, second, code) in [(SIGTERM, SIGTERM, 143), (SIGTERM, SIGINT, 130), (SIGINT, SIGTERM, 143)]
        {
            let mut process = Heard::start();
            for reload in ["reload 1 1", "reload 2 2"] {
                process.send(SIGHUP);
                process.wait_for(reload);
            }
            process.send(first);
            process.wait_for("shutdown");
            process.send(second);
            assert_eq!(process.child.wait().unwrap().code(), Some(code));
        }
    }

    #[tokio::test]
    async fn drain_waits_for_every_task() {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        for _ in 0..10 {
            tracker.spawn(stop.clone().cancelled_owned());
        }
        stop.cancel();
        drain(Duration::from_secs(60), &[("connections", &tracker)]).await.unwrap();
        assert!(tracker.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_says_what_did_not_finish() {
        let (done, one, two) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        done.spawn(async {});
        one.spawn(pending::<()>());
        two.spawn(pending::<()>());
        two.spawn(pending::<()>());
        let trackers = [("batches", &done), ("writer", &one), ("connections", &two)];
        let unfinished = drain(Duration::from_secs(20), &trackers).await.unwrap_err();
        assert_eq!(
            unfinished.to_string(),
            "not finished after 20000 ms: writer (1 task), connections (2 tasks)"
        );
    }
}
