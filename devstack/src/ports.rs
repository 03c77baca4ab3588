//! TCP ports on 127.0.0.1: choosing free ones which stay ours while a server is down, and finding out who listens.
//! Never keeps a socket open on a port that a server is to use.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::workdir;

/// Ports outside the kernel's range for outgoing connections: one of those could take the port of a server that
/// is being restarted.
const LOWEST: u16 = 10_000;
const ATTEMPTS_MAX: u32 = 2_000;

/// A port which no other user of the devstack takes while this value lives, whether its server runs or not.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _lock: Option<File>,
}

impl PortLease {
    /// A free port for a server of the caller's: it can be restarted on it, nobody else takes it meanwhile.
    ///
    /// # Errors
    /// If no port is free, or the lock on it cannot be written.
    pub fn reserve() -> Result<Self> {
        Self::free(&workdir::port_locks())
    }

    /// A free port, locked by a file in `lock_dir`.
    pub(crate) fn free(lock_dir: &Path) -> Result<Self> {
        fs::create_dir_all(lock_dir).map_err(Error::io("create", lock_dir))?;
        let range = candidates();
        let mut seed = seed();
        for _ in 0..ATTEMPTS_MAX {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let span = u32::from(range.end - range.start);
            let port = range.start + u16::try_from((seed >> 8) % span).unwrap_or(0);
            if let Some(lease) = Self::try_lease(lock_dir, port)? {
                return Ok(lease);
            }
        }
        Err(Error::NoFreePort { range: format!("{range:?}") })
    }

    /// A port chosen by the user, who is told what it is for if it is taken.
    pub(crate) fn fixed(port: u16, what: &'static str) -> Result<Self> {
        if is_free(port) {
            return Ok(Self { port, _lock: None });
        }
        Err(Error::PortBusy {
            port,
            what,
            owner: listener_of(port).map(|(pid, name)| format!("{name} (pid {pid})")),
        })
    }

    fn try_lease(lock_dir: &Path, port: u16) -> Result<Option<Self>> {
        let path = lock_dir.join(format!("{port}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let ours = file.try_lock().is_ok() && is_free(port);
        Ok(ours.then_some(Self { port, _lock: Some(file) }))
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Whether a server could listen on the port now.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn candidates() -> Range<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    candidates_beside(&text)
}

fn candidates_beside(outgoing: &str) -> Range<u16> {
    let mut bounds = outgoing.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    let (low, high) = (bounds.next().unwrap_or(32_768), bounds.next().unwrap_or(60_999));
    if low > LOWEST + 1_000 {
        LOWEST..low
    } else if high < u16::MAX - 1_000 {
        high + 1..u16::MAX
    } else {
        LOWEST..u16::MAX
    }
}

/// Different for every process and call; quality does not matter, a taken port is simply tried again.
fn seed() -> u32 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    std::process::id().wrapping_mul(2_654_435_761) ^ nanos ^ call.wrapping_mul(97)
}

/// Whether process `pid` listens on `port`.
pub(crate) fn process_listens(pid: i32, port: u16) -> bool {
    let inodes = listening_inodes(port);
    !inodes.is_empty() && has_socket(&PathBuf::from(format!("/proc/{pid}/fd")), &inodes)
}

/// Id and name of the process which listens on `port`; none if it belongs to another user.
pub(crate) fn listener_of(port: u16) -> Option<(i32, String)> {
    let inodes = listening_inodes(port);
    let pid = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .find(|pid| has_socket(&PathBuf::from(format!("/proc/{pid}/fd")), &inodes))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, name.trim().to_owned()))
}

fn listening_inodes(port: u16) -> Vec<String> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| inodes_in(&table, port))
        .collect()
}

/// Link targets (`socket:[INODE]`) of the sockets which listen on `port`, from a table as in `/proc/net/tcp`.
fn inodes_in(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTEN;
        listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn has_socket(fd_dir: &Path, inodes: &[String]) -> bool {
    fs::read_dir(fd_dir).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            fs::read_link(entry.path()).is_ok_and(|to| inodes.iter().any(|i| to.as_os_str() == i.as_str()))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn leases_differ_while_they_live_even_though_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let leases: Vec<_> = (0..50).map(|_| PortLease::free(dir.path()).unwrap()).collect();
        let ports: BTreeSet<_> = leases.iter().map(PortLease::port).collect();
        assert_eq!(ports.len(), leases.len());
    }

    #[test]
    fn a_leased_port_is_refused_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let lease = PortLease::free(dir.path()).unwrap();
        let port = lease.port();
        assert!(PortLease::try_lease(dir.path(), port).unwrap().is_none());
        drop(lease);
        assert!(PortLease::try_lease(dir.path(), port).unwrap().is_some());
    }

    #[test]
    fn a_busy_fixed_port_names_port_purpose_and_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = PortLease::fixed(port, "Kafka").unwrap_err().to_string();
        let pid = std::process::id();
        assert!(text.contains(&format!("port {port} (Kafka) is taken by")), "{text}");
        assert!(text.contains(&format!("(pid {pid})")), "{text}");
    }

    #[test]
    fn the_process_which_listens_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(process_listens(own, port));
        assert!(!process_listens(1, port));
        drop(listener);
        assert!(!process_listens(own, port));
    }

    #[test]
    fn candidates_stay_clear_of_outgoing_connections() {
        assert_eq!(candidates_beside("32768\t60999\n"), 10_000..32_768);
        assert_eq!(candidates_beside("1024 40000"), 40_001..65_535);
        assert_eq!(candidates_beside("1024 65535"), 10_000..65_535);
        assert_eq!(candidates_beside(""), 10_000..32_768);
    }
}
