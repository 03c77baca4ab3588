//! The standard `process_*` metrics, read anew for every scrape. What cannot be read is left out, never made
//! up.

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Times in `/proc` count in 1/100 s (`USER_HZ`) on every architecture that Penstock is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self`; remembers nothing.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(seconds) = cpu_seconds() {
            put(&mut encoder, "cpu_seconds", "User and system CPU time", &ConstCounter::new(seconds))?;
        }
        let gauges = [
            ("resident_memory_bytes", "Resident memory", status_kib(&status, "VmRSS").map(|kib| kib * 1024)),
            ("virtual_memory_bytes", "Virtual memory", status_kib(&status, "VmSize").map(|kib| kib * 1024)),
            ("threads", "Threads", status_kib(&status, "Threads")),
            ("open_fds", "Open file descriptors", open_fds()),
            ("max_fds", "Soft limit of open file descriptors", max_fds()),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                put(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        if let Some(seconds) = start_time_seconds() {
            put(
                &mut encoder,
                "start_time_seconds",
                "Start, since the Unix epoch",
                &ConstGauge::new(seconds),
            )?;
        }
        Ok(())
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let name = format!("process_{name}");
    metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)
}

/// User and system time of this process, in seconds; 0 if it cannot be read.
pub fn own_cpu_s() -> f64 {
    cpu_seconds().unwrap_or(0.0)
}

/// Finer than the 10 ms of `/proc/self/stat`, which counts when CPU time per reading is measured.
fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[allow(clippy::cast_precision_loss, reason = "exact for the next 285 years of CPU time")]
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// The number behind `name` in `/proc/self/status`: kibibytes for memory, plain for counts.
fn status_kib(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Since Linux 6.2 the size of the folder is the number of entries; with 100,000 connections reading it takes
/// long.
fn open_fds() -> Option<i64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return i64::try_from(size).ok();
    }
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the folder that is being read.
    i64::try_from(count.saturating_sub(1)).ok()
}

fn max_fds() -> Option<i64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    i64::try_from(soft).ok()
}

fn start_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + start_ticks(&stat)? / TICKS_PER_SECOND)
}

/// Field 22 of `/proc/self/stat`: ticks from boot to start. Field 2, the name in parentheses, may hold
/// anything.
fn start_ticks(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_ticks(stat), Some(4711.0));
        assert_eq!(start_ticks("42 nonsense"), None);
    }

    #[test]
    fn status_lines_are_found_by_their_whole_name() {
        let status = "VmRSSX:\t 1 kB\nVmRSS:\t  2048 kB\nThreads:\t7\n";
        assert_eq!(status_kib(status, "VmRSS"), Some(2048));
        assert_eq!(status_kib(status, "Threads"), Some(7));
        assert_eq!(status_kib(status, "VmSize"), None);
    }
}
