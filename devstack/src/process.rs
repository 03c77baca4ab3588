//! A process by id and start time (ids are used again, pairs are not), its state in `/proc`, and signals to it.
//! Never signals a process whose start time differs from the one remembered.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const POLL: Duration = Duration::from_millis(10);

/// Identity of a process for as long as the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks from boot to the start of the process: field 22 of `/proc/PID/stat`.
    start_ticks: u64,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u32,
    start_ticks: u64,
}

impl Stat {
    /// A zombie has ended only when its first thread is the last: as long as others are still ending, sockets are
    /// open and ports taken.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

impl ProcessId {
    /// The process which has `pid` now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = read_stat(pid)?;
        Some(Self { pid, start_ticks: stat.start_ticks })
    }

    /// This process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// `<pid>-<start>`, for names of files; read back by [`ProcessId::parse`].
    pub(crate) fn to_name(self) -> String {
        format!("{}-{}", self.pid, self.start_ticks)
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (pid, start_ticks) = name.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
    }

    fn stat(self) -> Option<Stat> {
        read_stat(self.pid).filter(|stat| stat.start_ticks == self.start_ticks)
    }

    /// Whether this very process runs (a zombie does not).
    pub(crate) fn is_alive(self) -> bool {
        self.stat().is_some_and(|stat| !stat.has_ended())
    }

    /// Whether every thread has stopped: the first one may stop before the others do.
    pub(crate) fn is_stopped(self) -> bool {
        let stopped = |stat: &str| parse_stat(stat).is_some_and(|stat| stat.state == 'T');
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
        self.is_alive()
            && threads.is_ok_and(|threads| {
                // A thread which is gone since the listing runs no more.
                threads.flatten().all(|thread| {
                    fs::read_to_string(thread.path().join("stat")).map_or(true, |s| stopped(&s))
                })
            })
    }

    /// Whether its first thread has been told to go on.
    pub(crate) fn has_resumed(self) -> bool {
        self.stat().is_none_or(|stat| stat.state != 'T')
    }

    /// Sends a signal if this very process is alive; false if it is not.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        self.is_alive() && signal::kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// Polls `condition` until it holds or `limit` has passed.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

fn read_stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the program's name in brackets and may itself have blanks and brackets.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, threads, start_ticks })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_mislead() {
        let text = "17 (a) R 1 (x) S 1 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 4242 100 200";
        assert_eq!(parse_stat(text), Some(Stat { state: 'S', threads: 3, start_ticks: 4242 }));
    }

    #[test]
    fn a_zombie_with_threads_that_still_end_has_not_ended() {
        assert!(!Stat { state: 'Z', threads: 2, start_ticks: 1 }.has_ended());
        assert!(Stat { state: 'Z', threads: 1, start_ticks: 1 }.has_ended());
        assert!(!Stat { state: 'S', threads: 1, start_ticks: 1 }.has_ended());
    }

    #[test]
    fn a_reused_pid_is_not_the_same_process_and_is_not_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = ProcessId::of(pid).unwrap();
        let other = ProcessId { start_ticks: process.start_ticks + 1, ..process };
        assert!(!other.is_alive() && !other.signal(Signal::SIGKILL));
        assert!(process.is_alive() && process.signal(Signal::SIGKILL));
        child.wait().unwrap();
        assert!(!process.is_alive() && !process.signal(Signal::SIGKILL));
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(wait_until(Duration::from_secs(10), || !process.is_alive()));
        child.wait().unwrap();
    }

    #[test]
    fn names_can_be_read_back() {
        let own = ProcessId::own().unwrap();
        assert_eq!(ProcessId::parse(&own.to_name()), Some(own));
        assert_eq!(ProcessId::parse("x-1"), None);
    }
}
