//! The ledger as a file: appended to while the run goes on, so that it outlives a killed load generator.
//!
//! A line for each reading that has an outcome, in the order of the acknowledgements:
//! `device,sequence,timestamp_ms,sent_us,acked_us,sends,outcome,invalid`. The first line is
//! `#penstock-ledger,1,<start of the run in Unix ms>`. A last line without its end is left out when reading.
//! Readings without an outcome are never in the file, so a ledger that was read back holds holes in their place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use penstock_proto::{DeviceId, Reason};

use crate::ledger::{DeviceLedger, Entry, Ledger, Outcome};

const MAGIC: &str = "#penstock-ledger,1,";
/// Sequence numbers of a device span at most this many, so that a damaged file cannot ask for all memory.
const SPAN_MAX: u64 = 100_000_000;

/// A ledger file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerFileError {
    /// The operating system refused.
    #[error("ledger {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        cause: io::Error,
    },
    /// A line is not one of a ledger.
    #[error("{}:{line}: {why}; a ledger is written by `penstock loadgen run --ledger FILE`", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What was expected.
        why: String,
    },
}

/// Appends readings to a ledger file.
#[derive(Debug)]
pub struct LedgerWriter {
    path: PathBuf,
    file: Mutex<BufWriter<File>>,
}

impl LedgerWriter {
    /// Makes the file; one that exists is replaced.
    ///
    /// # Errors
    /// [`LedgerFileError::Io`].
    pub fn create(path: &Path, started_at_ms: i64) -> Result<Self, LedgerFileError> {
        let create = || {
            let mut file = BufWriter::new(File::create(path)?);
            writeln!(file, "{MAGIC}{started_at_ms}")?;
            file.flush()?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Self { path: path.to_owned(), file: Mutex::new(file) }),
            Err(cause) => Err(LedgerFileError::Io { path: path.to_owned(), cause }),
        }
    }

    /// Appends the outcome of consecutive readings of a device.
    ///
    /// # Errors
    /// [`LedgerFileError::Io`].
    pub fn append(&self, device: DeviceId, sequence: u64, entries: &[Entry]) -> Result<(), LedgerFileError> {
        let mut file = self.file.lock();
        for (sequence, entry) in (sequence..).zip(entries) {
            let Entry { timestamp_ms, sent_us, acked_us, sends, outcome, invalid } = entry;
            let (outcome, invalid) = (outcome.name(), invalid.map_or("", Reason::name));
            writeln!(
                file,
                "{device},{sequence},{timestamp_ms},{sent_us},{acked_us},{sends},{outcome},{invalid}"
            )
            .map_err(|cause| self.io(cause))?;
        }
        Ok(())
    }

    /// Hands what was appended to the operating system; from then on it survives a kill of this process.
    ///
    /// # Errors
    /// [`LedgerFileError::Io`].
    pub fn flush(&self) -> Result<(), LedgerFileError> {
        self.file.lock().flush().map_err(|cause| self.io(cause))
    }

    fn io(&self, cause: io::Error) -> LedgerFileError {
        LedgerFileError::Io { path: self.path.clone(), cause }
    }
}

/// Reads a ledger file.
///
/// # Errors
/// [`LedgerFileError`].
pub fn read_ledger(path: &Path) -> Result<Ledger, LedgerFileError> {
    let io = |cause| LedgerFileError::Io { path: path.to_owned(), cause };
    let content =
        |line, why: &str| LedgerFileError::Content { path: path.to_owned(), line, why: why.to_owned() };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut text = String::new();
    reader.read_line(&mut text).map_err(io)?;
    let started_at_ms = text.strip_prefix(MAGIC).and_then(|rest| rest.trim_end().parse().ok());
    let started_at_ms = started_at_ms.ok_or_else(|| content(1, "not a ledger file"))?;
    let mut devices: BTreeMap<DeviceId, Vec<(u64, Entry)>> = BTreeMap::new();
    for line in 2.. {
        text.clear();
        reader.read_line(&mut text).map_err(io)?;
        // Without its end, the line was cut off when the writer died (or the file is at its end).
        let Some(fields) = text.strip_suffix('\n') else { break };
        let (device, sequence, entry) =
            parse(fields).ok_or_else(|| content(line, "expected 8 fields of a reading"))?;
        devices.entry(device).or_default().push((sequence, entry));
    }
    let fill = |(device, entries)| fill(device, entries).map_err(|why| content(0, &why));
    let devices = devices.into_iter().map(fill).collect::<Result<_, _>>()?;
    Ok(Ledger { started_at_ms, devices })
}

fn parse(line: &str) -> Option<(DeviceId, u64, Entry)> {
    let mut fields = line.split(',');
    let mut field = || fields.next();
    let device = field()?.parse().ok()?;
    let sequence = field()?.parse().ok()?;
    let entry = Entry {
        timestamp_ms: field()?.parse().ok()?,
        sent_us: field()?.parse().ok()?,
        acked_us: field()?.parse().ok()?,
        sends: field()?.parse().ok()?,
        outcome: Outcome::from_name(field()?)?,
        invalid: match field()? {
            "" => None,
            name => Some(Reason::from_name(name)?),
        },
    };
    fields.next().is_none().then_some((device, sequence, entry))
}

fn fill(device: DeviceId, mut entries: Vec<(u64, Entry)>) -> Result<DeviceLedger, String> {
    entries.sort_unstable_by_key(|(sequence, _)| *sequence);
    let first = entries.first().map_or(0, |(sequence, _)| *sequence);
    let mut ledger = DeviceLedger::new(device, first);
    for (sequence, entry) in entries {
        let position = sequence - first;
        if position >= SPAN_MAX {
            return Err(format!("sequence numbers of {device} span more than {SPAN_MAX}"));
        }
        let position = usize::try_from(position).map_err(|error| error.to_string())?;
        if position < ledger.entries.len() {
            return Err(format!("sequence number {sequence} of {device} stands twice"));
        }
        ledger.entries.resize(position, Entry::HOLE);
        ledger.entries.push(entry);
    }
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let outcome =
            prop_oneof![Just(Outcome::Acknowledged), Just(Outcome::DeadLettered), Just(Outcome::Refused)];
        let invalid = proptest::option::of(proptest::sample::select(Reason::ALL));
        (any::<i64>(), any::<u64>(), any::<u64>(), 1..=u16::MAX, outcome, invalid).prop_map(
            |(timestamp_ms, sent_us, acked_us, sends, outcome, invalid)| Entry {
                timestamp_ms,
                sent_us,
                acked_us,
                sends,
                outcome,
                invalid,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_appended_reads_back(
            started_at_ms: i64,
            first in 0u64..1 << 40,
            entries in proptest::collection::vec(proptest::option::weighted(0.8, entry()), 1..50),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ledger.csv");
            let device = DeviceId::from_bytes([7; 16]);
            let writer = LedgerWriter::create(&path, started_at_ms).unwrap();
            let with_outcome = entries.iter().enumerate().filter_map(|(at, entry)| Some((at, entry.as_ref()?)));
            // Acknowledgements of a device may come in any order.
            for (at, entry) in with_outcome.clone().collect::<Vec<_>>().into_iter().rev() {
                writer.append(device, first + at as u64, std::slice::from_ref(entry)).unwrap();
            }
            writer.flush().unwrap();
            let ledger = read_ledger(&path).unwrap();
            prop_assert_eq!(ledger.started_at_ms, started_at_ms);
            let read: Vec<_> = ledger.entries().filter(|(_, _, entry)| entry.sends > 0).collect();
            let expected: Vec<_> =
                with_outcome.map(|(at, entry)| (device, first + at as u64, entry)).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.csv");
        let writer = LedgerWriter::create(&path, 5).unwrap();
        let entry = Entry { sends: 1, outcome: Outcome::Acknowledged, ..Entry::HOLE };
        writer.append(DeviceId::from_bytes([1; 16]), 1, &[entry; 2]).unwrap();
        writer.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 3]).unwrap();
        assert_eq!(read_ledger(&path).unwrap().devices[0].entries, [entry]);
    }

    #[test]
    fn other_files_are_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.csv");
        std::fs::write(&path, "a,b\n").unwrap();
        assert!(read_ledger(&path).unwrap_err().to_string().contains("ledger.csv:1: not a ledger file"));
        std::fs::write(&path, format!("{MAGIC}1\nx,1\n")).unwrap();
        assert!(read_ledger(&path).unwrap_err().to_string().contains("ledger.csv:2: expected 8 fields"));
        assert!(read_ledger(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
