//! Starting server processes: bound to this process (they are killed when it ends, however it ends) or detached.
//! Never starts a bound child from a thread that may end, because the kernel ties the bond to that thread.
#![allow(unsafe_code, reason = "pre_exec: what runs between fork and exec cannot be said safely")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd;

/// How long a started process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// It gets SIGKILL from the kernel when this process ends, even by kill -9.
    Bound,
    /// It goes on when this process ends: a session of its own, no terminal.
    Detached,
}

/// Starts `command` in a process group of its own; it gets SIGKILL from the kernel when this process ends, even by
/// kill -9. The thread that calls this may end before.
///
/// # Errors
/// If it cannot be started.
pub fn spawn_bound(command: Command) -> io::Result<Child> {
    spawn(command, Lifetime::Bound)
}

struct Job {
    command: Command,
    reply: SyncSender<io::Result<Child>>,
}

/// Starts `command`, in a process group of its own so that Ctrl-C reaches only this process.
pub(crate) fn spawn(mut command: Command, lifetime: Lifetime) -> io::Result<Child> {
    match lifetime {
        Lifetime::Detached => {
            // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
            unsafe { command.pre_exec(|| unistd::setsid().map(drop).map_err(io::Error::from)) };
            command.spawn()
        }
        Lifetime::Bound => {
            command.process_group(0);
            let (reply, child) = sync_channel(1);
            let gone = || io::Error::other("the thread which starts servers is gone");
            spawner()?.send(Job { command, reply }).map_err(|_| gone())?;
            child.recv().map_err(|_| gone())?
        }
    }
}

/// PR_SET_PDEATHSIG fires when the THREAD which forked ends, so one thread forks every bound child and lives as
/// long as the process.
fn spawner() -> io::Result<&'static SyncSender<Job>> {
    static SPAWNER: OnceLock<SyncSender<Job>> = OnceLock::new();
    if let Some(spawner) = SPAWNER.get() {
        return Ok(spawner);
    }
    let (sender, jobs) = sync_channel::<Job>(16);
    thread::Builder::new().name("devstack-spawner".into()).spawn(move || {
        for job in jobs {
            // Nobody waits any more: the child is dropped here, and ends with this process.
            let _ = job.reply.send(fork_bound(job.command));
        }
    })?;
    // Two threads may both come here first; the loser's thread ends as its sender is dropped, before it forked.
    Ok(SPAWNER.get_or_init(|| sender))
}

fn fork_bound(mut command: Command) -> io::Result<Child> {
    let parent = unistd::getpid();
    let bind = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have ended before the bond was made; then nobody would ever send the signal.
        if unistd::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: prctl and getppid are async-signal-safe; the errors made here do not allocate.
    unsafe { command.pre_exec(bind) };
    command.spawn()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::{ProcessId, wait_until};

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("60");
        command
    }

    #[test]
    fn a_bound_child_outlives_the_thread_which_asked_for_it() {
        let mut child = thread::spawn(|| spawn(sleeper(), Lifetime::Bound).unwrap()).join().unwrap();
        let process = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!wait_until(Duration::from_millis(300), || !process.is_alive()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_detached_child_leads_its_own_session() {
        let mut child = spawn(sleeper(), Lifetime::Detached).unwrap();
        let pid = unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert_eq!(unistd::getsid(Some(pid)).unwrap(), pid);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_program_which_does_not_exist_is_an_error() {
        assert!(spawn(Command::new("/nonexistent/program"), Lifetime::Bound).is_err());
    }
}
