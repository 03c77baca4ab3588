//! Faults that every suite has: what is done to a process, a server or a network from beginning to end, and what was seen
//! of it. A fault of which nothing was seen has not been injected.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use penstock_devstack::{Managed, Ports, Stopped};
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::proxy::{Cut, Proxy, ProxyCounts};
use crate::process::Penstock;
use crate::wait::comes_to_hold;

/// SIGTERM is followed within this time, whatever the servers do.
const END: Duration = Duration::from_secs(40);
/// SIGSTOP is.
const STOP: Duration = Duration::from_secs(10);
/// A fault of a network waits this long for somebody to use it, and this long for an effect.
const TRAFFIC: Duration = Duration::from_secs(60);
/// What was seen; or why nothing was.
pub type Seen = Result<String, String>;

/// Does the faults that every suite has.
pub struct Hands<'s> {
    /// How long a fault lasts.
    pub hold: Duration,
    /// Ends it earlier.
    pub cancel: &'s CancellationToken,
    /// What went wrong without a fault that explains it.
    pub unexpected: &'s Mutex<Vec<String>>,
}

impl Hands<'_> {
    fn did_not_expect(&self, what: String) {
        self.unexpected.lock().push(what);
    }

    /// Lets the fault last as long as it is to.
    fn hold(&self) {
        let end = Instant::now() + self.hold;
        self.wait(self.hold, || Instant::now() >= end);
    }

    /// Waits until the condition holds, at most `deadline`.
    pub fn wait(&self, deadline: Duration, condition: impl FnMut() -> bool) -> bool {
        comes_to_hold(deadline, || self.cancel.is_cancelled(), condition)
    }

    /// The process, if it runs; one that has ended by itself is noted.
    fn running(&self, node: &Node) -> Result<Penstock, String> {
        let mut process = node.take().ok_or("it does not run")?;
        match process.exit_status() {
            None => Ok(process),
            Some(status) => {
                self.did_not_expect(format!("{} ended by itself: {status}", node.name));
                Err(format!("it had ended by itself: {status}"))
            }
        }
    }

    /// SIGKILL; starts it again afterwards.
    pub fn kill(&self, node: &Node) -> Seen {
        let killed = self.running(node).and_then(|mut process| {
            let pid = process.pid().as_raw();
            process.kill_9();
            gone(pid)
        });
        self.hold();
        node.start();
        killed
    }

    /// SIGTERM, and it is down on purpose from then on.
    pub fn end(&self, node: &Node) -> Seen {
        let mut process = self.running(node)?;
        // Started a moment ago it may not have taken over signals yet; with its admin port it has.
        comes_to_hold(END, || false, || process.get("/healthz").is_some());
        process.signal(Signal::SIGTERM);
        let begun = Instant::now();
        let mut status = None;
        comes_to_hold(
            END,
            || false,
            || {
                status = process.exit_status();
                status.is_some()
            },
        );
        match status {
            Some(status) if status.success() => {
                Ok(format!("ended in order after {:.1} s", begun.elapsed().as_secs_f64()))
            }
            Some(status) => {
                self.did_not_expect(format!("{} ended after SIGTERM with {status}", node.name));
                Ok(format!("ended with {status}"))
            }
            None => {
                self.did_not_expect(format!("{} did not end within {END:?} of SIGTERM", node.name));
                Err("it did not end".to_owned())
            }
        }
    }

    /// SIGTERM; starts it again when it has ended.
    pub fn restart(&self, node: &Node) -> Seen {
        let ended = self.end(node);
        self.hold();
        node.start();
        ended
    }

    /// SIGSTOP, then SIGCONT.
    pub fn stop(&self, node: &Node) -> Seen {
        let state = || node.with(|process| process.state()).flatten();
        let alive = node.with(|process| process.exit_status().is_none());
        if alive != Some(true) {
            return Err("it does not run".to_owned());
        }
        node.with(|process| process.signal(Signal::SIGSTOP));
        let stopped = self.wait(STOP, || state() == Some('T'));
        self.hold();
        let stayed = state() == Some('T');
        node.with(|process| process.signal(Signal::SIGCONT));
        let resumed = self.wait(STOP, || state() != Some('T'));
        match (stopped, stayed, resumed) {
            (true, true, true) => Ok("stopped, then went on".to_owned()),
            other => Err(format!("stopped, stayed so, went on: {other:?}")),
        }
    }

    /// SIGKILL; starts it again afterwards.
    pub fn kill_server<P: Ports>(&self, server: &Managed<P>) -> Seen {
        let pid = server.pid().ok_or("it does not run")?;
        server.kill_9().map_err(|error| error.to_string())?;
        let killed = gone(pid);
        self.hold();
        server.restart().map_err(|error| error.to_string())?;
        killed
    }

    /// SIGSTOP, then SIGCONT.
    pub fn stop_server<P: Ports>(&self, server: &Managed<P>) -> Seen {
        let pid = server.pid().ok_or("it does not run")?;
        // Returns when every thread has stopped.
        server.pause().map_err(|error| error.to_string())?;
        self.hold();
        let stayed = state(pid) == Some('T');
        server.resume().map_err(|error| error.to_string())?;
        if stayed {
            Ok(format!("pid {pid} stopped, then went on"))
        } else {
            Err("it did not stay stopped".into())
        }
    }

    /// Shuts it down in order, and starts it again.
    pub fn restart_server<P: Ports>(&self, server: &Managed<P>) -> Seen {
        let begun = Instant::now();
        let stopped = server.stop().map_err(|error| error.to_string())?;
        let ended = begun.elapsed().as_secs_f64();
        self.hold();
        server.restart().map_err(|error| error.to_string())?;
        match stopped {
            Stopped::InOrder => Ok(format!("ended in order after {ended:.1} s")),
            other => Err(format!("it was not stopped in order: {other:?}")),
        }
    }

    /// Cuts a network.
    pub fn cut(&self, proxy: &Proxy, cut: Cut) -> Seen {
        let count = |counts: ProxyCounts| match cut {
            Cut::Reset => counts.reset,
            Cut::Silent => counts.held,
        };
        let what = match cut {
            Cut::Reset => "connections were reset",
            Cut::Silent => "chunks and connections were held",
        };
        self.trouble(proxy, count, what, || proxy.cut(cut))
    }

    /// Delays what goes through a network, forth and back.
    pub fn delay(&self, proxy: &Proxy, (forth_ms, back_ms): (u64, u64)) -> Seen {
        let (forth, back) = (Duration::from_millis(forth_ms), Duration::from_millis(back_ms));
        self.trouble(proxy, |counts| counts.delayed_bytes, "bytes were delayed", || proxy.delay(forth, back))
    }

    /// Makes trouble in a network that is used, as long as it is to last and until it has had an effect.
    fn trouble(
        &self,
        proxy: &Proxy,
        count: impl Fn(ProxyCounts) -> u64,
        what: &str,
        make: impl FnOnce(),
    ) -> Seen {
        let before = proxy.counts();
        self.wait(TRAFFIC, || {
            let now = proxy.counts();
            now.open > 0 && now.forwarded_bytes > before.forwarded_bytes
        });
        let before = count(proxy.counts());
        make();
        self.hold();
        let seen = self.wait(TRAFFIC, || count(proxy.counts()) > before);
        proxy.heal();
        let effects = count(proxy.counts()) - before;
        if seen { Ok(format!("{effects} {what}")) } else { Err(format!("nobody used it: no {what}")) }
    }
}

/// That a process which was waited for is gone.
fn gone(pid: i32) -> Seen {
    if PathBuf::from(format!("/proc/{pid}")).exists() {
        return Err(format!("pid {pid} is still there"));
    }
    Ok(format!("pid {pid} is gone"))
}

fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
